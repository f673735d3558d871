"""Hard negatives from a frozen index. Imports torch when used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from skembft._data.encoded import EncodedData
from skembft._data.relevance import LabelRelevance, Relevance
from skembft._utils.types import Floats, Ints, Vectors
from skembft._utils.vectors import unit_rows
from skembft.metrics._ranking import top_k

if TYPE_CHECKING:
    from torch import Tensor

N_NEGATIVES = 5
RELATIVE_MARGIN = 0.05
# by which two computations of one cosine may differ
ROUNDING = 1e-6


def mine(
    queries: Vectors,
    documents: Vectors,
    hide_known: Callable[[Tensor, Ints, int], None],
    highest: Floats,
    k: int,
) -> tuple[Ints, Floats]:
    """The k documents most similar to every query that may be its negatives.

    Parameters
    ----------
    queries, documents : ndarray of shape (n_queries, d), (n_documents, d)
    hide_known : callable (scores, rows, first_document)
        Sets scores of documents that are not negatives to -inf, in place.
    highest : float32 ndarray of shape (n_queries,)
        Candidates of a higher cosine are left out.
    k : int

    Returns
    -------
    indices : int64 ndarray of shape (n_queries, min(k, n_documents))
        -1 where there are no more.
    scores : float32 ndarray of the same shape
    """
    import torch

    ceiling = torch.from_numpy(highest)[:, None]

    def hide(scores: Tensor, first_query: int, first_document: int) -> None:
        rows = np.arange(first_query, first_query + len(scores))
        hide_known(scores, rows, first_document)
        scores[scores > ceiling[rows]] = -torch.inf

    return top_k(queries, documents, k, hide=hide)


def highest_scores(
    positive: Floats,
    relative_margin: float | None,
    absolute_margin: float | None = None,
    max_score: float | None = None,
) -> Floats:
    """The highest score that a negative of each query may have.

    Parameters
    ----------
    positive : ndarray of shape (n_queries,)
        Score of the relevant document that they keep a distance from, or infinity.
    relative_margin : float or None
        Share of the size of that score.
    absolute_margin, max_score : float or None

    Returns
    -------
    ndarray of shape (n_queries,), of the type of `positive`
    """
    highest = np.full_like(positive, np.inf if max_score is None else max_score)
    known = np.isfinite(positive)
    score = positive[known]
    if relative_margin is not None:
        allowed = score - relative_margin * np.abs(score)
        highest[known] = np.minimum(highest[known], allowed)
    if absolute_margin is not None:
        highest[known] = np.minimum(highest[known], score - absolute_margin)
    return highest


def best_positive(queries: Vectors, documents: Vectors, relevance: Relevance) -> Floats:
    """Cosine of every query to its best relevant document; infinity without one."""
    if isinstance(relevance, LabelRelevance):
        return _best_of_class(queries, documents, relevance)
    query, document = relevance.positive_coordinates()
    best = np.full(len(queries), -np.inf)
    for start in range(0, len(query), 16384):
        q, d = query[start : start + 16384], document[start : start + 16384]
        cosines = (unit_rows(queries[q]) * unit_rows(documents[d])).sum(axis=1)
        np.maximum.at(best, q, cosines)
    best[best == -np.inf] = np.inf
    return best.astype(np.float32)


def _best_of_class(
    queries: Vectors, documents: Vectors, relevance: LabelRelevance
) -> Floats:
    import torch

    def hide(scores: Tensor, first_query: int, first_document: int) -> None:
        rows = np.arange(first_query, first_query + len(scores))
        columns = slice(first_document, first_document + scores.shape[1])
        scores[~torch.from_numpy(relevance.same_class(rows, columns))] = -torch.inf

    own = relevance.self_index
    best = top_k(queries, documents, 1, exclude=own, hide=hide)[1][:, 0]
    return np.where(best == -np.inf, np.inf, best)


def with_mined_negatives(encoded: EncodedData) -> EncodedData:
    """Judge mined documents of the training pool as negatives of their queries."""
    data, relevance = encoded.data, encoded.data.relevance
    outside = np.ones(len(data.documents), dtype=bool)
    outside[data.pool] = False

    def hide(scores: Tensor, rows: Ints, first_document: int) -> None:
        relevance.hide_known(scores, rows, first_document)
        columns = outside[first_document : first_document + scores.shape[1]]
        scores[:, columns] = -np.inf

    positive = best_positive(encoded.queries, encoded.documents, relevance)
    indices, _ = mine(
        encoded.queries,
        encoded.documents,
        hide,
        highest_scores(positive, RELATIVE_MARGIN) + ROUNDING,
        N_NEGATIVES,
    )
    query, place = np.nonzero(indices >= 0)
    judged = relevance.with_negatives(query, indices[query, place])
    data = replace(data, relevance=judged, n_negatives=max(data.n_negatives, 1))
    return replace(encoded, data=data)
