"""NUDGE: where documents move.

S. Zeighami, Z. Wellmer, A. Parameswaran, "NUDGE: Lightweight Non-Parametric Fine-Tuning
of Embeddings for Retrieval", 2024, arXiv:2409.02343.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import sparse

from skembft._utils.types import Floats, Ints, Vectors
from skembft._utils.vectors import unit_rows

_TOLERANCE = 1e-6  # shorter sines of float32 vectors are noise


Factor: TypeAlias = np.float32 | Floats  # of all vectors, or one for each


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

    index: Ints
    documents: Vectors
    directions: Vectors
    cosine: Floats | None = None
    sine: Floats | None = None

    def take(self, rows: Ints, index: Ints) -> "Moves":
        """Some of them, as documents of another list."""
        cosine, sine = (p if p is None else p[rows] for p in (self.cosine, self.sine))
        return Moves(index, self.documents[rows], self.directions[rows], cosine, sine)

    def vectors(self, gamma: float) -> Vectors:
        """The moved vectors."""
        a, b = weights(gamma, self.cosine, self.sine)
        vectors = np.reshape(a, (-1, 1)) * self.documents
        vectors += np.reshape(b, (-1, 1)) * self.directions
        return vectors


def weights(
    gamma: float, cosine: Floats | None, sine: Floats | None
) -> tuple[Factor, Factor]:
    """The factors a and b of documents, of full angles given as in `Moves`."""
    if cosine is None or sine is None:
        return np.float32(1), np.float32(gamma)
    # |Δ|² ≤ gamma on the unit sphere is a rotation by this angle at most
    limit = max(1 - gamma / 2, 0)
    a, b = np.float32(limit), np.float32(np.sqrt(1 - limit**2))
    return cosine.clip(min=a), sine.clip(max=b)


def find_moves(
    queries: Vectors,
    documents: Vectors,
    positive: sparse.csr_array,
    method: str,
    weights: Floats | None = None,
) -> Moves:
    """Return the `Moves` that follow from training queries.

    Parameters
    ----------
    queries, documents : float32 ndarray of shape (n_queries, d), (n_documents, d)
        Unit vectors.
    positive : csr_array of shape (n_queries, n_documents)
        Not 0 where a document is relevant to a query.
    method : {"nudge_n", "nudge_m"}
    weights : ndarray of shape (n_queries,) or None
        What each query counts.
    """
    from torch import from_numpy
    from torch.nn.functional import embedding_bag

    answered = positive.T.tocsr()
    index = np.flatnonzero(np.diff(answered.indptr))
    starts = from_numpy(answered.indptr[index])
    rows = from_numpy(np.require(queries, requirements=["C", "W"]))
    factors = None
    if weights is not None:
        factors = from_numpy(weights[answered.indices].astype(np.float32))
    summed = embedding_bag(
        from_numpy(answered.indices),
        rows,
        starts,
        mode="sum",
        per_sample_weights=factors,
    )
    toward = unit_rows(summed.numpy())  # the mean of its queries, on the sphere
    documents = documents[index]
    if method == "nudge_m":
        moves, can_move = Moves(index, documents, toward), toward.any(axis=1)
    else:
        cosine = np.einsum("ij,ij->i", documents, toward)
        across = np.subtract(toward, cosine[:, None] * documents, out=toward)
        sine = np.linalg.norm(across, axis=1)
        # away from its queries nothing is gained nearby; a zero vector has no direction
        can_move = (cosine >= 0) & (sine > _TOLERANCE) & documents.any(axis=1)
        across /= np.where(can_move, sine, 1)[:, None]
        moves = Moves(index, documents, across, cosine, sine)
    kept = np.flatnonzero(can_move)
    return moves if can_move.all() else moves.take(kept, index[kept])
