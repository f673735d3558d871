"""The metrics themselves: pure functions of the grades of ranked documents."""

from collections.abc import Callable

import numpy as np

from skembft._utils.messages import nearest, shorten
from skembft._utils.types import Floats, Ints, MetricNames, Metrics

_Counts = Floats | Ints
_Metric = Callable[[Floats, Floats, _Counts, int], Floats]

# what validation and comparisons tell, besides what was asked for
HISTORY_METRICS = (
    "ndcg@10",
    "mrr@10",
    "map@100",
    "recall@10",
    "precision@10",
    "hit_rate@10",
)
_IR_MEASURES = {
    "nDCG": "ndcg",
    "RR": "mrr",
    "AP": "map",
    "R": "recall",
    "P": "precision",
    "Success": "hit_rate",
}


def _ndcg(grades: Floats, ideal: Floats, n_relevant: _Counts, k: int) -> Floats:
    depth = min(k, max(grades.shape[1], ideal.shape[1]))
    discount = 1 / np.log2(np.arange(2, depth + 2))
    best = (ideal[:, :k] * discount[: ideal.shape[1]]).sum(axis=1)
    found = (grades[:, :k] * discount[: grades.shape[1]]).sum(axis=1)
    return found / np.where(best > 0, best, 1)


def _mrr(grades: Floats, ideal: Floats, n_relevant: _Counts, k: int) -> Floats:
    ranks = np.arange(1, grades[:, :k].shape[1] + 1)
    return ((grades[:, :k] > 0) / ranks).max(axis=1, initial=0)


def _map(grades: Floats, ideal: Floats, n_relevant: _Counts, k: int) -> Floats:
    hits = grades[:, :k] > 0
    precisions = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    return (precisions * hits).sum(axis=1) / np.maximum(n_relevant, 1)


def _recall(grades: Floats, ideal: Floats, n_relevant: _Counts, k: int) -> Floats:
    return (grades[:, :k] > 0).sum(axis=1) / np.maximum(n_relevant, 1)


def _precision(grades: Floats, ideal: Floats, n_relevant: _Counts, k: int) -> Floats:
    return (grades[:, :k] > 0).sum(axis=1) / k


def _hit_rate(grades: Floats, ideal: Floats, n_relevant: _Counts, k: int) -> Floats:
    return np.any(grades[:, :k] > 0, axis=1).astype(np.float64)


_METRICS: dict[str, _Metric] = {
    "ndcg": _ndcg,
    "mrr": _mrr,
    "map": _map,
    "recall": _recall,
    "precision": _precision,
    "hit_rate": _hit_rate,
}


def parse_metric(name: str) -> tuple[_Metric, int]:
    """Return (function, k) of a metric's name, or raise a ValueError that helps."""
    if not isinstance(name, str):
        raise TypeError(f"A metric is a str such as 'ndcg@10', got {shorten(name)}.")
    stem, at, k = name.partition("@")
    stem = _IR_MEASURES.get(stem, stem)
    if stem not in _METRICS:
        hint = nearest(stem, _METRICS, suffix=f"@{k or 10}")
        raise ValueError(f"Unknown metric {name!r}. {hint}")
    if not (at and k.isascii() and k.isdigit() and int(k) > 0):
        raise ValueError(
            f"The metric {name!r} needs a cut-off, a positive whole number: "
            f"'{name.partition('@')[0]}@10'."
        )
    return _METRICS[stem], int(k)


def check_metrics(metrics: MetricNames) -> Metrics:
    """Return {name: (function, k)} of one metric name or a list of them."""
    names = [metrics] if isinstance(metrics, str) else metrics
    if not isinstance(names, list | tuple) or not names:
        raise TypeError(
            "metrics must be a metric's name or a list of names, got "
            f"{shorten(metrics)}."
        )
    return {name: parse_metric(name) for name in names}


def query_values(
    metrics: Metrics, grades: Floats, ideal: Floats, n_relevant: _Counts
) -> dict[str, Floats]:
    """Values of every metric for every query.

    Parameters
    ----------
    metrics : dict of {name: (function, k)}
    grades : ndarray of shape (n_queries, depth)
        Grades of the ranked documents, best first; 0 where not relevant.
    ideal : ndarray of shape (n_queries, depth)
        The highest grades of each query, descending, padded with 0.
    n_relevant : ndarray of shape (n_queries,)

    Returns
    -------
    dict of {name: ndarray of shape (n_queries,)}
    """
    return {
        name: function(grades, ideal, n_relevant, k)
        for name, (function, k) in metrics.items()
    }
