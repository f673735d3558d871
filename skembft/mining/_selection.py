"""Which of the best documents of every query become its negatives."""

from __future__ import annotations

from typing import Any

import numpy as np

from skembft._data.numbering import Numbering
from skembft._utils.types import Floats, Ints, Item


class Best:
    """The best documents of every query over several portions.

    Attributes
    ----------
    documents : list
        Those that are among the best of some query; others are not kept.
    found : ndarray of shape (n_queries, <= k)
        Their indices in `documents`, best first; -1 where there are no more.
    scores : float32 ndarray of the same shape
        Minus infinity where there are no more.
    """

    def __init__(self, n_queries: int, k: int) -> None:
        self.k = k
        self.documents: list[Any] = []
        self.found = np.empty((n_queries, 0), dtype=np.int64)
        self.scores = np.empty((n_queries, 0), dtype=np.float32)

    def add(self, documents: list[Item], indices: Ints, scores: Floats) -> None:
        """Add what is best of a portion of documents, best first."""
        numbers = Numbering((item, i) for i, item in enumerate(self.documents))
        used = np.unique(indices[indices >= 0])
        number = np.full(len(documents) + 1, -1)  # the last is that of -1
        number[used] = numbers.of([documents[i] for i in used.tolist()])
        found = np.hstack([self.found, number[indices]])
        scores = np.hstack([self.scores, scores])
        _drop_repeated(found, scores)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self.k]
        self.scores = np.take_along_axis(scores, best, axis=1)
        found = np.take_along_axis(found, best, axis=1)
        kept = np.unique(found[found >= 0])
        self.found = np.where(found < 0, -1, np.searchsorted(kept, found))
        names = list(numbers)
        self.documents = [names[i] for i in kept.tolist()]


def _drop_repeated(found: Ints, scores: Floats) -> None:
    """Leave of the same number in a row the first, in place."""
    order = np.argsort(found, axis=1, kind="stable")
    numbers = np.take_along_axis(found, order, axis=1)
    row, place = np.nonzero((numbers[:, 1:] == numbers[:, :-1]) & (numbers[:, 1:] >= 0))
    column = order[row, place + 1]
    found[row, column], scores[row, column] = -1, -np.inf


def choose(
    best: Best,
    scores: Floats,
    highest: Floats,
    min_score: float | None,
    range_min: int,
    n_negatives: int,
    rng: np.random.RandomState | None,
) -> Ints:
    """The negatives of every query among its best documents, highest score first.

    Parameters
    ----------
    best : Best
    scores : ndarray of shape (n_queries, k)
        Scores of ``best.found``.
    highest : ndarray of shape (n_queries,)
        The highest score that a negative of each query may have.
    min_score : float or None
        The lowest.
    range_min : int
        How many of what is left, the highest first, are passed over.
    n_negatives : int
    rng : RandomState or None
        Draws from all of them; None takes the highest.

    Returns
    -------
    indices : ndarray of shape (n_queries, <= n_negatives)
        Into ``best.documents``; -1 where there are no more.
    """
    allowed = scores <= highest[:, None]
    if min_score is not None:
        allowed &= scores >= min_score
    scores = np.where(allowed, scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, range_min:]
    found = np.take_along_axis(best.found, order, axis=1)
    found[np.take_along_axis(scores, order, axis=1) == -np.inf] = -1
    if rng is None:
        return found[:, :n_negatives]
    return _draw(found, best.documents, n_negatives, rng)


def _draw(
    found: Ints, documents: list[Item], n: int, rng: np.random.RandomState
) -> Ints:
    """Draw n of every row; they stay in its order.

    Random numbers go to the documents of a row in the order of their texts or ids: that
    in which they were found changes nothing.
    """
    order = sorted(range(len(documents)), key=lambda i: _sort_key(documents[i]))
    place = np.full(len(documents) + 1, len(documents))  # the last is that of -1
    place[order] = np.arange(len(documents))
    columns = np.argsort(place[found], axis=1, kind="stable")
    keys = np.empty(found.shape)
    np.put_along_axis(keys, columns, rng.random_sample(found.shape), axis=1)
    keys[found < 0] = np.inf
    drawn = np.sort(np.argsort(keys, axis=1)[:, :n], axis=1)
    return np.take_along_axis(found, drawn, axis=1)


def _sort_key(document: Item) -> tuple[bool, Item]:
    """Ids of both types in one order."""
    return isinstance(document, str), document
