"""Read retrieval data from a folder in BEIR's layout."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, overload

from skembft._utils import types
from skembft._utils.messages import shorten
from skembft.datasets._bunch import data_bunch, own_documents
from skembft.datasets._known import Judgement, known_judgements
from skembft.datasets._lines import numbered_lines, parse_json


@overload
def load_beir(
    path: types.Path,
    split: str = "test",
    *,
    strict: bool = False,
    return_X_y: Literal[True],
) -> tuple[list[str], list[dict[str, int]]]: ...
@overload
def load_beir(
    path: types.Path,
    split: str = "test",
    *,
    strict: bool = False,
    return_X_y: bool = False,
) -> Any: ...
def load_beir(
    path: types.Path,
    split: str = "test",
    *,
    strict: bool = False,
    return_X_y: bool = False,
) -> Any:
    """Load a retrieval data set from a folder in BEIR's layout.

    The folder holds ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``
    (with a header line), see [1]_.

    Parameters
    ----------
    path : str or path-like
        The folder.
    split : str, default="test"
        The relevance judgements to read; only queries judged in them are returned.
    strict : bool, default=False
        Refuse judgements of documents that ``corpus.jsonl`` lacks, and of queries that
        ``queries.jsonl`` lacks. By default they are left out with a warning.
    return_X_y : bool, default=False
        Return ``(queries, relevant)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        `queries` (list of str, the judged queries in the order of
        ``queries.jsonl``), `relevant` (list of ``{document: grade}`` dicts),
        `corpus` (list of str, every ``(title + " " + text).strip()`` in the order of
        ``corpus.jsonl``, repeats included), `query_ids` and `corpus_ids` (lists of
        str, parallel to `queries` and `corpus`), `own_documents` (dict of {query:
        document}, see Notes), `DESCR` (str). Grades are the integers of the file,
        zeros included; documents with the same text are one document, with the
        highest of their grades.
    (queries, relevant) : tuple of two lists
        If `return_X_y` is True.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If the folder or one of its files is missing, or is a file.
    ValueError
        If a file is empty or a line is malformed, or no query is left with a relevant
        document; with `strict` if a judgement names an unknown query or document.

    Warns
    -----
    UserWarning
        Where judgements name unknown documents or queries, as those of ArguAna do, or
        of a corpus that was cut down. They are left out, and so are the queries that
        lose a judgement and have no relevant document; the warning counts and names
        both. BEIR's own evaluation counts such queries, with 0.

    Notes
    -----
    In some data sets queries are documents themselves (ArguAna, Quora): they have the
    same id, and are not to retrieve themselves. Their texts differ by the title.
    `own_documents` has the document of every returned query whose id is the id of a
    document; of queries with the same text it is the first one's. It is empty where
    there is none. Where both sides merely count 1, 2, 3, … it means nothing.

    References
    ----------
    .. [1] Thakur et al., "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation
       of Information Retrieval Models", 2021, arXiv:2104.08663.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skembft.datasets import load_beir
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = pathlib.Path(name)
    ...     (folder / "qrels").mkdir()
    ...     files = {
    ...         "corpus.jsonl": '{"_id": "d1", "title": "Apples", "text": "are red"}',
    ...         "queries.jsonl": '{"_id": "q1", "text": "colour of apples"}',
    ...         "qrels/test.tsv": "query-id\\tcorpus-id\\tscore\\nq1\\td1\\t2",
    ...     }
    ...     for file, text in files.items():
    ...         _ = (folder / file).write_text(text)
    ...     data = load_beir(folder)
    >>> data.queries, data.relevant, data.corpus
    (['colour of apples'], [{'Apples are red': 2}], ['Apples are red'])
    """
    path = Path(path)
    if path.is_file():
        raise NotADirectoryError(f"{path} is a file; pass the folder, unpacked.")
    qrels_path = path / "qrels" / f"{split}.tsv"
    if not qrels_path.is_file():
        splits = sorted(file.stem for file in path.glob("qrels/*.tsv"))
        raise FileNotFoundError(
            f"There is no file {qrels_path}. The splits of {path} are: "
            f"{', '.join(splits) or 'none'}."
        )
    documents = _read_jsonl(path / "corpus.jsonl", with_title=True)
    queries = _read_jsonl(path / "queries.jsonl", with_title=False)
    judged = known_judgements(
        _read_qrels(qrels_path),
        queries,
        documents,
        path=qrels_path,
        sources=("queries.jsonl", "corpus.jsonl"),
        strict=strict,
    )
    query_ids = [query_id for query_id in queries if query_id in judged]
    return data_bunch(
        [queries[query_id] for query_id in query_ids],
        [_highest_grades(judged[query_id], documents) for query_id in query_ids],
        list(documents.values()),
        query_ids,
        list(documents),
        own_documents(query_ids, queries, documents),
        f"{path.name}, {split} split: {len(query_ids)} judged queries, "
        f"{len(documents)} documents.",
        return_X_y,
    )


def _highest_grades(
    judged: list[tuple[str, int]], documents: dict[str, str]
) -> dict[str, int]:
    """Return {document: grade}, of documents with the same text the highest grade."""
    grades: dict[str, int] = {}
    for document_id, grade in judged:
        text = documents[document_id]
        grades[text] = max(grade, grades.get(text, grade))
    return grades


def _read_jsonl(path: Path, with_title: bool) -> dict[str, str]:
    """Read {id: text} from a file with one JSON object in a line."""
    texts = {}
    for where, line in numbered_lines(path):
        record = parse_json(line)
        match record:
            case {"_id": str(identifier), "text": str(text)}:
                title = _title(record, where) if with_title else ""
            case _:
                raise ValueError(
                    f'{where} must be a JSON object with the strings "_id" and '
                    f'"text", got {line!r:.80}.'
                )
        if identifier in texts:
            raise ValueError(f"{where} repeats the id {identifier!r}.")
        texts[identifier] = f"{title} {text}".strip() if with_title else text
    if not texts:
        raise ValueError(f"{path} holds no {'document' if with_title else 'query'}.")
    return texts


def _title(record: dict[str, Any], where: str) -> str:
    """The title of a document; pandas writes a missing one as NaN."""
    title = record.get("title")
    if title is None or title != title:
        return ""
    if not isinstance(title, str):
        raise ValueError(f"{where} has a title that is no string, {shorten(title)}.")
    return title


def _read_qrels(path: Path) -> Iterator[Judgement]:
    """Yield the judgements of a file of three tabbed columns."""
    lines = numbered_lines(path)
    for where, header in itertools.islice(lines, 1):
        columns = header.split("\t")
        if len(columns) != 3 or columns[-1].lstrip("-").isdigit():
            raise ValueError(
                f"{where} must be a header such as 'query-id\\tcorpus-id\\tscore', "
                f"got {header!r:.80}."
            )
    for where, line in lines:
        try:
            query_id, document_id, column = line.split("\t")
            grade = int(column)
        except ValueError as error:
            raise ValueError(
                f"{where} must be query id, document id and integer grade, "
                f"separated by tabs, got {line!r:.80}."
            ) from error
        yield where, query_id, document_id, grade
