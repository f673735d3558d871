"""Numbers of distinct items, and of a query's own document among them."""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from itertools import repeat
from typing import Any

import numpy as np

from skembft._utils.messages import shorten
from skembft._utils.types import Ints, OwnDocuments


class Numbering(dict[Hashable, int]):
    """Number distinct items in order of first appearance."""

    def __missing__(self, item: Hashable) -> int:
        self[item] = len(self)
        return self[item]

    def of(self, items: Collection[Hashable]) -> Ints:
        """The numbers of a list of items."""
        return np.fromiter(map(self.__getitem__, items), np.int64, len(items))


def said_by(own: Mapping[Any, Any], queries: Iterable[Hashable]) -> Iterator[Hashable]:
    """The document that `exclude_self` names for each query, or None."""
    for query in queries:
        name = own.get(query)
        if not isinstance(name, Hashable):
            raise TypeError(
                f"exclude_self[{shorten(query)}] must be a document, as a str or int, "
                f"got {shorten(name)}."
            )
        yield name


def find_own(
    queries: Collection[Hashable],
    place: Mapping[Any, int],
    own: OwnDocuments = False,
) -> Ints:
    """Where in `place` the document is that each query is itself, or -1.

    It is what `own` says, or the same text or id where it names none of them.
    """
    same = np.fromiter(map(place.get, queries, repeat(-1)), np.int64, len(queries))
    if not isinstance(own, Mapping):
        return same
    names = said_by(own, queries)
    said = np.fromiter(map(place.get, names, repeat(-1)), np.int64, len(queries))
    return np.where(said >= 0, said, same)
