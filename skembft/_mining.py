"""Hard negatives from a frozen index. Imports torch when used."""

from dataclasses import replace

import numpy as np

from skembft._ranking import top_k
from skembft._relevance import LabelRelevance
from skembft._utils import unit_rows

N_NEGATIVES = 5
RELATIVE_MARGIN = 0.05


def mine(queries, documents, hidden, best_positive, k, relative_margin):
    """The k documents most similar to every query that look like negatives.

    Parameters
    ----------
    queries, documents : ndarray of shape (n_queries, d), (n_documents, d)
    hidden : callable (queries, column_of) -> (rows, columns)
        Coordinates of the documents that are not negatives, as `known_positives`.
    best_positive : ndarray of shape (n_queries,)
        Cosine of every query to its best relevant document, or infinity.
    k : int
    relative_margin : float
        Candidates above (1 − relative_margin) times the best positive are left out.

    Returns
    -------
    indices : int64 ndarray of shape (n_queries, min(k, n_documents))
        -1 where there are no more.
    scores : float32 ndarray of the same shape
    """
    import torch

    ceiling = best_positive - relative_margin * np.abs(best_positive)
    ceiling = torch.from_numpy(np.float32(ceiling))[:, None]

    def hide(scores, first_query, first_document):
        rows = np.arange(first_query, first_query + len(scores))
        column_of = np.full(len(documents), -1)
        columns = np.arange(scores.shape[1])
        column_of[first_document + columns] = columns
        scores[hidden(rows, column_of)] = -torch.inf
        scores[scores > ceiling[rows]] = -torch.inf

    return top_k(queries, documents, k, hide=hide)


def best_positive(queries, documents, relevance):
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
    return best


def _best_of_class(queries, documents, relevance):
    import torch

    def hide(scores, first_query, first_document):
        rows = np.arange(first_query, first_query + len(scores))
        columns = np.arange(first_document, first_document + scores.shape[1])
        grades = relevance.grades(rows, np.broadcast_to(columns, scores.shape))
        scores[grades == 0] = -torch.inf

    best = top_k(queries, documents, 1, hide=hide)[1][:, 0]
    return np.where(best == -np.inf, np.inf, best)


def with_mined_negatives(encoded):
    """Judge mined documents of the training pool as negatives of their queries."""
    data, relevance = encoded.data, encoded.data.relevance
    outside = np.setdiff1d(np.arange(len(data.documents)), data.pool)

    def hidden(rows, column_of):
        row, column = relevance.known_positives(rows, column_of)
        out = column_of[outside]
        out = out[out >= 0]
        return (
            np.concatenate([row, np.repeat(np.arange(len(rows)), len(out))]),
            np.concatenate([column, np.tile(out, len(rows))]),
        )

    indices, _ = mine(
        encoded.queries,
        encoded.documents,
        hidden,
        best_positive(encoded.queries, encoded.documents, relevance),
        N_NEGATIVES,
        RELATIVE_MARGIN,
    )
    query, place = np.nonzero(indices >= 0)
    judged = relevance.with_negatives(query, indices[query, place])
    data = replace(data, relevance=judged, n_negatives=max(data.n_negatives, 1))
    return replace(encoded, data=data)
