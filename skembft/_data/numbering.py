"""Numbers of distinct items."""

import numpy as np


class Numbering(dict):
    """Number distinct items in order of first appearance."""

    def __missing__(self, item):
        self[item] = len(self)
        return self[item]

    def of(self, items):
        """The numbers of a list of items."""
        return np.fromiter(map(self.__getitem__, items), np.int64, len(items))
