"""Cut-offs that reach a precision, a recall or a coverage on held-out queries."""

import math

import numpy as np
from sklearn.metrics import confusion_matrix_at_thresholds

from skembft._utils.types import Bools, Floats


def threshold_of_precision(
    relevant: Bools, probability: Floats, precision: float
) -> float:
    """The lowest probability such that so large a share of what passes is relevant."""
    _, wrong, _, right, levels = confusion_matrix_at_thresholds(relevant, probability)
    reached = right / (right + wrong)
    enough = np.flatnonzero(reached >= precision)
    if not len(enough):
        best = reached.argmax()
        raise ValueError(
            f"precision={precision} is reached at no threshold: the highest of the "
            f"held-out pairs is {_floored(reached[best])}, at {levels[best]:.4g}."
        )
    return float(levels[enough[-1]])  # levels fall


def threshold_of_recall(
    relevant: Bools, probability: Floats, recall: float, n_relevant: int, k: int
) -> float:
    """The highest probability such that so many of all relevant documents pass."""
    _, _, _, right, levels = confusion_matrix_at_thresholds(relevant, probability)
    reached = right / n_relevant
    enough = np.flatnonzero(reached >= recall)
    if not len(enough):
        raise ValueError(
            f"recall={recall} is reached at no threshold: {right[-1]:.0f} of the "
            f"{n_relevant} relevant documents are among the {k} best of their queries, "
            f"a recall of {_floored(reached[-1])}. Ask for less, or set a larger k and "
            "fit again."
        )
    return float(levels[enough[0]])


def conformal_cutoff(answers: Floats, coverage: float, k: int) -> float:
    """The score that a new query's answer reaches with a probability of `coverage`.

    Split conformal prediction: a new query is as likely to be the best, the second, …
    or the last of the n + 1 as any of the n known ones.

    Parameters
    ----------
    answers : ndarray of shape (n,)
        Score of the answer of every query; -inf where it is not retrieved.
    coverage : float
    k : int
        Number of documents that were retrieved, for the message.
    """
    n, n_found = len(answers), int(np.isfinite(answers).sum())
    rank = math.ceil(round((n + 1) * coverage, 9))  # 0.57 * 100 is not 57 in floats
    if rank <= n_found:
        return float(np.sort(answers)[n - rank])
    highest = f"the highest coverage is {_floored(n_found / (n + 1))}."
    if rank > n and n_found == n:
        needed = math.ceil(round(coverage / (1 - coverage), 9))
        raise ValueError(
            f"coverage={coverage} needs at least {needed} held-out queries with a "
            f"relevant document, and there are {n}: {highest}"
        )
    raise ValueError(
        f"coverage={coverage} cannot be promised: {n_found} of the {n} held-out "
        f"queries have a relevant document among their {k} best, and {highest} Ask for "
        "less, or set a larger k and fit again."
    )


def _floored(share: float) -> float:
    """A share with four digits, which can be asked for."""
    return math.floor(share * 1e4) / 1e4
