"""Whether the best of many evaluations is more than what chance makes of as many."""

from typing import Any

import numpy as np

from skembft._utils.signs import random_bits, signed_sums
from skembft._utils.types import Floats

# The p-value below which what was learnt is kept. Of trainings without any effect that
# keeps so many, which costs nothing, and of those that harm far fewer; a stricter level
# loses true gains: see "Situations" in docs/benchmarks.md.
LEVEL = 0.3
_N_DRAWS = 1000
_BLOCK = 4096  # queries whose signs are drawn at a time


class Chance:
    """A test of the largest of several gains that the same queries have made.

    Had training no effect, the gain of a query were as likely a loss: its sign is
    random, the same in all evaluations. What is tested is the largest ratio of a sum of
    gains to the square root of their sum of squares, against the largest ratio that
    random signs make [Westfall and Young, Resampling-Based Multiple Testing, 1993]. So
    evaluations that resemble each other count as one, and what few queries decide is
    not trusted.
    """

    def __init__(self) -> None:
        self.largest = 0.0  # what the untouched model has
        self.by_chance = np.zeros(_N_DRAWS)

    def add(self, gains: Floats, weights: Floats | None) -> None:
        """Add an evaluation: the gain of every query, shape (n_queries,)."""
        gains = gains if weights is None else weights * gains
        size = np.linalg.norm(gains)
        if size == 0:
            return
        gains = gains / size
        self.largest = max(self.largest, float(gains.sum()))
        rng = np.random.default_rng(0)  # the same signs every time
        sums = np.zeros(_N_DRAWS)
        for start in range(0, len(gains), _BLOCK):
            block = gains[start : start + _BLOCK]
            sums += signed_sums(block, random_bits(_N_DRAWS, len(block), rng))
        np.maximum(self.by_chance, sums, out=self.by_chance)

    @property
    def p_value(self) -> float:
        """How often chance does as well, over all evaluations so far; 1 without any."""
        as_large = self.by_chance >= self.largest - 1e-9  # equal but for rounding
        return float(1 + np.count_nonzero(as_large)) / (1 + _N_DRAWS)

    def progress(self) -> dict[str, Any]:
        """What `restore` needs, as JSON values."""
        return {"largest": self.largest, "by_chance": self.by_chance.tolist()}

    def restore(self, progress: dict[str, Any]) -> None:
        self.largest = progress["largest"]
        self.by_chance = np.array(progress["by_chance"])
