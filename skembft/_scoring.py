"""From vectors and judgements to metrics; used by ``score``, scorers and validation."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skembft._inputs import check_retrieval_data, check_vector_data
from skembft._measures import per_query
from skembft._ranking import top_k
from skembft._utils import check_same_width


def score_vectors(
    queries, documents, relevance, metrics, *, similarity="cosine", weights=None
):
    """Mean metrics over the queries that have a relevant document.

    Parameters
    ----------
    queries, documents : ndarray of shape (n_queries, d), (n_documents, d)
    relevance : JudgedRelevance or LabelRelevance
    metrics : dict of {name: (function, k)}
    similarity : {"cosine", "dot"}
    weights : ndarray of shape (n_queries,) or None

    Returns
    -------
    dict of {name: float}
    """
    check_same_width(queries, documents)
    kept = np.flatnonzero(relevance.n_relevant > 0)
    if weights is not None:
        kept = kept[weights[kept] > 0]
    if not len(kept):
        raise ValueError(
            "No query has a relevant document (and a weight above 0): there is nothing "
            "to score. Check the grades or labels in y."
        )
    depth = min(max(k for _, k in metrics.values()), len(documents))
    exclude = relevance.self_index
    indices, _ = top_k(
        queries[kept],
        documents,
        depth,
        similarity=similarity,
        exclude=None if exclude is None else exclude[kept],
    )
    values = per_query(
        metrics,
        relevance.grades(kept, indices),
        relevance.ideal(depth)[kept],
        relevance.n_relevant[kept],
    )
    weights = None if weights is None else weights[kept]
    return {
        name: float(np.average(value, weights=weights))
        for name, value in values.items()
    }


def item_kind(estimator):
    """What an encoder or finetuner takes for a query: "text", "id" or "vector"."""
    return getattr(estimator, "_item_kind", "text")


def read_data(estimator, X, y, corpus=None, name=None, suffix=""):
    """Validate X, y and corpus as an encoder or finetuner understands them."""
    kind = item_kind(estimator)
    if kind == "vector":
        return check_vector_data(X, y, corpus, suffix)
    name = name or type(estimator).__name__
    return check_retrieval_data(
        X, y, kind=kind, corpus=corpus, name=name, suffix=suffix
    )


def score_estimator(estimator, X, y, metrics, *, corpus=None, sample_weight=None):
    """Encode, rank once and return {name: value} for a fitted estimator."""
    if hasattr(estimator, "_read"):  # a finetuner, which checks vectors itself
        check_is_fitted(estimator)
        data = estimator._read(X, y, corpus)
        queries = estimator._query_vectors(data.queries)
    else:
        data = read_data(estimator, X, y, corpus)
        queries = np.asarray(estimator.transform(data.queries))
    return score_vectors(
        queries,
        np.asarray(estimator.transform_documents(data.documents)),
        data.relevance,
        metrics,
        similarity=getattr(estimator, "_similarity", "cosine"),
        weights=data.query_weights(sample_weight),
    )
