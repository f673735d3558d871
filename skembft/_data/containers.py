"""Lists, tables and frames of any library, as lists of plain Python objects."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from skembft._utils.messages import shorten
from skembft._utils.types import Data

# names of columns: ours, Sentence Transformers' and FlagEmbedding's
_QUERIES = ("query", "anchor")
_DOCUMENTS = ("document", "positive", "pos")
_LABELS = ("label", "labels", "score", "scores")
_NEGATIVE = re.compile(r"negative.*|neg(_?\d+)?", re.DOTALL)
_COLUMNS = (
    f"A table holds one column of queries {_QUERIES}, one of documents {_DOCUMENTS}, "
    f"perhaps explicit negatives ('negative…', 'neg', 'neg_1', …) or labels {_LABELS}, "
    "and nothing else"
)
_LISTS = {list, tuple, np.ndarray}


def to_list(values: Data, name: str) -> list[Any]:
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


def _is_frame(values: Data) -> bool:
    columns = hasattr(values, "columns") or hasattr(values, "column_names")
    return columns and not isinstance(values, str)


def _column_names(frame: Any) -> list[Any]:
    return list(getattr(frame, "column_names", None) or frame.columns)


def _frame_rows(frame: Any, X: str) -> list[Any]:
    """Rows (query, document, negative, …) of a DataFrame with those columns."""
    names = _column_names(frame)
    queries, documents, labels = (
        [n for n in names if n in accepted]
        for accepted in (_QUERIES, _DOCUMENTS, _LABELS)
    )
    negatives = sorted(
        (n for n in names if isinstance(n, str) and _NEGATIVE.fullmatch(n)),
        key=_natural_key,
    )
    known = [*queries, *documents, *labels, *negatives]
    problems = {
        "missing": [
            kind[0]
            for kind, found in ((_QUERIES, queries), (_DOCUMENTS, documents))
            if not found
        ],
        "more than one of a kind": [
            n for found in (queries, documents, labels) if len(found) > 1 for n in found
        ],
        "labels go with pairs, without negatives": labels and negatives,
        "not expected": [n for n in names if n not in known],
    }
    if any(problems.values()):
        raise ValueError(
            "; ".join([_COLUMNS, *(f"{p}: {n}" for p, n in problems.items() if n)])
            + f". Rename or select columns, or pass a single column as {X}."
        )
    columns = [
        to_list(frame[name], f"{X}[{name!r}]")
        for name in (*queries, *documents, *negatives)
    ]
    return list(zip(*columns, strict=True))


def labels_of(X: Data, y: Data, name: str = "X") -> tuple[Data, str]:
    """Return y and its name for messages, of a DataFrame with labels that column."""
    name_of_y = "y" + name.removeprefix("X")
    names = _column_names(X) if _is_frame(X) else []
    column = next((n for n in names if n in _LABELS), None)
    if column is None:
        return y, name_of_y
    if y is not None:
        raise ValueError(
            f"{name} has a column {column!r}, the labels of its pairs, and {name_of_y} "
            "is passed too: leave one of them out."
        )
    return X[column], f"{name}[{column!r}]"


def _natural_key(name: object) -> tuple[int, str]:
    digits = "".join(c for c in str(name) if c.isdigit())
    return (int(digits) if digits else -1, str(name))


def to_rows(X: Data, name: str = "X") -> tuple[list[Any], bool]:
    """Return (rows, is_table): rows of items, or the items of a 1-D X."""
    rows = _frame_rows(X, name) if _is_frame(X) else to_list(X, name)
    if not rows:
        raise ValueError(f"{name} is empty: found 0 sample(s), at least 1 is required.")
    is_table = isinstance(rows[0], list | tuple | np.ndarray)
    if is_table:
        rows = [r.tolist() if isinstance(r, np.ndarray) else r for r in rows]
        _check_table(rows, name)
    return rows, is_table


def _check_table(rows: list[Any], name: str) -> None:
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
        if not _LISTS.isdisjoint(map(type, row)):
            at, cell = next((j, c) for j, c in enumerate(row) if type(c) in _LISTS)
            raise TypeError(
                f"{name}[{i}][{at}] must be a single item, got {shorten(cell)}: a cell "
                "of a table holds one document. Pass the queries as X, and as y lists "
                "of documents, or {document: grade} dicts where 0 is a negative "
                "(skembft.datasets.load_flag_embedding reads FlagEmbedding's files so)."
            )
