"""How well every step size of NUDGE retrieves: all are ranked from two products.

A plain ranking of all documents at every gamma gives the same and takes three to four
times as long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skembft._corpus.nudge import Moves, weights
from skembft._data.relevance import JudgedRelevance
from skembft._utils.types import Floats, Ints, Metrics, Vectors
from skembft.metrics._measures import query_values
from skembft.metrics._ranking import random_ties, top_k

if TYPE_CHECKING:
    from torch import Tensor

# at a time: queries, elements of a matrix of scores, and how far documents go
_QUERIES, _BLOCK, _WAY = 512, 2**21, 0.2
_LAST = -100.0  # a score below all others
_SLACK = 1e-5  # scores of float32 vectors differ by less


def score_gammas(
    moves: Moves,
    gammas: list[float],
    queries: Vectors,
    documents: Vectors,
    relevance: JudgedRelevance,
    metrics: Metrics,
    exclude: Ints | None = None,
) -> list[dict[str, Floats]]:
    """Metrics of every query, for the vectors moved by every gamma.

    Two matrix products serve all of them, since a moved vector is a sum of two that do
    not depend on gamma. Documents that do not move enter by the best of them only, and
    those that move where they may be among the best of a query.

    Parameters
    ----------
    moves : Moves
    gammas : list of float
        Ascending, from 0.
    queries, documents : float32 ndarray of shape (n_queries, d), (n_documents, d)
        Unit vectors.
    relevance : JudgedRelevance
    metrics : dict of {name: (function, k)}
    exclude : ndarray of shape (n_queries,) or None
        Index of a document that each query must not retrieve, -1 for none.

    Returns
    -------
    list of dict of {name: ndarray of shape (n,)}
        Of the n queries that have a relevant document.
    """
    kept = np.flatnonzero(relevance.n_relevant > 0)
    depth = min(max(k for _, k in metrics.values()), len(documents))
    others = np.delete(np.arange(len(documents)), moves.index)
    own = np.full(len(kept), -1) if exclude is None else exclude[kept]
    ties = random_ties(len(documents))
    best, best_scores = top_k(
        queries[kept],
        _Rows(documents, others),
        depth,
        exclude=_places(own, others, len(documents)),
        ties=ties[others],
    )
    best = np.where(best < 0, -1, others[best])
    column = _places(own, moves.index, len(documents))
    ideal, n_relevant = relevance.ideal(kept, depth), relevance.n_relevant[kept]
    width = max(len(moves.index), len(gammas) * depth)
    step = min(_QUERIES, max(1, _BLOCK // width))
    blocks = np.array_split(np.arange(len(kept)), -(-len(kept) // step))
    block = _Block(moves, len(blocks[0]), depth, ties)
    found = {name: np.empty((len(gammas), len(kept))) for name in metrics}
    for at in blocks:
        block.fill(queries[kept[at]], best[at], best_scores[at], column[at])
        grades = block.ranked_grades(gammas, relevance, kept[at], own[at])
        values = query_values(
            metrics,
            grades.reshape(-1, depth),
            np.tile(ideal[at], (len(gammas), 1)),
            np.tile(n_relevant[at], len(gammas)),
        )
        for name, value in values.items():
            found[name][:, at] = value.reshape(len(gammas), -1)
    return [{name: found[name][i] for name in metrics} for i in range(len(gammas))]


def _places(items: Ints, among: Ints, n: int) -> Ints:
    """Where items, numbers below `n` or -1, are in a list of others, or -1."""
    place = np.full(n + 1, -1)  # the last is that of -1
    place[among] = np.arange(len(among))
    return place[items]


class _Rows:
    """Some rows of a matrix, of which slices are taken."""

    def __init__(self, matrix: Vectors, index: Ints) -> None:
        self.matrix, self.index = matrix, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, at: slice) -> Vectors:
        return self.matrix[self.index[at]]


class _Block:
    """Some queries, and the documents that may be among the best of them.

    Parameters
    ----------
    moves : Moves
    n_queries : int
        The most queries at a time.
    depth : int
        How many documents count.
    ties : ndarray of shape (n_documents,)
        Of documents with equal scores the one of the lowest number comes first.
    """

    def __init__(self, moves: Moves, n_queries: int, depth: int, ties: Ints) -> None:
        import torch

        self.moves, self.depth, self.ties = moves, depth, ties
        # fresh memory is slow: all blocks of queries use the same
        self.memory = torch.empty(
            5, n_queries, len(moves.index), dtype=torch.float32, device="cpu"
        )

    def fill(
        self, queries: Vectors, others: Ints, other_scores: Floats, hidden: Ints
    ) -> None:
        """Take other queries (n, d), and their best of what does not move (n, k).

        `hidden` is of every query a column of what moves that comes last, or -1.
        """
        from torch import from_numpy, mm

        self.others, self.other_scores = others, other_scores
        self.near, self.far, *self.spare = self.memory[:, : len(queries)]
        rows = from_numpy(queries)
        mm(rows, from_numpy(self.moves.documents).T, out=self.near)
        mm(rows, from_numpy(self.moves.directions).T, out=self.far)
        row = np.flatnonzero(hidden >= 0)
        self.near.numpy()[row, hidden[row]] = _LAST
        self.far.numpy()[row, hidden[row]] = 0

    def ranked_grades(
        self,
        gammas: list[float],
        relevance: JudgedRelevance,
        queries: Ints,
        own: Ints,
    ) -> Floats:
        """Grades of the best documents at every gamma, (n_gammas, n, depth).

        What is hidden (`own`, -1 for none) is not retrieved and has grade 0.
        """
        grades = np.empty((len(gammas), len(queries), self.depth))
        places = np.arange(self.depth)
        way = self._way(np.asarray(gammas))
        first, start, (end, next_end, spare) = 0, self.near, self.spare
        while first < len(gammas):
            last = np.searchsorted(way, way[first] + _WAY, side="right") - 1
            last = min(max(last, first + 1), len(gammas) - 1)
            some = slice(first, last if last < len(gammas) - 1 else None)
            self._scores(gammas[last], out=end)
            found = self._may_be_best(start, end, way[last] - way[first], spare)
            row, document, scores = self._rivals(*found, gammas[some])
            of_rivals = relevance.grades(queries[row], document[:, None])[:, 0]
            of_rivals[document == own[row]] = 0
            starts = np.searchsorted(row, np.arange(len(queries)))
            ranked = _rank(scores, row)[:, starts[:, None] + places]
            grades[some] = of_rivals[ranked]
            first, start, end, next_end = first + len(scores), end, next_end, end
        return grades

    def _way(self, gammas: Floats) -> Floats:
        """How far documents go at most: a distance, or an angle."""
        if self.moves.cosine is None:
            return gammas
        return np.arccos(np.maximum(1 - gammas / 2, 0))

    def _scores(self, gamma: float, out: Tensor) -> None:
        """Scores of the documents that move, at one gamma."""
        from torch import addcmul, as_tensor, mul

        factors = weights(gamma, self.moves.cosine, self.moves.sine)
        a, b = (as_tensor(factor, device="cpu") for factor in factors)
        near = self.near if a.ndim == 0 else mul(self.near, a, out=out)
        addcmul(near, self.far, b, out=out)

    def _may_be_best(
        self, start: Tensor, end: Tensor, way: float, out: Tensor
    ) -> tuple[Ints, Ints]:
        """Places of moving and of other documents, row by row, from start to end.

        `start` and `end` are scores, and `out` is memory of their size.
        """
        import torch

        # who is never as good as `depth` others always are is never among the best
        low = torch.minimum(start, end, out=out)
        floor = _kth_highest(low, self.other_scores, self.depth)
        high = torch.maximum(start, end, out=out).numpy()
        if self.moves.cosine is not None:
            # scores are a wave, whose crest is at most half of the angle away from an
            # end: there it has this share of its height
            share = np.cos(way / 2).astype(np.float32)
            floor = np.minimum(floor * share, floor / share)
        floor -= _SLACK
        return np.flatnonzero(high >= floor), np.flatnonzero(self.other_scores >= floor)

    def _rivals(
        self, found: Ints, found_others: Ints, gammas: list[float]
    ) -> tuple[Ints, Ints, Floats]:
        """Rows and documents, in order, and their scores at every gamma."""
        rows, columns = np.divmod(found, len(self.moves.index))
        near, far = self.near.numpy().ravel()[found], self.far.numpy().ravel()[found]
        cosine, sine = (
            part if part is None else part[columns]
            for part in (self.moves.cosine, self.moves.sine)
        )
        scores = np.empty((len(gammas), len(found) + len(found_others)), np.float32)
        scores[:, len(found) :] = self.other_scores.ravel()[found_others]
        for of_gamma, gamma in zip(scores, gammas, strict=True):
            a, b = weights(gamma, cosine, sine)
            np.add(a * near, b * far, out=of_gamma[: len(found)])
        rows = np.append(rows, found_others // self.others.shape[1])
        documents = np.append(
            self.moves.index[columns], self.others.ravel()[found_others]
        )
        order = np.argsort((rows << 32) + self.ties[documents], kind="stable")
        return rows[order], documents[order], scores[:, order]


def _kth_highest(scores: Tensor, others: Floats, k: int) -> Floats:
    """The k-th highest score of every row and its others, (n, 1), or one little lower.

    Parameters
    ----------
    scores : tensor of shape (n, m)
    others : ndarray of shape (n, at least k - m)
    """
    # the highest of every few: the k-th of them is no higher than that of all
    size = max(1, scores.shape[1] // (16 * k))
    width = scores.shape[1] // size
    highest = scores[:, : size * width].view(len(scores), size, width).amax(dim=1)
    best = np.concatenate([highest.numpy(), others], axis=1)
    return np.partition(best, -k, axis=1)[:, -k, None]


def _rank(scores: Floats, row: Ints) -> Ints:
    """Indices of scores, row by row, the highest first, equal ones in their order.

    Parameters
    ----------
    scores : float32 ndarray of shape (…, n)
    row : int64 ndarray of shape (n,)
        Ascending.

    Returns
    -------
    indices : int64 ndarray of shape (…, n)
    """
    # 64 bits of row, score and index sort several times as fast as a stable argsort;
    # the bits of a float are in its order once those of negative ones are flipped
    bits = (scores + 0).view(np.int32)  # -0 becomes 0
    bits ^= (bits >> 31) & 0x7FFFFFFF
    shift = len(row).bit_length()
    keys = (row << 32) - bits
    keys <<= shift
    keys += np.arange(len(row))
    keys.sort(axis=-1)
    keys &= (1 << shift) - 1
    return keys
