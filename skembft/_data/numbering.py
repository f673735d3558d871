"""Numbers of distinct items."""

from collections.abc import Collection, Hashable

import numpy as np

from skembft._utils.types import Ints


class Numbering(dict[Hashable, int]):
    """Number distinct items in order of first appearance."""

    def __missing__(self, item: Hashable) -> int:
        self[item] = len(self)
        return self[item]

    def of(self, items: Collection[Hashable]) -> Ints:
        """The numbers of a list of items."""
        return np.fromiter(map(self.__getitem__, items), np.int64, len(items))
