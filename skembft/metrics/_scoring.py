"""From vectors and judgements to metrics; used by ``score``, scorers and validation."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skembft._data.encoded import encode
from skembft._data.items import check_items
from skembft._data.judgements import check_retrieval_data
from skembft._data.relevance import Relevance
from skembft._data.retrieval_data import RetrievalData
from skembft._data.vectors import check_vector_data, check_vectors
from skembft._utils.estimators import plain_value
from skembft._utils.messages import shorten
from skembft._utils.types import (
    Data,
    Floats,
    Ints,
    ItemKind,
    Metrics,
    OwnDocuments,
    Similarity,
    Vectors,
)
from skembft._utils.vectors import check_same_width, read_vectors
from skembft.metrics._measures import query_values
from skembft.metrics._ranking import QUERY_STEP, random_ties, top_k

_BLOCK = 2**21  # documents that are retrieved and judged at a time


@dataclass(frozen=True)
class Ranking:
    """What is retrieved for queries, and the metrics of every one.

    Attributes
    ----------
    queries : ndarray of shape (n,)
        Indices of the queries that have a relevant document (and a weight above 0).
    indices : int32 ndarray of shape (n, n_kept)
        The documents that each retrieves, best first; -1 where nothing is left.
    scores : float32 ndarray of shape (n, n_kept)
        -inf where nothing is left.
    values : dict of {name: ndarray of shape (n,)}
    """

    queries: Ints
    indices: Ints
    scores: Floats
    values: dict[str, Floats]


def rank(
    queries: Vectors,
    documents: Vectors,
    relevance: Relevance,
    metrics: Metrics,
    *,
    similarity: Similarity = "cosine",
    weights: Floats | None = None,
    exclude: Ints | None = None,
    n_kept: int = 0,
) -> Ranking:
    """Rank documents for the queries that have a relevant one.

    Queries are ranked and judged in blocks: memory is set by them, and by what is kept.

    Parameters
    ----------
    queries, documents : ndarray of shape (n_queries, d), (n_documents, d)
    relevance : JudgedRelevance or LabelRelevance
    metrics : dict of {name: (function, k)}
    similarity : {"cosine", "dot"}
    weights : ndarray of shape (n_queries,) or None
    exclude : ndarray of shape (n_queries,) or None
        Index of a document that each query must not retrieve, -1 for none.
    n_kept : int
        Documents of every query to keep in the result.

    Returns
    -------
    Ranking
    """
    check_same_width(queries, documents)
    n_relevant = relevance.n_relevant
    kept = np.flatnonzero(n_relevant > 0)
    if weights is not None:
        kept = kept[weights[kept] > 0]
    if not len(kept):
        raise ValueError(
            "No query has a relevant document (and a weight above 0): there is nothing "
            "to score. Check the grades or labels in y."
        )
    depth = min(max(n_kept, *(k for _, k in metrics.values())), len(documents))
    if exclude is None:
        exclude = relevance.self_index
    indices = np.empty((len(kept), min(n_kept, depth)), dtype=np.int32)
    kept_scores = np.empty(indices.shape, dtype=np.float32)
    values: dict[str, Floats] = {name: np.empty(len(kept)) for name in metrics}
    ties = random_ties(len(documents))
    for at in _blocks(len(kept), depth):
        rows = kept[at]
        found, scores = top_k(
            queries[rows],
            documents,
            depth,
            similarity=similarity,
            exclude=None if exclude is None else exclude[rows],
            ties=ties,
        )
        indices[at], kept_scores[at] = found[:, :n_kept], scores[:, :n_kept]
        of_block = query_values(
            metrics,
            relevance.grades(rows, found),
            relevance.ideal(rows, depth),
            n_relevant[rows],
        )
        for name, value in of_block.items():
            values[name][at] = value
    return Ranking(kept, indices, kept_scores, values)


def _blocks(n_queries: int, depth: int) -> Iterator[slice]:
    """Slices of queries of which `_BLOCK` documents, or a few more, are retrieved.

    `top_k` multiplies as many queries at a time as in a single block, but for the last:
    the last block is the longer for it, and scores have the same bits.
    """
    step = max(1, _BLOCK // depth // QUERY_STEP) * QUERY_STEP
    stops = [*range(step, n_queries - QUERY_STEP + 1, step), n_queries]
    return map(slice, [0, *stops], stops)


def score_vectors(
    queries: Vectors,
    documents: Vectors,
    relevance: Relevance,
    metrics: Metrics,
    *,
    similarity: Similarity = "cosine",
    weights: Floats | None = None,
    exclude: Ints | None = None,
) -> dict[str, float]:
    """Mean metrics over the queries that have a relevant document; see `rank`.

    Returns
    -------
    dict of {name: float}
    """
    ranked = rank(
        queries,
        documents,
        relevance,
        metrics,
        similarity=similarity,
        weights=weights,
        exclude=exclude,
    )
    if weights is not None:
        weights = weights[ranked.queries]
    return {
        name: float(np.average(value, weights=weights))
        for name, value in ranked.values.items()
    }


def item_kind(estimator: Any) -> ItemKind:
    """What an encoder or finetuner takes for a query: "text", "id" or "vector"."""
    return getattr(estimator, "_item_kind", "text")


def read_data(
    estimator: Any,
    X: Data,
    y: Data,
    corpus: Data = None,
    name: str | None = None,
    suffix: str = "",
    own: OwnDocuments = False,
    stored: bool = False,
) -> RetrievalData:
    """Validate X, y and corpus as an encoder or finetuner understands them."""
    kind = item_kind(estimator)
    if kind == "vector":
        return check_vector_data(X, y, corpus, suffix)
    name = name or type(estimator).__name__
    return check_retrieval_data(
        X,
        y,
        kind=kind,
        corpus=corpus,
        name=name,
        suffix=suffix,
        own=own,
        stored=stored,
    )


def check_own(exclude_self: Any) -> OwnDocuments | None:
    """What a function was given as `exclude_self`, numpy's bools as Python's."""
    exclude_self = plain_value(exclude_self)
    if exclude_self is None or isinstance(exclude_self, bool | Mapping):
        return exclude_self
    raise TypeError(
        "exclude_self must be a bool or a dict of {query: document}, got "
        f"{shorten(exclude_self)}."
    )


def common_own(before: Any, after: Any) -> OwnDocuments:
    """What both, or the one that has it, have as `exclude_self`."""
    have = [e.exclude_self for e in (before, after) if hasattr(e, "exclude_self")]
    if len(have) == 2 and have[0] != have[1]:
        raise ValueError(
            f"exclude_self is {shorten(have[0])} in before and {shorten(have[1])} in "
            "after: pass the one by which both are to retrieve as exclude_self."
        )
    return have[0] if have else False


def check_corpus(corpus: Data) -> None:
    """Refuse a corpus that no estimator could take, whatever its kind."""
    if corpus is None:
        return
    vectors = read_vectors(corpus, "corpus")
    if hasattr(vectors, "__array__") and len(getattr(vectors, "shape", ())) == 2:
        vectors = np.asarray(vectors)
        if not vectors.size or not isinstance(vectors.flat[0], str):
            check_vectors(vectors, "corpus")
            return
    check_items(corpus, "corpus", "id")


def check_retriever(estimator: Any) -> None:
    """Raise an error unless an estimator makes vectors, and is fitted if it must be."""
    if hasattr(estimator, "_read"):  # a finetuner
        check_is_fitted(estimator)
    # of an unfitted search only the class has the method; it then says so itself
    elif not any(hasattr(o, "transform") for o in (estimator, type(estimator))):
        raise TypeError(
            f"{type(estimator).__name__} makes no vectors: pass an encoder, a "
            "finetuner, a Pipeline that ends in one or a search over these."
        )


def read_for(
    estimator: Any, X: Data, y: Data, corpus: Data = None, own: OwnDocuments = False
) -> RetrievalData:
    """Read data as a fitted estimator or an encoder takes them."""
    check_retriever(estimator)
    if hasattr(estimator, "_read"):  # it checks vectors itself
        return estimator._read(X, y, corpus, own=own)
    return read_data(estimator, X, y, corpus, own=own)


def encode_with(
    estimator: Any, data: RetrievalData
) -> tuple[Vectors, Vectors, Similarity]:
    """The vectors of queries and of documents, and how they are compared.

    Without an estimator the data are vectors.
    """
    if estimator is None:
        return *data.vectors, "cosine"
    # which may refuse
    similarity: Similarity = getattr(estimator, "_similarity", "cosine")
    queries = encode(estimator, data.queries, "query")
    documents = encode(estimator, data.documents, "document")
    check_same_width(queries, documents)
    return queries, documents, similarity


def unwrap(estimator: Any, X: Data) -> tuple[Any, Data]:
    """Follow fitted searches and pipelines down to what makes the vectors."""
    while True:
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif hasattr(estimator, "cv_results_"):
            raise ValueError(
                f"This {type(estimator).__name__} was fitted with refit=False and has "
                "no fitted estimator: pass refit=True or the name of a metric."
            )
        elif hasattr(estimator, "steps"):
            for _, step in estimator.steps[:-1]:
                if step is not None and step != "passthrough":
                    X = step.transform(X)
            estimator = estimator.steps[-1][1]
        else:
            return estimator, X


def rank_estimator(
    estimator: Any,
    data: RetrievalData,
    metrics: Metrics,
    *,
    exclude: Ints | None = None,
    n_kept: int = 0,
) -> Ranking:
    """Encode what `read_for` has read, and `rank` it."""
    queries, documents, similarity = encode_with(estimator, data)
    return rank(
        queries,
        documents,
        data.relevance,
        metrics,
        similarity=similarity,
        weights=data.weights,
        exclude=exclude,
        n_kept=n_kept,
    )
