"""Metrics of a run, from dicts of judgements and scores."""

import math
import numbers
from collections.abc import Hashable, Mapping
from typing import Any, Literal, TypeVar, overload

import numpy as np

from skembft._utils.messages import shorten
from skembft._utils.types import MetricNames
from skembft.metrics._measures import check_metrics, query_values

_Q = TypeVar("_Q", bound=Hashable)
# of documents, by id
_Numbers = Mapping[Any, float | np.integer | np.floating | np.bool_]


@overload
def evaluate(
    qrels: Mapping[_Q, _Numbers],
    run: Mapping[_Q, _Numbers],
    metrics: MetricNames = ...,
    *,
    per_query: Literal[False] = ...,
    exclude_self: bool = ...,
) -> dict[str, float]: ...
@overload
def evaluate(
    qrels: Mapping[_Q, _Numbers],
    run: Mapping[_Q, _Numbers],
    metrics: MetricNames = ...,
    *,
    per_query: Literal[True],
    exclude_self: bool = ...,
) -> dict[_Q, dict[str, float]]: ...
@overload
def evaluate(
    qrels: Mapping[_Q, _Numbers],
    run: Mapping[_Q, _Numbers],
    metrics: MetricNames = ...,
    *,
    per_query: bool,
    exclude_self: bool = ...,
) -> dict[str, float] | dict[_Q, dict[str, float]]: ...
def evaluate(
    qrels: Mapping[_Q, _Numbers],
    run: Mapping[_Q, _Numbers],
    metrics: MetricNames = "ndcg@10",
    *,
    per_query: bool = False,
    exclude_self: bool = False,
) -> dict[str, float] | dict[_Q, dict[str, float]]:
    """Compute metrics of a run as trec_eval does with ``-c``.

    Scores are compared as float32, ties are broken by document id, descending, and
    every query of `qrels` counts: one without results or relevant documents counts 0.

    Parameters
    ----------
    qrels : dict of {query: {document: grade}}
        Relevance judgements; a document is relevant when its grade is above 0.
    run : dict of {query: {document: score}}
        Scores of retrieved documents. Queries that `qrels` lacks are ignored.
    metrics : str or list of str, default="ndcg@10"
    per_query : bool, default=False
        Return the values of every query instead of their means.
    exclude_self : bool, default=False
        Leave out of a query's results the document with the id of the query, as BEIR
        does where queries are documents themselves (ArguAna). Judgements stay as they
        are.

    Returns
    -------
    dict of {str: float}
        Keys are the names of the metrics as given. With `per_query` a dict of
        {query: {name: float}}, in the order of `qrels`.

    Raises
    ------
    ValueError
        Where a name is unknown, a score is NaN or infinite, `qrels` is empty, or the
        ids of `run` cannot be those of `qrels`: they have no query in common, or are
        of another type.

    References
    ----------
    trec_eval, https://github.com/usnistgov/trec_eval

    Examples
    --------
    >>> from skembft.metrics import evaluate
    >>> qrels = {"q1": {"d1": 1, "d2": 2}, "q2": {"d3": 1}}
    >>> run = {"q1": {"d1": 0.9, "d2": 0.8}, "q2": {"d1": 0.7, "d3": 0.6}}
    >>> evaluate(qrels, run, ["mrr@10", "R@1"])
    {'mrr@10': 0.75, 'R@1': 0.25}
    >>> evaluate(qrels, run, "mrr@10", per_query=True)
    {'q1': {'mrr@10': 1.0}, 'q2': {'mrr@10': 0.5}}
    """
    parsed = check_metrics(metrics)
    for name, mapping in (("qrels", qrels), ("run", run)):
        if not isinstance(mapping, Mapping) or not all(
            isinstance(value, Mapping) for value in mapping.values()
        ):
            raise TypeError(
                f"{name} must be a dict of dicts, {{query: {{document: number}}}}, "
                f"got {shorten(mapping)}."
            )
    if not qrels:
        raise ValueError("qrels is empty: there is no query to evaluate.")
    _check_ids(qrels, run)
    longest = max(map(len, [*qrels.values(), *run.values(), ()]))
    depth = min(max(k for _, k in parsed.values()), longest)
    shape = (len(qrels), depth)
    grades, ideal, n_relevant = np.zeros(shape), np.zeros(shape), np.zeros(len(qrels))
    for i, (query, judged) in enumerate(qrels.items()):
        _check_numbers(judged, f"qrels[{query!r}]")
        ranked = _ranked_documents(run.get(query, {}), query)
        if exclude_self:
            ranked = [document for document in ranked if document != query]
        ranked = ranked[:depth]
        grades[i, : len(ranked)] = [max(judged.get(d, 0), 0) for d in ranked]
        positive = sorted((g for g in judged.values() if g > 0), reverse=True)
        ideal[i, : len(positive[:depth])] = positive[:depth]
        n_relevant[i] = len(positive)
    values = query_values(parsed, grades, ideal, n_relevant)
    if per_query:
        rows = zip(*(value.tolist() for value in values.values()), strict=True)
        named = (dict(zip(values, row, strict=True)) for row in rows)
        return dict(zip(qrels, named, strict=True))
    return {name: float(value.mean()) for name, value in values.items()}


def _check_ids(qrels: Mapping[_Q, _Numbers], run: Mapping[_Q, _Numbers]) -> None:
    """Refuse ids that cannot match: every value would be 0.0."""
    common = [query for query in qrels if query in run]
    if run and not common:
        raise ValueError(
            "qrels and run have no query in common: "
            + _one_of_each(next(iter(qrels)), next(iter(run)))
        )
    judged = {type(d) for query in common for d in qrels[query]}
    retrieved = {type(d) for query in common for d in run[query]}
    if judged and retrieved and not _comparable(judged, retrieved):
        raise ValueError(
            "The documents of qrels and run are of different types: "
            + _one_of_each(
                next(d for query in common for d in qrels[query]),
                next(d for query in common for d in run[query]),
            )
        )


def _comparable(first: set[type], second: set[type]) -> bool:
    """Whether ids of some types can be equal to ids of others."""

    def kinds(types: set[type]) -> set[type]:
        known = (str, bytes, numbers.Number)
        return {next((k for k in known if issubclass(t, k)), t) for t in types}

    return not kinds(first).isdisjoint(kinds(second))


def _one_of_each(judged: object, retrieved: object) -> str:
    return (
        f"{shorten(judged)} ({type(judged).__name__}) is one of qrels, and "
        f"{shorten(retrieved)} ({type(retrieved).__name__}) one of run. Write the ids "
        "of both in the same way."
    )


def _ranked_documents(scores: _Numbers, query: object) -> list[Any]:
    _check_numbers(scores, f"run[{query!r}]")
    try:
        documents = sorted(scores, reverse=True)
    except TypeError:
        raise TypeError(
            f"run[{query!r}] mixes document ids of different types: ties are broken by "
            "id, so make all of them str."
        ) from None
    values = np.asarray([scores[d] for d in documents], dtype=np.float64)
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"run[{query!r}] has a score beyond the range of float32.")
    return [documents[i] for i in np.argsort(-values, kind="stable")]


def _check_numbers(mapping: _Numbers, name: str) -> None:
    for document, value in mapping.items():
        if not isinstance(value, numbers.Real | np.bool_):
            raise TypeError(f"{name}[{document!r}] must be a number, got {value!r}.")
        if not math.isfinite(value):
            raise ValueError(f"{name}[{document!r}] must be finite, got {value}.")
