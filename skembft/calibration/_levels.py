"""Scores that are equal but for rounding."""

import numpy as np

from skembft._utils.types import Floats

# of the largest score: what another batch size or another product changes
_ROUNDING = 1e-6


class Levels:
    """Takes scores that rounding may have made of known ones for those.

    The score of a pair has other last digits in another batch, or by another product,
    and a cut-off that is the score of a known pair would leave out that very pair. Of
    known scores that lie so close to each other all are taken for the lowest.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Known ones.
    """

    def __init__(self, scores: Floats) -> None:
        self.margin = _ROUNDING * float(np.abs(scores).max())
        known = np.unique(scores)  # sorted
        ends, end = list[int](), 0
        while end < len(known):
            # two margins apart, so that what lies between belongs to one of them
            end = int(np.searchsorted(known, known[end] + 2 * self.margin, "right"))
            ends.append(end)
        self.lows = known[[0, *ends[:-1]]]
        self.highs = known[np.array(ends) - 1]

    def snap(self, scores: Floats) -> Floats:
        """The known score in place of each that is close to one; order is kept."""
        at = np.searchsorted(self.lows, scores + self.margin, "right") - 1
        close = (at >= 0) & (scores <= self.highs[at] + self.margin)
        return np.where(close, self.lows[at], scores)
