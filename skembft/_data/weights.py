"""Weights of queries in training."""

from dataclasses import replace

import numpy as np

from skembft._data.numbering import Numbering
from skembft._data.relevance import LabelRelevance
from skembft._data.retrieval_data import RetrievalData
from skembft._data.vectors import row_keys
from skembft._utils.types import Data, Floats, Ints, Vectors


def weigh(
    data: RetrievalData, sample_weight: Data, name: str = "sample_weight"
) -> RetrievalData:
    """Give queries the weights of their rows.

    Vectors with class labels are queries and documents at once: there a row of weight w
    is as good as w copies of it, and none of them answers another; without weights each
    counts 1. So copies are merged, and rows of weight 0 left out; but for data of
    nothing else, where each class is one vector and its copies.
    """
    weights = data.query_weights(sample_weight, name)
    if weights is not None and not weights.any():
        raise ValueError(f"{name} is zero in every row: there is nothing to learn.")
    if isinstance(data.relevance, LabelRelevance):
        assert isinstance(data.queries, np.ndarray)
        return _merge_copies(data, data.queries, data.relevance.labels, weights)
    return replace(data, weights=weights)


def _merge_copies(
    data: RetrievalData, X: Vectors, labels: Ints, weights: Floats | None
) -> RetrievalData:
    """Merge equal vectors of a class, into an order that does not depend on theirs."""
    given, n_rows = weights, len(X)
    weights = np.ones(n_rows) if given is None else given
    counted = np.flatnonzero(weights)
    hashes = row_keys(X)
    keys = [(hashes[i], int(labels[i])) for i in counted.tolist()]
    place = {key: i for i, key in enumerate(sorted(set(keys)))}
    if len(place) == n_rows and (weights == 1).all():
        return data
    at = np.array([place[key] for key in keys])
    _, first = np.unique(at, return_index=True)
    rows, distinct = counted[first], np.arange(len(place))
    row_query = np.full(n_rows, len(rows))  # what counts nothing
    row_query[counted] = at
    vectors = X[rows]
    merged = replace(
        data,
        queries=vectors,
        documents=vectors,
        relevance=LabelRelevance(Numbering().of(labels[rows].tolist())),
        row_query=row_query,
        example_row=rows,
        example_document=distinct,
        example_grade=np.ones(len(rows)),
        pool=distinct,
        weights=np.bincount(at, weights[counted]).astype(np.float64),
    )
    if len(merged.answerable) or not weights.all():
        return merged
    return replace(data, weights=given)


def draw_by_weight(weights: Floats, rng: np.random.RandomState) -> Ints:
    """As many indices as there are weights, each as often as its weight says.

    The expected number of draws of an index is its weight divided by the mean weight,
    and the number is that one rounded up or down (systematic sampling): with equal
    weights each is drawn once.

    Parameters
    ----------
    weights : ndarray of shape (n,)
        Not negative.
    rng : RandomState

    Returns
    -------
    indices : int64 ndarray of shape (n,)
        None where all weights are 0.
    """
    if not weights.any():
        return np.empty(0, dtype=np.int64)
    order = rng.permutation(len(weights))
    ends = np.cumsum(weights[order])
    ends = np.round(
        ends * (len(weights) / ends[-1]), 9
    )  # whole where weights are equal
    counts = np.diff(np.floor(ends + rng.random_sample()), prepend=0)
    return np.repeat(order, counts.astype(np.int64))
