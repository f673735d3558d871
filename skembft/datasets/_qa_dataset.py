"""Read and write the JSON files of LlamaIndex's EmbeddingQAFinetuneDataset."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, overload

from skembft._data.containers import to_list
from skembft._data.items import check_grade, check_items
from skembft._utils import types
from skembft._utils.atomic import write_json
from skembft._utils.foreign import to_plain
from skembft._utils.types import Data
from skembft.datasets._bunch import data_bunch, own_documents
from skembft.datasets._known import Judgement, known_judgements
from skembft.datasets._lines import opened


@overload
def load_qa_dataset(
    path: types.Path, *, strict: bool = False, return_X_y: Literal[True]
) -> tuple[list[str], list[list[str]]]: ...
@overload
def load_qa_dataset(
    path: types.Path, *, strict: bool = False, return_X_y: bool = False
) -> Any: ...
def load_qa_dataset(
    path: types.Path, *, strict: bool = False, return_X_y: bool = False
) -> Any:
    """Load a data set that LlamaIndex's ``EmbeddingQAFinetuneDataset`` saved.

    Parameters
    ----------
    path : str or path-like
        A JSON file: ``{"queries": {id: text}, "corpus": {id: text},
        "relevant_docs": {query id: [document id, ...]}, "mode": "text"}``; gzip is
        decompressed.
    strict : bool, default=False
        Refuse a `relevant_docs` that names queries or documents which the file lacks.
        By default they are left out with a warning.
    return_X_y : bool, default=False
        Return ``(queries, relevant)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        `queries` (list of str, those that have relevant documents), `relevant` (list
        of lists of str, most relevant first), `corpus` (list of str), `query_ids`
        and `corpus_ids` (lists of str, parallel to `queries` and `corpus`),
        `own_documents` (dict of {query: document}, of the queries whose id is the id
        of a document: they are documents themselves), `DESCR` (str). Everything is in
        the order of the file.
    (queries, relevant) : tuple of two lists
        If `return_X_y` is True.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file has another structure, or no query is left with a document; with
        `strict` if it names an unknown query or document.

    Warns
    -----
    UserWarning
        Where `relevant_docs` names unknown documents or queries. They are left out,
        and so are the queries that have no other; the warning counts and names both.

    See Also
    --------
    save_qa_dataset : Write such a file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skembft.datasets import load_qa_dataset, save_qa_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "train.json"
    ...     save_qa_dataset(path, ["colour of apples"], ["red"], ["blue", "red"])
    ...     data = load_qa_dataset(path)
    >>> data.queries, data.relevant, data.corpus
    (['colour of apples'], [['red']], ['blue', 'red'])
    """
    path = Path(path)
    with opened(path) as file:
        data = file.read()
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        if not data.strip():
            raise ValueError(f"{path} is empty.") from error
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object.")
    if content.get("mode", "text") != "text":
        raise ValueError(
            f"{path}: the mode is {content['mode']!r}; only 'text' is known."
        )
    queries = _read_mapping(path, content, "queries", str)
    documents = _read_mapping(path, content, "corpus", str)
    relevant_ids = _read_mapping(path, content, "relevant_docs", list)
    judged = known_judgements(
        _judgements(path, relevant_ids),
        queries,
        documents,
        path=path,
        sources=("queries", "corpus"),
        strict=strict,
    )
    query_ids = [query_id for query_id in queries if query_id in judged]
    return data_bunch(
        [queries[query_id] for query_id in query_ids],
        [[documents[i] for i, _ in judged[query_id]] for query_id in query_ids],
        list(documents.values()),
        query_ids,
        list(documents),
        own_documents(query_ids, queries, documents),
        f"{path.name}: {len(query_ids)} judged queries, {len(documents)} documents.",
        return_X_y,
    )


def save_qa_dataset(
    path: types.Path, queries: Data, relevant: Data, corpus: Data
) -> None:
    """Save a data set as LlamaIndex's ``EmbeddingQAFinetuneDataset`` does.

    The file is written whole or not at all. Its ids are ``"q0"``, ``"q1"``, … and
    ``"d0"``, ``"d1"``, …; documents with the same text are one document.

    Parameters
    ----------
    path : str or path-like
        The JSON file to write; an existing one is replaced.
    queries : list of str
        The queries.
    relevant : list of str, list of str lists, or list of dict
        What is relevant to each query: a document, a list of documents (most
        relevant first) or a ``{document: grade}`` dict. Of a dict the documents
        with a grade above 0 are written, the highest grade first.
    corpus : list of str
        The documents. Relevant documents that it lacks are added at its end.

    Raises
    ------
    TypeError
        If a query or a document is not a str, or a grade is not a number.
    ValueError
        If `queries` and `relevant` differ in length, a query has no relevant document,
        or a text holds half of a surrogate pair.
    FileNotFoundError
        If the folder of `path` does not exist.

    See Also
    --------
    load_qa_dataset : Read such a file.

    Notes
    -----
    The file is UTF-8, with every text as it reads. LlamaIndex itself opens it in the
    encoding of the system, which on Windows is another one unless Python runs with
    ``PYTHONUTF8=1``.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skembft.datasets import load_qa_dataset, save_qa_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "train.json"
    ...     save_qa_dataset(path, ["a fruit"], [{"plum": 1, "pear": 2}], ["stone"])
    ...     load_qa_dataset(path, return_X_y=True)
    (['a fruit'], [['pear', 'plum']])
    """
    path = Path(path)
    queries = check_items(queries, "queries", "text")
    corpus = check_items(corpus, "corpus", "text")
    relevant = to_list(relevant, "relevant")
    if len(queries) != len(relevant):
        raise ValueError(
            f"queries and relevant differ in length: {len(queries)} and "
            f"{len(relevant)}. Pass one item of relevant for each query."
        )
    relevant = [_positives(f"relevant[{i}]", item) for i, item in enumerate(relevant)]
    distinct = dict.fromkeys([*corpus, *(text for row in relevant for text in row)])
    ids = {text: f"d{i}" for i, text in enumerate(distinct)}
    content = {
        "queries": {f"q{i}": query for i, query in enumerate(queries)},
        "corpus": {document_id: text for text, document_id in ids.items()},
        "relevant_docs": {
            f"q{i}": [ids[text] for text in row] for i, row in enumerate(relevant)
        },
        "mode": "text",
    }
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {path}: its folder does not exist.")
    write_json(path, content, ensure_ascii=False)


def _read_mapping(
    path: Path, content: dict[str, Any], key: str, kind: type
) -> dict[str, Any]:
    """Return content[key], checked to be an object whose values are of `kind`."""
    mapping = content.get(key)
    if not isinstance(mapping, dict):
        got = f"a {type(mapping).__name__}" if key in content else "no such key"
        raise ValueError(f"{path}: {key!r} must be an object, got {got}.")
    for identifier, value in mapping.items():
        if not isinstance(value, kind):
            raise ValueError(
                f"{path}: {key}[{identifier!r}] must be a {kind.__name__}, "
                f"got {value!r:.80}."
            )
    return mapping


def _judgements(path: Path, relevant_ids: dict[str, list[Any]]) -> Iterator[Judgement]:
    for query_id, document_ids in relevant_ids.items():
        where = f"{path}: relevant_docs[{query_id!r}]"
        for document_id in document_ids:
            if not isinstance(document_id, str):
                raise ValueError(
                    f"{where} holds {document_id!r:.80}; ids of documents are strings."
                )
            yield where, query_id, document_id, 1


def _positives(name: str, item: Data) -> list[str]:
    """Return the distinct relevant documents of a query, most relevant first."""
    item = to_plain(item, name)
    if isinstance(item, Mapping):
        grades = {text: check_grade(item[text], name, text) for text in item}
        positive = [text for text in grades if grades[text] > 0]
        item = sorted(positive, key=grades.__getitem__, reverse=True)
    if isinstance(item, str):
        item = [item]
    documents = list(dict.fromkeys(check_items(item, name, "text")))
    if not documents:
        raise ValueError(
            f"{name} has no relevant document. Leave this query out of queries "
            "and relevant."
        )
    return documents
