"""Single queries, documents and grades: taken as they are, or refused with the mend."""

import math
import numbers
from collections.abc import Collection, Mapping
from typing import Any, Literal, overload

import numpy as np

from skembft._data.containers import to_list, to_rows
from skembft._utils.foreign import to_plain
from skembft._utils.messages import shorten
from skembft._utils.types import Data, Item, ItemKind

# what nearly all items are, and needs no further check
_PLAIN: dict[ItemKind, set[type]] = {"text": {str}, "id": {str, int}}
# where LangChain, LlamaIndex and Sentence Transformers keep the texts of their objects
_TEXTS = ("page_content", "text", "texts")


def check_item(item: Any, name: str, kind: ItemKind) -> Item:
    """Return one query or document as str or int, or raise an error that says why."""
    item = to_plain(item, name)
    if isinstance(item, str):
        if kind == "text" and not is_encodable(item):
            raise ValueError(
                f"{name} is {shorten(item)}, which holds half of a surrogate pair: no "
                "tokenizer takes it. Repair it: text.encode('utf-16', "
                "'surrogatepass').decode('utf-16', 'replace')."
            )
        return str(item)
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
    elif isinstance(item, list | tuple):
        hint = "a list within a list: flatten it"
    elif isinstance(item, Mapping):
        hint = "pass its text, such as row['text']"
    elif held := [a for a in _TEXTS if hasattr(item, a)]:
        hint = f"pass what it holds, item.{held[0]}"
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


def all_plain(items: Collection[Any], kind: ItemKind) -> bool:
    if not set(map(type, items)) <= _PLAIN[kind]:
        return False
    return kind == "id" or all(map(is_encodable, items))


def is_encodable(text: str) -> bool:
    """Whether a str is Unicode, without the halves of surrogate pairs."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
    if not isinstance(grade, numbers.Real):
        grade = to_plain(grade, name)
    if isinstance(grade, bool | np.bool_):
        return float(grade)
    if isinstance(grade, numbers.Real) and math.isfinite(grade):
        return float(grade)
    if document is not None:
        name = f"{name}[{shorten(document)}]"
    if not isinstance(grade, numbers.Real):
        hint = "" if document is None else ": a dict in y is {document: grade}"
        if grade is None:
            hint = (
                ": leave the document out of the dict (a column of a data frame gives "
                "all its dicts the same keys: pass a list of dicts)"
            )
        raise TypeError(f"{name} must be a number, got {shorten(grade)}{hint}.")
    raise ValueError(
        f"{name} must be finite, got {grade}: fill it in, or leave the document out."
    )
