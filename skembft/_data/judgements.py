"""One validation function: every form of X and y into :class:`RetrievalData`.

Texts and ids go through `check_retrieval_data`, vectors through `check_vector_data`.
Bad input raises an exception that names the row, the value and what to do.
"""

import warnings
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from skembft._data.containers import labels_of, text_columns, to_list, to_rows
from skembft._data.items import all_plain, check_grade, check_item, check_items
from skembft._data.missing import warn_missing
from skembft._data.numbering import Numbering, find_own, said_by
from skembft._data.relevance import JudgedRelevance
from skembft._data.retrieval_data import RetrievalData
from skembft._data.stored_texts import (
    StoredNumbering,
    StoredTexts,
    as_stored,
    digests_of,
    join,
    stored_table,
    stored_texts,
)
from skembft._utils.foreign import to_plain
from skembft._utils.types import Data, Floats, Ints, Item, ItemKind, OwnDocuments

# how many documents each query has (the same number, or a list), those, their grades
_Judged = tuple[int | list[int], Sequence[Item], Floats]


class _Numbered(NamedTuple):
    """Distinct queries and documents, and which of them are where."""

    queries: Sequence[Any]
    documents: Sequence[Any]  # those of y first
    row_query: Ints
    example_document: Ints
    corpus: Ints
    own: Ints  # the document that each distinct query is, or -1
    empty_query: bool  # whether one is the empty text
    empty_document: bool


class _Read(NamedTuple):
    """What the rows say, before anything is numbered."""

    judged: tuple[Sequence[Item], *_Judged]
    n_negatives: int = 0
    is_table: bool = True
    labelled: bool = False


def _read_relevant(
    value: Data, row: int, kind: ItemKind, suffix: str
) -> list[tuple[Item, float]]:
    """Return [(document, grade), …] of one item of y, most relevant first."""
    name = f"y{suffix}[{row}]"
    value = to_plain(value, name)
    if isinstance(value, Mapping):
        graded = [
            (
                check_item(d, f"document of {name}", kind),
                float(g) if type(g) is int else check_grade(g, name, d),
            )
            for d, g in value.items()
        ]
        graded.sort(key=lambda item: -item[1])  # stable: ties keep insertion order
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        documents = dict.fromkeys(check_items(value, name, kind))
        graded = [(document, 1.0) for document in documents]
    else:
        graded = [(check_item(value, name, kind), 1.0)]
    if not graded:
        raise ValueError(
            f"{name} is empty: the query of row {row} has no relevant document. Leave "
            "the row out, or give its document."
        )
    return graded


def check_retrieval_data(
    X: Data,
    y: Data,
    *,
    kind: ItemKind,
    corpus: Data = None,
    name: str = "estimator",
    suffix: str = "",
    own: OwnDocuments = False,
    stored: bool = False,
) -> RetrievalData:
    """Turn every form of texts or ids into a :class:`RetrievalData`.

    Parameters
    ----------
    X, y, corpus : see the guide on data forms
    kind : {"text", "id"}
    name, suffix : str
        Name of the estimator and what follows X, y and corpus ("_val"), for messages.
    own : bool or dict of {query: document}
        The document that a query is itself, where that is not the same text or id.
    stored : bool
        Whether texts of Arrow's tables are to stay where they are.
    """
    read = _read_stored(X, y, suffix) if stored and kind == "text" else None
    if read is None:
        read = _read_items(X, y, kind, name, suffix)
    queries, n_documents, documents, example_grade = read.judged
    if isinstance(queries, StoredTexts) and isinstance(documents, StoredTexts):
        numbered = _number_stored(queries, documents, corpus, suffix, own)
    else:
        numbered = _number_items(queries, documents, corpus, kind, suffix, own)
    row_query, example_document = numbered.row_query, numbered.example_document
    example_row = np.repeat(np.arange(len(queries)), n_documents)
    _warn_empty(numbered)
    if corpus is not None:
        named_by = f"{'X' if read.is_table else 'y'}{suffix}"
        n_judged = int(example_document.max()) + 1
        warn_missing(numbered.documents, n_judged, numbered.corpus, kind, named_by)

    n_distinct = len(numbered.queries), len(numbered.documents)
    relevance = JudgedRelevance.from_triples(
        row_query[example_row],
        example_document,
        example_grade,
        n_distinct,
        numbered.own,
    )
    if relevance.n_judged < len(example_row):  # some pair is judged several times
        if not read.is_table:  # a document counts once among those of a row
            once = _first_of_pairs(example_row, example_document)
            example_row, example_document = example_row[once], example_document[once]
            example_grade = example_grade[once]
        example_grade = _highest_grades(
            row_query[example_row], example_document, example_grade
        )
    return RetrievalData(
        queries=numbered.queries,
        documents=numbered.documents,
        relevance=relevance,
        row_query=row_query,
        example_row=example_row,
        example_document=example_document,
        example_grade=example_grade,
        pool=np.arange(n_distinct[1]),
        corpus=numbered.corpus,
        n_negatives=read.n_negatives or int(relevance.negative.nnz > 0),
        labelled=read.labelled,
    )


def _number_items(
    queries: Sequence[Item],
    documents: Sequence[Item],
    corpus: Data,
    kind: ItemKind,
    suffix: str,
    own: OwnDocuments,
) -> _Numbered:
    query_index, document_index = Numbering(), Numbering()
    row_query = query_index.of(queries)
    example_document = document_index.of(documents)
    others = [] if corpus is None else check_items(corpus, f"corpus{suffix}", kind)
    named = document_index.of(others)
    return _Numbered(
        list(query_index),
        list(document_index),
        row_query,
        example_document,
        named,
        find_own(query_index, document_index, own),
        "" in query_index,
        "" in document_index,
    )


def _number_stored(
    queries: StoredTexts,
    documents: StoredTexts,
    corpus: Data,
    suffix: str,
    own: OwnDocuments,
) -> _Numbered:
    n_examples = len(documents)
    if corpus is not None:
        others = stored_texts(corpus)
        if others is None:
            others = as_stored(check_items(corpus, f"corpus{suffix}", "text"))
        documents = join([documents, others])
    query_index, document_index = StoredNumbering(queries), StoredNumbering(documents)
    found = document_index.find(query_index.digests)
    if isinstance(own, Mapping):
        distinct = query_index.distinct
        names = (
            name if isinstance(name, str) else query  # as if nothing had been said
            for query, name in zip(distinct, said_by(own, distinct), strict=True)
        )
        said = document_index.find(digests_of(names, len(query_index)))
        found = np.where(said >= 0, said, found)
    return _Numbered(
        query_index.distinct,
        document_index.distinct,
        query_index.numbers,
        document_index.numbers[:n_examples],
        document_index.numbers[n_examples:],
        found,
        "" in query_index,
        "" in document_index,
    )


def _first_of_pairs(rows: Ints, documents: Ints) -> Ints:
    """Indices of the examples that do not repeat a document of their row."""
    keys = rows * (documents.max() + 1) + documents
    return np.sort(np.unique(keys, return_index=True)[1])


def _highest_grades(queries: Ints, documents: Ints, grades: Floats) -> Floats:
    """Where a pair is judged several times, its highest grade counts each time."""
    keys = queries * (documents.max() + 1) + documents
    _, pair = np.unique(keys, return_inverse=True)
    highest = np.full(pair.max() + 1, -np.inf)
    np.maximum.at(highest, pair, grades)
    return highest[pair]


def _read_items(X: Data, y: Data, kind: ItemKind, name: str, suffix: str) -> _Read:
    rows, is_table = to_rows(X, f"X{suffix}")
    if is_table:
        y, name_of_y = labels_of(X, y, f"X{suffix}")
        return _read_table(rows, y, kind, suffix, name_of_y)
    if y is None:
        check_items(rows, f"X{suffix}", kind)
        x, y = f"X{suffix}", f"y{suffix}"
        raise ValueError(
            f"{name} requires y to be passed, but the target y is None: {y} holds the "
            f"relevant document(s) of every query in {x}. Without {y}, {x} is a table "
            "of (query, document) rows."
        )
    return _Read(_read_queries(rows, y, kind, suffix), is_table=False)


def _read_stored(X: Data, y: Data, suffix: str) -> _Read | None:
    """The same of texts in Arrow's columns, or None where they are not."""
    table = stored_table(X)
    if table is None:
        queries, documents = stored_texts(X), stored_texts(y)
        if not queries or not documents or len(queries) != len(documents):
            return None
        judged = queries, 1, documents, np.ones(len(documents))
        return _Read(judged, is_table=False)
    y, name_of_y = labels_of(X, y, f"X{suffix}")
    columns = [table[name] for name in text_columns(list(table), f"X{suffix}")]
    texts = [column for column in columns if column]
    if len(texts) < len(columns):
        return None
    n_rows, width = len(texts[0]), len(texts)
    grades = _grades_of_table(n_rows, width, y, suffix, name_of_y)
    documents = join(texts[1:], by_row=True)
    return _Read(
        (texts[0], width - 1, documents, grades), width - 2, labelled=y is not None
    )


def _read_queries(
    rows: list[Any], y: Data, kind: ItemKind, suffix: str
) -> tuple[list[Item], *_Judged]:
    """Return the queries, how many documents each has, those, and their grades."""
    relevant = to_list(y, f"y{suffix}")
    if len(relevant) != len(rows):
        raise ValueError(
            f"X{suffix} has {len(rows)} queries, but y{suffix} has {len(relevant)} "
            "items: y holds the relevant document(s) of every query."
        )
    queries = check_items(rows, f"X{suffix}", kind)
    judged = _read_plain(relevant, kind)
    if judged is None:  # several kinds of rows, or something to convert or to refuse
        graded = [
            _read_relevant(value, i, kind, suffix) for i, value in enumerate(relevant)
        ]
        documents, grades = zip(*chain.from_iterable(graded), strict=True)
        judged = list(map(len, graded)), documents, np.asarray(grades)
    return queries, *judged


def _read_plain(relevant: list[Any], kind: ItemKind) -> _Judged | None:
    """Read a y of plain items, lists or dicts without a loop over them, else None."""
    if all_plain(relevant, kind):
        return 1, relevant, np.ones(len(relevant))
    types = set(map(type, relevant))
    if types not in ({list}, {dict}) or not all(relevant):
        return None
    documents = list(chain.from_iterable(relevant))
    if not all_plain(documents, kind):
        return None
    n_documents = list(map(len, relevant))
    if types == {list}:
        return n_documents, documents, np.ones(len(documents))
    numbers = list(chain.from_iterable(map(dict.values, relevant)))
    if not set(map(type, numbers)) <= {int, float}:
        return None
    grades = np.array(numbers, dtype=np.float64)
    if not np.isfinite(grades).all():
        return None
    # of a row the most relevant first, ties in insertion order
    order = np.lexsort((-grades, np.repeat(np.arange(len(relevant)), n_documents)))
    return n_documents, [documents[i] for i in order.tolist()], grades[order]


def _read_table(
    rows: list[Any], y: Data, kind: ItemKind, suffix: str, name_of_y: str
) -> _Read:
    width = len(rows[0])
    cells = [check_items(row, f"X{suffix}[{i}]", kind) for i, row in enumerate(rows)]
    queries = [row[0] for row in cells]
    documents = [document for row in cells for document in row[1:]]
    grades = _grades_of_table(len(rows), width, y, suffix, name_of_y)
    judged = queries, width - 1, documents, grades
    return _Read(judged, width - 2, labelled=y is not None)


def _grades_of_table(
    n_rows: int, width: int, y: Data, suffix: str, name_of_y: str
) -> Floats:
    """The grades of the documents of a table, row by row."""
    if y is None:
        return np.tile([1.0] + [0.0] * (width - 2), n_rows)
    if width != 2:
        raise ValueError(
            f"y{suffix} was passed with a table of {width} columns; labels go with "
            "(query, document) pairs. Pass y=None for explicit negatives."
        )
    labels = to_list(y, name_of_y)
    if len(labels) != n_rows:
        raise ValueError(
            f"X{suffix} has {n_rows} rows, but y{suffix} has {len(labels)} labels."
        )
    return np.array([check_grade(v, f"{name_of_y}[{i}]") for i, v in enumerate(labels)])


def _warn_empty(numbered: _Numbered) -> None:
    kinds = {"query": numbered.empty_query, "document": numbered.empty_document}
    what = [kind for kind, is_there in kinds.items() if is_there]
    if what:
        warnings.warn(
            f"An empty string is among the data as a {' and a '.join(what)}; it is "
            "kept and encoded like any text.",
            UserWarning,
            stacklevel=4,
        )
