"""Single queries, documents and grades: taken as they are, or refused with the mend."""

import math
import numbers
from collections.abc import Iterable
from typing import Any, Literal, overload

import numpy as np

from skembft._data.containers import to_list, to_rows
from skembft._utils.messages import shorten
from skembft._utils.types import Data, Item, ItemKind

# what nearly all items are, and needs no further check
_PLAIN: dict[ItemKind, set[type]] = {"text": {str}, "id": {str, int}}


def check_item(item: Any, name: str, kind: ItemKind) -> Item:
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


@overload
def check_items(values: Data, name: str, kind: Literal["text"]) -> list[str]: ...
@overload
def check_items(values: Data, name: str, kind: ItemKind) -> list[Item]: ...
def check_items(values: Data, name: str, kind: ItemKind) -> list[Any]:
    """Return a list of checked queries or documents."""
    items = to_list(values, name)
    if all_plain(items, kind):
        return items
    return [check_item(item, f"{name}[{i}]", kind) for i, item in enumerate(items)]


def all_plain(items: Iterable[object], kind: ItemKind) -> bool:
    return set(map(type, items)) <= _PLAIN[kind]


@overload
def check_queries(X: Data, kind: Literal["text"]) -> list[str]: ...
@overload
def check_queries(X: Data, kind: ItemKind) -> list[Item]: ...
def check_queries(X: Data, kind: ItemKind) -> list[Any]:
    """Return the queries of X, those of the first column where X is a table."""
    rows, is_table = to_rows(X)
    if not is_table:
        return check_items(rows, "X", kind)
    queries = [row[0] for row in rows]
    if all_plain(queries, kind):
        return queries
    return [check_item(query, f"X[{i}][0]", kind) for i, query in enumerate(queries)]


def check_grade(grade: Any, name: str, document: Item | None = None) -> float:
    if isinstance(grade, bool | np.bool_):
        return float(grade)
    if isinstance(grade, numbers.Real) and math.isfinite(grade):
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
