"""One validation function: every form of X and y into :class:`RetrievalData`.

Texts and ids go through `check_retrieval_data`, vectors through `check_vector_data`.
Bad input raises an exception that names the row, the value and what to do.
"""

import numbers
import warnings
from collections.abc import Mapping
from hashlib import blake2b
from itertools import chain

import numpy as np

from skembft._data import RetrievalData
from skembft._relevance import JudgedRelevance, LabelRelevance
from skembft._utils import check_finite, shorten

# what nearly all items are, and needs no further check
_PLAIN = {"text": {str}, "id": {str, int}}


def to_list(values, name):
    """Return any 1-D or 2-D container of items as a plain list of Python objects.

    Lists, tuples, numpy arrays, pandas and polars Series, pyarrow columns and
    datasets' columns give the same result. What has no order or no length is an error.
    """
    if type(values) in (list, tuple):  # also the documents of every row of y
        return list(values)
    if isinstance(values, str | bytes):
        raise TypeError(
            f"{name} is the single {type(values).__name__} {shorten(values)}; pass a "
            f"list: [{name}]."
        )
    if isinstance(values, Mapping):
        raise TypeError(
            f"{name} is a dict; pass a list with one item a row"
            + (
                ": y = [relevant[query] for query in X]."
                if name.startswith("y")
                else "."
            )
        )
    if isinstance(values, set | frozenset):
        raise TypeError(
            f"{name} is a set, whose order is not reproducible; pass sorted({name})."
        )
    if _is_frame(values):
        raise TypeError(
            f"{name} is a {type(values).__name__}; pass one column of it, for example "
            f'{name}["document"].'
        )
    if not hasattr(values, "__len__") and hasattr(values, "__array__"):
        values = np.asarray(values)
    if values is None or not hasattr(values, "__len__"):
        raise TypeError(
            f"{name} must be a list, array or Series, got {type(values).__name__}"
            + (f"; pass list({name})." if hasattr(values, "__iter__") else ".")
        )
    if isinstance(values, np.ndarray) and values.ndim == 0:
        raise TypeError(f"{name} is a 0-d array; pass a list.")
    # of pyarrow; of numpy and pandas; of polars
    for method in ("to_pylist", "tolist", "to_list"):
        if hasattr(values, method):
            return getattr(values, method)()
    return list(values)


def _is_frame(values):
    columns = hasattr(values, "columns") or hasattr(values, "column_names")
    return columns and not isinstance(values, str)


def _frame_rows(frame, X):
    """Rows (query, document, negative, …) of a DataFrame with those columns."""
    names = getattr(frame, "column_names", None) or list(frame.columns)
    negatives = sorted(
        (n for n in names if str(n).startswith("negative")), key=_natural_key
    )
    unknown = [n for n in names if n not in ("query", "document", *negatives)]
    missing = [n for n in ("query", "document") if n not in names]
    if missing or unknown:
        raise ValueError(
            "A table of pairs holds the columns 'query', 'document' and, for explicit "
            "negatives, 'negative…', and nothing else"
            + (f"; missing: {missing}" if missing else "")
            + (f"; not expected: {unknown}" if unknown else "")
            + f". Rename or select columns, or pass a single column as {X}."
        )
    columns = [
        to_list(frame[name], f"{X}[{name!r}]")
        for name in ("query", "document", *negatives)
    ]
    return list(zip(*columns, strict=True))


def _natural_key(name):
    digits = "".join(c for c in str(name) if c.isdigit())
    return (int(digits) if digits else -1, str(name))


def to_rows(X, name="X"):
    """Return (rows, is_table): rows of items, or the items of a 1-D X."""
    rows = _frame_rows(X, name) if _is_frame(X) else to_list(X, name)
    if not rows:
        raise ValueError(f"{name} is empty: found 0 sample(s), at least 1 is required.")
    is_table = isinstance(rows[0], list | tuple | np.ndarray)
    if is_table:
        rows = [r.tolist() if isinstance(r, np.ndarray) else r for r in rows]
        _check_table(rows, name)
    return rows, is_table


def _check_table(rows, name):
    width = len(rows[0])
    if width < 2:
        raise ValueError(
            f"{name} is a table with {width} column(s); rows are (query, document) or "
            "(query, document, negative, …). For queries alone pass a 1-D list: "
            f"[row[0] for row in {name}]."
        )
    for i, row in enumerate(rows):
        if not isinstance(row, list | tuple):
            raise TypeError(
                f"{name}[{i}] is {shorten(row)}, but {name}[0] is a row of {width} "
                "items: all rows of a table are tuples or lists."
            )
        if len(row) != width:
            raise ValueError(
                f"{name}[{i}] has {len(row)} items, but {name}[0] has {width}: all "
                "rows of a table have the same width."
            )


def check_item(item, name, kind):
    """Return one query or document as str or int, or raise an error that says why."""
    if isinstance(item, str):
        return str(item)  # also makes a str of numpy's str_
    is_int = isinstance(item, numbers.Integral) and not isinstance(item, bool)
    if kind == "id" and is_int:
        return int(item)
    wanted = "a str or an int id" if kind == "id" else "a str"
    missing = isinstance(item, numbers.Real) and item != item
    if item is None or missing or type(item).__name__ in ("NAType", "NaTType"):
        hint = "drop the row or fill it in"
    elif isinstance(item, bytes):
        hint = "decode it: value.decode('utf-8')"
    elif isinstance(item, set | frozenset):
        hint = "the order of a set is not reproducible; pass a list"
    elif isinstance(item, numbers.Number) and kind == "id":
        hint = (
            "convert ids to int or str (vectors are understood only by a finetuner "
            "with encoder=None)"
        )
    elif isinstance(item, numbers.Number):
        hint = (
            "ids are understood with encoder=PrecomputedEncoder(…), vectors with "
            "encoder=None; otherwise pass texts"
        )
    else:
        hint = "see the guide on data forms"
    raise TypeError(f"{name} must be {wanted}, got {shorten(item)}; {hint}.")


def check_items(values, name, kind):
    """Return a list of checked queries or documents."""
    items = to_list(values, name)
    if _all_plain(items, kind):
        return items
    return [check_item(item, f"{name}[{i}]", kind) for i, item in enumerate(items)]


def _all_plain(items, kind):
    return set(map(type, items)) <= _PLAIN[kind]


def check_queries(X, kind):
    """Return the queries of X, those of the first column where X is a table."""
    rows, is_table = to_rows(X)
    if not is_table:
        return check_items(rows, "X", kind)
    queries = [row[0] for row in rows]
    if _all_plain(queries, kind):
        return queries
    return [check_item(query, f"X[{i}][0]", kind) for i, query in enumerate(queries)]


def _check_grade(grade, name, document=None):
    if isinstance(grade, bool | np.bool_):
        return float(grade)
    if isinstance(grade, numbers.Real) and np.isfinite(grade):
        return float(grade)
    if document is not None:
        name = f"{name}[{document!r}]"
    if not isinstance(grade, numbers.Real):
        hint = (
            ": leave the document out of the dict (a column of a data frame gives all "
            "its dicts the same keys: pass a list of dicts)"
            if grade is None
            else ""
        )
        raise TypeError(f"{name} must be a number, got {shorten(grade)}{hint}.")
    raise ValueError(f"{name} must be finite, got {grade}.")


def _read_relevant(value, row, kind, suffix):
    """Return [(document, grade), …] of one item of y, most relevant first."""
    name = f"y{suffix}[{row}]"
    if isinstance(value, Mapping):
        graded = [
            (
                d if type(d) is str else check_item(d, f"document of {name}", kind),
                float(g) if type(g) is int else _check_grade(g, name, d),
            )
            for d, g in value.items()
        ]
        graded.sort(key=lambda item: -item[1])  # stable: ties keep insertion order
    elif isinstance(value, list | tuple | np.ndarray) or hasattr(value, "to_list"):
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


class _Numbering(dict):
    """Number distinct items in order of first appearance."""

    def __missing__(self, item):
        self[item] = len(self)
        return self[item]

    def of(self, items):
        """The numbers of a list of items."""
        return np.fromiter(map(self.__getitem__, items), np.int64, len(items))


def check_retrieval_data(X, y, *, kind, corpus=None, name="estimator", suffix=""):
    """Turn every form of texts or ids into a :class:`RetrievalData`.

    Parameters
    ----------
    X, y, corpus : see the guide on data forms
    kind : {"text", "id"}
    name, suffix : str
        Name of the estimator and what follows X, y and corpus ("_val"), for messages.
    """
    rows, is_table = to_rows(X, f"X{suffix}")
    if is_table:
        judged, n_negatives = _read_table(rows, y, kind, suffix)
    else:
        if y is None:
            raise ValueError(
                f"{name} requires y to be passed, but the target y is None: y holds "
                "the relevant document(s) of every query in X. Without y, X is a table "
                "of (query, document) rows."
            )
        judged, n_negatives = _read_queries(rows, y, kind, suffix), 0

    queries, n_documents, documents, example_grade = judged
    query_index, document_index = _Numbering(), _Numbering()
    row_query = query_index.of(queries)
    example_row = np.repeat(np.arange(len(queries)), n_documents)
    example_document = document_index.of(documents)
    named = () if corpus is None else check_items(corpus, f"corpus{suffix}", kind)
    named = document_index.of(named)
    _warn_empty(query_index, document_index)

    relevance = JudgedRelevance.from_triples(
        row_query[example_row],
        example_document,
        example_grade,
        (len(query_index), len(document_index)),
    )
    if relevance.n_judged < len(example_row):  # some pair is judged several times
        if not is_table:  # a document counts once among those of a row
            once = _first_of_pairs(example_row, example_document)
            example_row, example_document, example_grade = (
                part[once] for part in (example_row, example_document, example_grade)
            )
        example_grade = _highest_grades(
            row_query[example_row], example_document, example_grade
        )
    return RetrievalData(
        queries=list(query_index),
        documents=list(document_index),
        relevance=relevance,
        row_query=row_query,
        example_row=example_row,
        example_document=example_document,
        example_grade=example_grade,
        pool=np.arange(len(document_index)),
        corpus=named,
        n_negatives=n_negatives or int(relevance.negative.nnz > 0),
        labelled=is_table and y is not None,
    )


def _first_of_pairs(rows, documents):
    """Indices of the examples that do not repeat a document of their row."""
    keys = rows * (documents.max() + 1) + documents
    return np.sort(np.unique(keys, return_index=True)[1])


def _highest_grades(queries, documents, grades):
    """Where a pair is judged several times, its highest grade counts each time."""
    keys = queries * (documents.max() + 1) + documents
    _, pair = np.unique(keys, return_inverse=True)
    highest = np.full(pair.max() + 1, -np.inf)
    np.maximum.at(highest, pair, grades)
    return highest[pair]


def _read_queries(rows, y, kind, suffix):
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


def _read_plain(relevant, kind):
    """Read a y of plain items, lists or dicts without a loop over them, else None."""
    if _all_plain(relevant, kind):
        return 1, relevant, np.ones(len(relevant))
    types = set(map(type, relevant))
    if types not in ({list}, {dict}) or not all(relevant):
        return None
    documents = list(chain.from_iterable(relevant))
    if not _all_plain(documents, kind):
        return None
    n_documents = list(map(len, relevant))
    if types == {list}:
        return n_documents, documents, np.ones(len(documents))
    grades = list(chain.from_iterable(map(dict.values, relevant)))
    if not set(map(type, grades)) <= {int, float}:
        return None
    grades = np.array(grades, dtype=np.float64)
    if not np.isfinite(grades).all():
        return None
    # of a row the most relevant first, ties in insertion order
    order = np.lexsort((-grades, np.repeat(np.arange(len(relevant)), n_documents)))
    return n_documents, [documents[i] for i in order.tolist()], grades[order]


def _read_table(rows, y, kind, suffix):
    """Return the same of a table, and the number of its explicit negatives."""
    width = len(rows[0])
    cells = [check_items(row, f"X{suffix}[{i}]", kind) for i, row in enumerate(rows)]
    queries = [row[0] for row in cells]
    documents = [document for row in cells for document in row[1:]]
    if y is None:
        grades = np.tile([1.0] + [0.0] * (width - 2), len(cells))
        return (queries, width - 1, documents, grades), width - 2
    if width != 2:
        raise ValueError(
            f"y{suffix} was passed with a table of {width} columns; labels go with "
            "(query, document) pairs. Pass y=None for explicit negatives."
        )
    labels = to_list(y, f"y{suffix}")
    if len(labels) != len(rows):
        raise ValueError(
            f"X{suffix} has {len(rows)} rows, but y{suffix} has {len(labels)} labels."
        )
    grades = [_check_grade(v, f"y{suffix}[{i}]") for i, v in enumerate(labels)]
    return (queries, 1, documents, np.asarray(grades)), 0


def _warn_empty(queries, documents):
    what = [n for n, i in (("query", queries), ("document", documents)) if "" in i]
    if what:
        warnings.warn(
            f"An empty string is among the data as a {' and a '.join(what)}; it is "
            "kept and encoded like any text.",
            UserWarning,
            stacklevel=4,
        )


def check_vector_data(X, y, corpus=None, suffix=""):
    """Turn vectors with class labels or paired vectors into :class:`RetrievalData`.

    Parameters
    ----------
    X : ndarray of shape (n, d), already validated
    y : n class labels, or array-like of shape (n, d)
    corpus : array-like of shape (m, d) or None
        More document vectors.
    suffix : str
        What follows X and y in messages.
    """
    name = f"y{suffix}"
    if not hasattr(y, "__array__"):
        y = to_list(y, name)
    if not _is_labels(y):
        return _paired_vectors(X, y, corpus, suffix)
    if corpus is not None:
        raise ValueError(
            "corpus= does not go with class labels, where the documents are the rows "
            "of X themselves; pass paired vectors as y."
        )
    labels = _check_labels(y, name)
    if len(labels) != len(X):
        raise ValueError(
            f"X{suffix} has {len(X)} rows, but {name} has {len(labels)} labels."
        )
    rows = np.arange(len(X))
    return RetrievalData(
        queries=X,
        documents=X,
        relevance=LabelRelevance(labels),
        row_query=rows,
        example_row=rows,
        example_document=rows,
        example_grade=np.ones(len(X)),
        pool=rows,
    )


def _is_labels(y):
    try:
        shape = np.asarray(y).shape
    except ValueError:  # ragged lists
        return True
    return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)


def _check_labels(y, name):
    """Return class labels as integers 0, 1, …"""
    labels = to_list(np.asarray(y).ravel() if hasattr(y, "__array__") else y, name)
    labels = [v[0] if isinstance(v, list) and len(v) == 1 else v for v in labels]
    for i, label in enumerate(labels):
        if not isinstance(label, str | numbers.Real | np.bool_):
            raise TypeError(
                f"{name}[{i}] must be a class label, a str or a number, got "
                f"{shorten(label)}."
            )
        if isinstance(label, numbers.Real) and not np.isfinite(label):
            raise ValueError(f"{name} contains NaN or infinity: {name}[{i}] is {label}")
    return _Numbering().of(labels)  # 1 and "1" are two classes


def _paired_vectors(X, y, corpus, suffix):
    Y = check_vectors(y, f"y{suffix}", X.shape[1])
    if len(Y) != len(X):
        raise ValueError(
            f"X{suffix} has {len(X)} rows, but y{suffix} has {len(Y)} vectors."
        )
    candidates = Y
    if corpus is not None:
        extra = check_vectors(corpus, f"corpus{suffix}", X.shape[1])
        candidates = np.concatenate([Y, extra])
    queries, row_query = _distinct_rows(X)
    documents, at = _distinct_rows(candidates)
    rows, grades = np.arange(len(X)), np.ones(len(X))
    example_document = at[: len(Y)]
    return RetrievalData(
        queries=queries,
        documents=documents,
        relevance=JudgedRelevance.from_triples(
            row_query, example_document, grades, (len(queries), len(documents))
        ),
        row_query=row_query,
        example_row=rows,
        example_document=example_document,
        example_grade=grades,
        pool=np.arange(len(documents)),
        corpus=at[len(Y) :],
    )


def check_vectors(vectors, name, width=None):
    """Return a finite float matrix, of the given width."""
    array = np.asarray(vectors)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} must be a matrix of numbers, one vector a row, got shape "
            f"{array.shape} and dtype {array.dtype}."
        )
    if width is not None and array.shape[1] != width:
        raise ValueError(
            f"{name} has vectors of width {array.shape[1]}, expected {width}."
        )
    if array.dtype.kind != "f" or array.dtype.itemsize < 4:
        array = array.astype(np.float32)
    check_finite(array, f"The vectors of {name}")
    return array


def _distinct_rows(matrix):
    """Distinct rows in order of first appearance, and the index of every row.

    Nothing is copied where all are distinct: the matrix may be a memory map.
    """
    index = _Numbering()
    digests = (blake2b(np.ascontiguousarray(row), digest_size=16) for row in matrix)
    at = np.asarray([index[digest.digest()] for digest in digests], dtype=np.int64)
    if len(index) == len(matrix):
        return matrix, at
    _, first = np.unique(at, return_index=True)
    return matrix[first], at
