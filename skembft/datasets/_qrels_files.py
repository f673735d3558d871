"""Read retrieval data from files in BEIR's layout and TREC's format."""

import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, overload

from skembft._utils import types
from skembft.datasets._bunch import data_bunch


@overload
def load_beir(
    path: types.Path, split: str = "test", *, return_X_y: Literal[True]
) -> tuple[list[str], list[dict[str, int]]]: ...
@overload
def load_beir(
    path: types.Path, split: str = "test", *, return_X_y: bool = False
) -> Any: ...
def load_beir(
    path: types.Path, split: str = "test", *, return_X_y: bool = False
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
    return_X_y : bool, default=False
        Return ``(queries, relevant)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        `queries` (list of str, the judged queries in the order of
        ``queries.jsonl``), `relevant` (list of ``{document: grade}`` dicts),
        `corpus` (list of str, every ``(title + " " + text).strip()`` in the order of
        ``corpus.jsonl``, repeats included), `query_ids` and `corpus_ids` (lists of
        str, parallel to `queries` and `corpus`), `DESCR` (str). Grades are the
        integers of the file, zeros included; documents with the same text are one
        document, with the highest of their grades.
    (queries, relevant) : tuple of two lists
        If `return_X_y` is True.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If a line is malformed, or a judgement names an unknown query or document.

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
    qrels_path = path / "qrels" / f"{split}.tsv"
    if not qrels_path.is_file():
        splits = sorted(file.stem for file in path.glob("qrels/*.tsv"))
        raise FileNotFoundError(
            f"There is no file {qrels_path}. The splits of {path} are: "
            f"{', '.join(splits) or 'none'}."
        )
    documents = _read_jsonl(path / "corpus.jsonl", with_title=True)
    queries = _read_jsonl(path / "queries.jsonl", with_title=False)
    qrels = _read_qrels(qrels_path, queries, documents)
    query_ids = [query_id for query_id in queries if query_id in qrels]
    return data_bunch(
        [queries[query_id] for query_id in query_ids],
        [qrels[query_id] for query_id in query_ids],
        list(documents.values()),
        query_ids,
        list(documents),
        f"{path.name}, {split} split: {len(query_ids)} judged queries, "
        f"{len(documents)} documents.",
        return_X_y,
    )


def load_trec_qrels(path: types.Path) -> dict[str, dict[str, int]]:
    """Load relevance judgements from a file in TREC's format.

    Each line has four columns, separated by spaces or tabs: query id, iteration (which
    is not read), document id and grade. What :func:`skembft.metrics.evaluate` takes as
    `qrels`.

    Parameters
    ----------
    path : str or path-like
        The file; it is decompressed if its name ends in ``.gz``.

    Returns
    -------
    qrels : dict of {query id: {document id: grade}}
        Ids are str, grades int, zeros and below included; in the order of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line has other columns or judges a document for the second time, or if
        there is no judgement. trec_eval refuses these files too. As there, lines that
        begin with # are skipped.

    References
    ----------
    trec_eval, https://github.com/usnistgov/trec_eval

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skembft.datasets import load_trec_qrels
    >>> from skembft.metrics import evaluate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "qrels.txt"
    ...     _ = path.write_text("q1 0 d1 2\\nq1 0 d2 0\\nq2 0 d2 1\\n")
    ...     qrels = load_trec_qrels(path)
    >>> qrels
    {'q1': {'d1': 2, 'd2': 0}, 'q2': {'d2': 1}}
    >>> evaluate(qrels, {"q1": {"d1": 0.9}, "q2": {"d1": 0.9, "d2": 0.8}}, "mrr@10")
    {'mrr@10': 0.75}
    """
    path = Path(path)
    qrels: dict[str, dict[str, int]] = {}
    for where, line in _numbered_lines(path):
        if line.startswith("#"):
            continue
        try:
            query_id, _, document_id, column = line.split()
            grade = int(column)
        except ValueError as error:
            raise ValueError(
                f"{where} must be query id, iteration, document id and integer grade, "
                f"separated by spaces or tabs, got {line!r:.80}."
            ) from error
        judged = qrels.setdefault(query_id, {})
        if document_id in judged:
            raise ValueError(
                f"{where} judges the document {document_id!r} for the query "
                f"{query_id!r} a second time. Keep one of the lines."
            )
        judged[document_id] = grade
    if not qrels:
        raise ValueError(f"{path} holds no judgement.")
    return qrels


def _read_jsonl(path: Path, with_title: bool) -> dict[str, str]:
    """Read {id: text} from a file with one JSON object in a line."""
    texts = {}
    for where, line in _numbered_lines(path):
        try:
            record = json.loads(line)
        except ValueError:
            record = None  # the error below shows the line
        match record:
            case {"_id": str(identifier), "text": str(text)}:
                title = (record.get("title") or "") if with_title else ""
            case _:
                raise ValueError(
                    f'{where} must be a JSON object with the strings "_id" and '
                    f'"text", got {line!r:.80}.'
                )
        if identifier in texts:
            raise ValueError(f"{where} repeats the id {identifier!r}.")
        texts[identifier] = f"{title} {text}".strip() if with_title else text
    return texts


def _read_qrels(
    path: Path, queries: dict[str, str], documents: dict[str, str]
) -> dict[str, dict[str, int]]:
    """Read {query id: {document: grade}} from a file of three tabbed columns."""
    qrels: dict[str, dict[str, int]] = {}
    lines = _numbered_lines(path)
    for where, header in itertools.islice(lines, 1):
        if header.split("\t")[-1].lstrip("-").isdigit():
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
        if query_id not in queries:
            raise ValueError(
                f"{where} names the query {query_id!r}, not in queries.jsonl."
            )
        if document_id not in documents:
            raise ValueError(
                f"{where} names the document {document_id!r}, not in corpus.jsonl."
            )
        grades = qrels.setdefault(query_id, {})
        text = documents[document_id]
        grades[text] = max(grade, grades.get(text, grade))
    return qrels


def _numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ("file, line number", line) for the lines that are not blank."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}"
            try:
                text = line.decode("utf-8-sig").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{where} is not UTF-8: {error}") from error
            if text.strip():
                yield where, text
