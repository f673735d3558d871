"""Lists, tables and frames of any library, as lists of plain Python objects."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from skembft._utils.messages import shorten
from skembft._utils.types import Data


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


def _frame_rows(frame: Any, X: str) -> list[Any]:
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
