"""Lists, tables and frames of any library, as lists of plain Python objects."""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skembft._utils.foreign import to_plain
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
_WIDE = 10  # columns, of which two rows hardly have as many
_PLAIN = {str, int}  # what nearly all cells are
# what is read when it is asked for, and the method that asks
_LAZY = ("collect", "compute", "read_all", "to_table")


def to_list(values: Data, name: str) -> list[Any]:
    """Return any 1-D or 2-D container of items as a plain list of Python objects.

    Lists, tuples, numpy arrays, pandas and polars Series, tensors, pyarrow columns and
    datasets' columns give the same result. What has no order or no length is an error.
    """
    if type(values) in (list, tuple):  # also the documents of every row of y
        return list(values)
    _check_read(values, name)
    if isinstance(values, str | bytes):
        raise TypeError(
            f"{name} is the single {type(values).__name__} {shorten(values)}; pass a "
            f"list: [{name}]."
        )
    if isinstance(values, Mapping):
        if name.startswith("y"):
            mend = ": y = [relevant[query] for query in X]"
        else:
            mend = f": of {{id: item}} list({name}.values())"
            if name.startswith("X"):
                mend = (
                    f", or of a dict of columns pandas.DataFrame({name}), or of a data "
                    "set that a loader gave data.queries, with data.relevant as y"
                )
        raise TypeError(f"{name} is a dict; pass a list with one item a row{mend}.")
    if isinstance(values, set | frozenset):
        raise TypeError(
            f"{name} is a set, whose order is not reproducible; pass sorted({name})."
        )
    if _is_frame(values):
        raise TypeError(
            f"{name} is a {_kind_of_frame(values)}; pass one column of it, for "
            f'example {name}["document"].'
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
    plain = to_plain(values, name)
    return plain if type(plain) is list else list(values)


def _check_read(values: Data, name: str) -> None:
    """Refuse what holds several tables, or is read only when it is asked for."""
    kind = type(values).__name__
    if isinstance(values, Mapping) and hasattr(values, "column_names"):
        splits = list(values)
        raise TypeError(
            f"{name} is of the type {kind}, of the splits {splits}; pass one of them"
            + (f": {name}[{splits[0]!r}]." if splits else ".")
        )
    for method in _LAZY:
        if hasattr(type(values), method):
            raise TypeError(f"{name} is of the type {kind}; pass {name}.{method}().")
    if hasattr(values, "column_names") and not hasattr(values, "__len__"):
        raise TypeError(
            f"{name} is of the type {kind}, which has no length; pass list({name})."
        )


def _is_frame(values: Data) -> bool:
    if isinstance(values, str | Mapping):
        return False
    if isinstance(values, np.ndarray):
        return values.dtype.names is not None
    return hasattr(values, "columns") or hasattr(values, "column_names")


def _kind_of_frame(frame: Any) -> str:
    return "structured array" if isinstance(frame, np.ndarray) else type(frame).__name__


def _column_names(frame: Any) -> list[Any]:
    if isinstance(frame, np.ndarray):
        return list(frame.dtype.names or ())
    return list(getattr(frame, "column_names", None) or frame.columns)


def _columns(X: Data, name: str) -> tuple[list[Any], Any] | None:
    """Return (names of columns, what has them by name), or None where X has no names.

    A frame has names, and so have rows that are dicts.
    """
    if _is_frame(X):
        return _column_names(X), X
    rows = to_list(X, name)
    if not rows or not isinstance(rows[0], Mapping):
        return None
    names = list(rows[0])
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping) or row.keys() != rows[0].keys():
            what = list(row) if isinstance(row, Mapping) else shorten(row)
            raise ValueError(
                f"{name}[{i}] is {what}, but {name}[0] is a dict with the keys "
                f"{names}: all rows of a table have the same."
            )
    return names, {key: [row[key] for row in rows] for key in names}


def text_columns(names: list[Any], X: str) -> list[Any]:
    """Of the columns of a table those of queries, documents and negatives, in order."""
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
    return [*queries, *documents, *negatives]


def _frame_rows(names: list[Any], frame: Any, X: str) -> list[Any]:
    """Rows (query, document, negative, …) of what has those columns."""
    columns = [to_list(frame[n], f"{X}[{n!r}]") for n in text_columns(names, X)]
    return list(zip(*columns, strict=True))


def labels_of(X: Data, y: Data, name: str = "X") -> tuple[Data, str]:
    """Return y and its name for messages, of a DataFrame with labels that column."""
    name_of_y = "y" + name.removeprefix("X")
    columns = _columns(X, name)
    column = columns and next((n for n in columns[0] if n in _LABELS), None)
    if not columns or column is None:
        return y, name_of_y
    if y is not None:
        raise ValueError(
            f"{name} has a column {column!r}, the labels of its pairs, and {name_of_y} "
            "is passed too: leave one of them out."
        )
    return columns[1][column], f"{name}[{column!r}]"


def _natural_key(name: object) -> tuple[int, str]:
    digits = "".join(c for c in str(name) if c.isdigit())
    return (int(digits) if digits else -1, str(name))


def to_rows(X: Data, name: str = "X") -> tuple[list[Any], bool]:
    """Return (rows, is_table): rows of items, or the items of a 1-D X."""
    _check_read(X, name)
    items = X if _is_frame(X) else to_list(X, name)
    columns = _columns(items, name)
    rows = _frame_rows(*columns, name) if columns else items
    if not rows:
        raise ValueError(f"{name} is empty: found 0 sample(s), at least 1 is required.")
    is_table = isinstance(rows[0], list | tuple) or (
        isinstance(rows[0], np.ndarray) and rows[0].ndim > 0
    )
    if is_table:
        rows = [r.tolist() if isinstance(r, np.ndarray) else r for r in rows]
        _check_table(rows, name)
    return rows, is_table


def _check_table(rows: list[Any], name: str) -> None:
    width = len(rows[0])
    if len(rows) == 2 and width >= _WIDE:
        warnings.warn(
            f"{name} is a table of 2 rows and {width} columns: 2 queries, each with a "
            f"document and {width - 2} negatives. If its rows are all queries and all "
            "their documents, pass these apart: fit(X, y).",
            UserWarning,
            stacklevel=2,
        )
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
        if not _PLAIN.issuperset(map(type, row)):
            _check_cells(row, f"{name}[{i}]")


def _check_cells(row: Sequence[Any], name: str) -> None:
    for at, cell in enumerate(row):
        cell = to_plain(cell, f"{name}[{at}]")
        if isinstance(cell, list | tuple):
            raise TypeError(
                f"{name}[{at}] must be a single item, got {shorten(cell)}: a cell "
                "of a table holds one document. Pass the queries as X, and as y lists "
                "of documents, or {document: grade} dicts where 0 is a negative "
                "(skembft.datasets.load_flag_embedding reads FlagEmbedding's files so)."
            )
