"""NUDGE: where documents move, and how well each step size retrieves.

S. Zeighami, Z. Wellmer, A. Parameswaran, "NUDGE: Lightweight Non-Parametric Fine-Tuning
of Embeddings for Retrieval", 2024, arXiv:2409.02343.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from skembft._measures import per_query
from skembft._ranking import block_top_k, top_k
from skembft._utils import unit_rows

# queries, and elements of a temporary score matrix, that are handled at a time
_QUERIES, _BLOCK = 256, 2**24
# of moved vectors in float32: angles and differences of scores below it are noise
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Moves:
    """Documents that have somewhere to go: ``a * documents + b * directions``.

    Attributes
    ----------
    index : ndarray of shape (m,)
        Their indices among the documents.
    documents, directions : float32 ndarray of shape (m, d)
        Unit vectors: where they are, and where they go.
    cosine, sine : float32 ndarray of shape (m,) or None
        NUDGE-N: directions are orthogonal to documents, and this is the angle, at most
        a right one, by which each is rotated when it points where its queries do.
    """

    index: np.ndarray
    documents: np.ndarray
    directions: np.ndarray
    cosine: np.ndarray | None = None
    sine: np.ndarray | None = None

    def take(self, rows, index):
        """Some of them, as documents of another list."""
        parts = self.documents, self.directions, self.cosine, self.sine
        return Moves(index, *(p if p is None else p[rows] for p in parts))

    def vectors(self, gamma):
        """The moved vectors."""
        a, b = weights(gamma, self.cosine, self.sine)
        return (
            np.reshape(a, (-1, 1)) * self.documents
            + np.reshape(b, (-1, 1)) * self.directions
        )

    def bounds(self, near, far, gamma):
        """Lowest and highest scores on the way from 0 to `gamma`, as tensors.

        `near` and `far` are the products of queries with documents and directions.
        """
        import torch

        a, b = weights(gamma, self.cosine, self.sine)
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        end = a * near + b * far
        low, high = torch.minimum(near, end), torch.maximum(near, end)
        if self.cosine is None:  # scores change along a line
            return low, high
        # along a wave, whose crest or trough counts where the slope changes its sign
        turns = far * (a * far - b * near) < 0
        crest = torch.where(turns, torch.hypot(near, far), 0)
        return (
            torch.where(far < 0, torch.minimum(low, -crest), low),
            torch.where(far > 0, torch.maximum(high, crest), high),
        )


def weights(gamma, cosine, sine):
    """The factors a and b of documents, of full angles given as in `Moves`."""
    if cosine is None:
        return np.float32(1), np.float32(gamma)
    # |Δ|² ≤ gamma on the unit sphere is a rotation by this angle at most
    limit = max(1 - gamma / 2, 0)
    a, b = np.float32(limit), np.float32(np.sqrt(1 - limit**2))
    return cosine.clip(min=a), sine.clip(max=b)


def find_moves(queries, documents, positive, method):
    """Return the `Moves` that follow from training queries.

    Parameters
    ----------
    queries, documents : float32 ndarray of shape (n_queries, d), (n_documents, d)
        Unit vectors.
    positive : csr_array of shape (n_queries, n_documents)
        Not 0 where a document is relevant to a query.
    method : {"nudge_n", "nudge_m"}
    """
    index, column = np.unique(positive.indices, return_inverse=True)
    answers = sparse.csr_array(
        (np.ones(len(column), dtype=np.float32), column, positive.indptr),
        shape=(len(queries), len(index)),
    )
    toward = unit_rows(answers.T @ queries)  # the mean of its queries, on the sphere
    moves = Moves(index, documents[index], toward)
    if method == "nudge_m":
        rows = np.flatnonzero(toward.any(axis=1))
        return moves.take(rows, index[rows])
    cosine = np.einsum("ij,ij->i", moves.documents, toward)
    across = toward - cosine[:, None] * moves.documents
    sine = np.linalg.norm(across, axis=1)
    moves = replace(moves, directions=unit_rows(across), cosine=cosine, sine=sine)
    # away from its queries nothing is gained nearby; a zero vector has no direction
    can_move = (cosine >= 0) & (sine > _TOLERANCE) & moves.documents.any(axis=1)
    rows = np.flatnonzero(can_move)
    return moves.take(rows, index[rows])


def score_gammas(moves, gammas, queries, documents, relevance, metrics):
    """Mean metrics of the vectors moved by every gamma.

    Two matrix products serve all of them, since a moved vector is a sum of two that do
    not depend on gamma. Documents that do not move enter by the best of them only.

    Parameters
    ----------
    moves : Moves
    gammas : list of float
    queries, documents : float32 ndarray of shape (n_queries, d), (n_documents, d)
        Unit vectors.
    relevance : JudgedRelevance
    metrics : dict of {name: (function, k)}

    Returns
    -------
    list of dict of {name: float}
    """
    import torch

    kept = np.flatnonzero(relevance.n_relevant > 0)
    depth = min(max(k for _, k in metrics.values()), len(documents))
    moved = np.zeros(len(documents), dtype=bool)
    moved[moves.index] = True

    def hide_moved(scores, first_query, first_document):
        columns = moved[first_document : first_document + scores.shape[1]]
        scores[:, torch.from_numpy(columns)] = -torch.inf

    unmoved = top_k(queries[kept], documents, depth, hide=hide_moved)
    ideal, n_relevant = relevance.ideal(depth)[kept], relevance.n_relevant[kept]
    totals = np.zeros((len(gammas), len(metrics)))
    step = min(_QUERIES, max(1, _BLOCK // max(len(moves.index), 1)))
    for start in range(0, len(kept), step):
        at = slice(start, start + step)
        block = _Block(
            moves, max(gammas), queries[kept[at]], [part[at] for part in unmoved], depth
        )
        block.judge(relevance, kept[at])
        for total, gamma in zip(totals, gammas, strict=True):
            values = per_query(
                metrics, block.ranked_grades(gamma), ideal[at], n_relevant[at]
            )
            total += [value.sum() for value in values.values()]
    means = (totals / len(kept)).tolist()
    return [dict(zip(metrics, mean, strict=True)) for mean in means]


class _Block:
    """Scores of some queries with the documents that may be among their best.

    Parameters
    ----------
    moves : Moves
    gamma : float
        The largest one that will be asked for.
    queries : float32 ndarray of shape (n, d)
    unmoved : tuple of ndarray of shape (n, depth)
        Indices and scores of the best documents that do not move.
    depth : int
        How many documents count.
    """

    def __init__(self, moves, gamma, queries, unmoved, depth):
        import torch

        self.depth = depth
        index, best = unmoved[0], torch.from_numpy(unmoved[1])
        queries = torch.from_numpy(queries)
        near, far = (
            queries @ torch.from_numpy(vectors).T
            for vectors in (moves.documents, moves.directions)
        )
        # who is never as good as `depth` others always are is never among the best
        low, high = moves.bounds(near, far, gamma)
        floor = torch.cat([low, best], dim=1).topk(depth, dim=1).values[:, -1:]
        width = (high >= floor - _TOLERANCE).sum(dim=1).max()
        column = high.topk(width, dim=1, sorted=False).indices
        index = np.concatenate([moves.index[column], index], axis=1)
        order = torch.from_numpy(np.argsort(index, axis=1))  # ties rank in this order
        self.index = np.take_along_axis(index, order.numpy(), axis=1)

        def join(moved, of_unmoved):
            """Moved documents and, as those that turn by no angle, unmoved ones."""
            both = torch.cat([moved, of_unmoved.expand_as(best)], dim=1)
            return both.gather(1, order)

        zero, one = torch.zeros(()), torch.ones(())
        self.near = join(near.gather(1, column), best)
        self.far = join(far.gather(1, column), zero)
        self.cosine = self.sine = None
        if moves.cosine is not None:
            self.cosine = join(torch.from_numpy(moves.cosine)[column], one)
            self.sine = join(torch.from_numpy(moves.sine)[column], zero)

    def judge(self, relevance, queries):
        """Look up the grades of all documents, once for all gammas."""
        self.grades = relevance.grades(queries, self.index)

    def ranked_grades(self, gamma):
        """Grades of the best documents at one gamma, best first, (n, depth)."""
        a, b = weights(gamma, self.cosine, self.sine)
        scores = a * self.near + b * self.far
        values, place = scores.topk(min(self.depth + 1, scores.shape[1]), dim=1)
        if (values[:, 1:] == values[:, :-1]).any():  # topk takes any of equal ones
            _, place = block_top_k(scores, self.depth)
        return np.take_along_axis(self.grades, place[:, : self.depth].numpy(), axis=1)
