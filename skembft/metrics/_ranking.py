"""Exact top-k retrieval in chunks; the only place where vectors are ranked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from skembft._utils.types import Floats, Ints, Similarity, Vectors
from skembft._utils.vectors import check_finite, unit_rows

if TYPE_CHECKING:
    from torch import Tensor

# elements of the block of scores: memory is set by this, not by the data, and a block
# that stays in the processor's cache is not written to memory at all
_BLOCK = 2**23
QUERY_STEP = 1024  # queries that are multiplied at a time


class Rows(Protocol):
    """A matrix of vectors, or what makes slices of one when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Vectors: ...


def top_k(
    queries: Vectors,
    documents: Rows,
    k: int,
    *,
    similarity: Similarity = "cosine",
    exclude: Ints | None = None,
    hide: Callable[[Tensor, int, int], None] | None = None,
    ties: Ints | None = None,
) -> tuple[Ints, Floats]:
    """Return the `k` best documents of every query, best first.

    Parameters
    ----------
    queries : ndarray of shape (n_queries, d)
    documents : ndarray of shape (n_documents, d)
    k : int
        Capped at the number of documents.
    similarity : {"cosine", "dot"}
    exclude : ndarray of shape (n_queries,) or None
        Index of one document that each query must not retrieve.
    hide : callable (scores, first_query, first_document) or None
        Sets scores of a block (a tensor) that must not be retrieved to -inf, in place.
    ties : ndarray of shape (n_documents,) or None
        Of documents with equal scores the one of the lowest number comes first. None
        means the first in their order.

    Returns
    -------
    indices : int64 ndarray of shape (n_queries, min(k, n_documents))
        -1 where nothing is left to retrieve.
    scores : float32 ndarray of the same shape
    """
    import torch

    n_queries, n_documents = len(queries), len(documents)
    k = min(k, n_documents)
    to_tensor = _unit_tensor if similarity == "cosine" else _tensor
    q = to_tensor(queries, 0, "query")
    query_step = max(1, min(n_queries, QUERY_STEP))
    document_step = max(k, _BLOCK // max(query_step, queries.shape[1], 1))
    in_memory: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    block = torch.empty(query_step * min(document_step, n_documents), **in_memory)
    best_score = torch.full((n_queries, k), -torch.inf, **in_memory)
    best_index = torch.full((n_queries, k), -1, device="cpu")
    places = None if ties is None else torch.from_numpy(ties)
    for start in range(0, n_documents, document_step):
        chunk = to_tensor(documents[start : start + document_step], start, "document")
        for first in range(0, n_queries, query_step):
            rows = slice(first, first + query_step)
            part = q[rows]
            scores = block[: len(part) * len(chunk)].view(len(part), len(chunk))
            torch.mm(part, chunk.T, out=scores)
            if exclude is not None:
                own = torch.from_numpy(exclude[rows] - start)
                known = torch.nonzero((own >= 0) & (own < len(chunk)))[:, 0]
                scores[known, own[known]] = -torch.inf
            if hide is not None:
                hide(scores, first, start)
            if start == 0:
                here = None if places is None else places[: len(chunk)]
                found = block_top_k(scores, k, here)
            else:
                best = best_score[rows], best_index[rows]
                found = _improve(*best, scores, start, places)
            best_score[rows], best_index[rows] = found
    best_index[best_score == -torch.inf] = -1
    return best_index.numpy(), best_score.numpy()


def random_ties(n_documents: int) -> Ints:
    """Numbers that break ties in a fixed random order, for `top_k`.

    The order of documents may know the answer: relevant ones often stand first.
    """
    return np.random.RandomState(0).permutation(n_documents)


def _improve(
    best_score: Tensor,
    best_index: Tensor,
    scores: Tensor,
    start: int,
    places: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The k best of those found so far and of a block of documents behind them."""
    import torch

    n_queries, k = best_score.shape
    # only what is as good can enter, which is little after the first blocks
    last = best_score[:, -1:]
    enters = scores > last if places is None else scores >= last
    better = np.flatnonzero(enters.numpy())
    if len(better) > scores.numel() // 8:
        here = None if places is None else places[start : start + scores.shape[1]]
        found = block_top_k(scores, min(k, scores.shape[1]), here)
        score = torch.cat([best_score, found[0]], dim=1)
        index = torch.cat([best_index, found[1] + start], dim=1)
    else:
        row, document = np.divmod(better, scores.shape[1])
        counts = np.bincount(row, minlength=n_queries)
        place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        shape = (n_queries, k + counts.max(initial=0))
        score = torch.full(shape, -torch.inf, dtype=scores.dtype, device="cpu")
        index = torch.full(shape, -1, device="cpu")
        score[:, :k], index[:, :k] = best_score, best_index
        score.numpy()[row, k + place] = scores.numpy()[row, document]
        index.numpy()[row, k + place] = document + start
    score, order = torch.sort(score, dim=1, descending=True)
    index = index.gather(1, order)
    _order_ties(score, index, places)
    return score[:, :k], index[:, :k]


def _unit_tensor(vectors: Vectors, start: int, role: str) -> Tensor:
    """Return float32 vectors of unit length as a tensor, or name the first bad row."""
    import torch

    vectors = np.require(
        vectors, np.float32, ["C", "W"]
    )  # torch warns of a read-only map
    tensor = torch.from_numpy(vectors)
    norms = torch.linalg.vector_norm(tensor, dim=1, keepdim=True)
    # not finite, or so long or short that squares over- or underflow
    if not ((norms > 1e-15) & (norms < 1e15)).all():
        check_finite(vectors, f"The {role} vectors", start)
        return torch.from_numpy(unit_rows(vectors))
    # most are unit vectors already; which are is a matter of each row, not of its block
    others = ((norms - 1).abs() > 1e-6) & (norms != 0)
    return tensor / norms.masked_fill(~others, 1) if others.any() else tensor


def _tensor(vectors: Vectors, start: int, role: str) -> Tensor:
    """Return float32 vectors as a tensor, or name the first bad row."""
    import torch

    check_finite(vectors, f"The {role} vectors", start)
    return torch.from_numpy(np.require(vectors, np.float32, ["C", "W"]))


def block_top_k(
    scores: Tensor, k: int, places: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Top k of every row, best first, equal scores by `places`, or by their index."""
    import torch

    # topk takes any of several documents with the score of the k-th; one place more
    # tells where there are more of them than places, and there the first are taken
    values, index = torch.topk(scores, min(k + 1, scores.shape[1]), dim=1)
    threshold, index = values[:, k - 1 : k], index[:, :k]
    crowded = (values[:, k:] == threshold).any(dim=1)
    rows = torch.nonzero(crowded)[:, 0]
    if len(rows):
        part, level = scores[rows], threshold[rows]
        order = places
        if order is None:
            order = torch.arange(scores.shape[1], device="cpu")
        order = order.expand_as(part).masked_fill(part > level, -1)
        order = order.masked_fill(part < level, torch.iinfo(order.dtype).max)
        index[rows] = torch.topk(order, k, largest=False).indices
    values, order = torch.sort(scores.gather(1, index), dim=1, descending=True)
    index = index.gather(1, order)
    _order_ties(values, index, places)
    return values, index


def _order_ties(values: Tensor, index: Tensor, places: Tensor | None) -> None:
    """Order equal values of every row, which stand together, by places; in place."""
    import torch

    tied = torch.nonzero((values[:, 1:] == values[:, :-1]).any(dim=1))[:, 0]
    if len(tied):
        rows, group = index[tied], torch.zeros_like(index[tied])
        group[:, 1:] = (values[tied, 1:] != values[tied, :-1]).cumsum(dim=1)
        place = rows if places is None else places[rows.clamp(min=0)]
        order = (place + group * (int(place.max()) + 2)).argsort(dim=1)
        index[tied] = rows.gather(1, order)
