"""Metrics of a run, from dicts of judgements and scores."""

import math
import numbers
from collections.abc import Hashable, Mapping
from itertools import chain, groupby
from typing import Any, Literal, TypeVar, overload

import numpy as np

from skembft._utils.messages import shorten
from skembft._utils.types import Floats, Ints, MetricNames, Metrics
from skembft.metrics._measures import check_metrics, query_values

_Q = TypeVar("_Q", bound=Hashable)
_BLOCK = 2**21  # places of a ranking that are judged at a time
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
    queries, step = list(qrels), max(1, _BLOCK // max(depth, 1))
    blocks = [
        _values_of(
            queries[start : start + step], qrels, run, parsed, depth, exclude_self
        )
        for start in range(0, len(queries), step)
    ]
    values = {name: np.concatenate([b[name] for b in blocks]) for name in parsed}
    if per_query:
        rows = zip(*(value.tolist() for value in values.values()), strict=True)
        named = (dict(zip(values, row, strict=True)) for row in rows)
        return dict(zip(qrels, named, strict=True))
    return {name: float(value.mean()) for name, value in values.items()}


def _values_of(
    queries: list[_Q],
    qrels: Mapping[_Q, _Numbers],
    run: Mapping[_Q, _Numbers],
    metrics: Metrics,
    depth: int,
    exclude_self: bool,
) -> dict[str, Floats]:
    """Values of every metric for some queries, all of which are judged at once."""
    judged = [qrels[query] for query in queries]
    found = [run.get(query, {}) for query in queries]
    if exclude_self:
        found = [
            {d: scores[d] for d in scores if d != query} if query in scores else scores
            for query, scores in zip(queries, found, strict=True)
        ]
    grades = _numbers(judged, queries, "qrels")
    row = np.repeat(np.arange(len(queries)), list(map(len, judged)))
    documents = list(chain.from_iterable(judged))
    relevant = np.flatnonzero(grades > 0)
    # of a query the highest grades first
    relevant = relevant[np.lexsort((-grades[relevant], row[relevant]))]
    grades, row = grades[relevant], row[relevant]
    n_relevant = np.bincount(row, minlength=len(queries))
    best = np.arange(len(row)) - (np.cumsum(n_relevant) - n_relevant)[row]
    ranks = _ranks(row, [documents[i] for i in relevant], found, queries)
    shape = len(queries), depth
    return query_values(
        metrics,
        _placed(grades, row, ranks, shape),
        _placed(grades, row, best, shape),
        n_relevant,
    )


def _placed(grades: Floats, rows: Ints, places: Ints, shape: tuple[int, int]) -> Floats:
    """Grades at their places in their rows, as far as there are such places."""
    table = np.zeros(shape)
    inside = (places >= 0) & (places < shape[1])
    table[rows[inside], places[inside]] = grades[inside]
    return table


def _ranks(
    rows: Ints, documents: list[Any], found: list[_Numbers], queries: list[_Q]
) -> Ints:
    """Rank of each document, from 0, in what is found for its query; -1 if it is not.

    Only relevant documents are asked for, in the order of their queries: of most
    queries nothing has to be sorted by id.
    """
    scores = _numbers(found, queries, "run")
    sizes = np.fromiter(map(len, found), np.int64, len(found))
    row = np.repeat(np.arange(len(found)), sizes)
    with np.errstate(over="ignore"):
        scores = scores.astype(np.float32)
    if not np.isfinite(scores).all():
        beyond = queries[row[np.argmin(np.isfinite(scores))]]
        raise ValueError(f"run[{beyond!r}] has a score beyond the range of float32.")
    for query, of_query in zip(queries, found, strict=True):
        if len(set(map(type, of_query))) > 1:
            _sorted_ids(of_query, query)
    ranks = np.full(len(documents), -1)
    here = [i for i, d in enumerate(documents) if d in found[rows[i]]]
    if not here:
        return ranks
    wanted = np.array([found[rows[i]][documents[i]] for i in here], dtype=np.float64)
    # a number for every query and score: smaller for better ones, apart for queries
    levels, level = np.unique(scores, return_inverse=True)
    keys = np.sort(row * len(levels) - level)
    at = np.searchsorted(levels, wanted.astype(np.float32))
    key = rows[here] * len(levels) - at
    better = np.searchsorted(keys, key)
    ranks[here] = better - (np.cumsum(sizes) - sizes)[rows[here]]
    tied = np.flatnonzero(np.searchsorted(keys, key, side="right") - better > 1)
    for i, part in groupby((here[n] for n in tied), rows.__getitem__):
        order = _ranked_documents(found[i], queries[i])
        place = {document: rank for rank, document in enumerate(order)}
        for n in part:
            ranks[n] = place[documents[n]]
    return ranks


def _check_ids(qrels: Mapping[_Q, _Numbers], run: Mapping[_Q, _Numbers]) -> None:
    """Refuse ids that cannot match: every value would be 0.0."""
    common = [query for query in qrels if query in run]
    if run and not common:
        raise ValueError(
            "qrels and run have no query in common: "
            + _one_of_each(next(iter(qrels)), next(iter(run)))
        )
    judged = set(map(type, chain.from_iterable(qrels[query] for query in common)))
    retrieved = set(map(type, chain.from_iterable(run[query] for query in common)))
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
    documents = _sorted_ids(scores, query)
    values = np.array([scores[d] for d in documents], dtype=np.float32)
    return [documents[i] for i in np.argsort(-values, kind="stable")]


def _sorted_ids(scores: _Numbers, query: object) -> list[Any]:
    try:
        return sorted(scores, reverse=True)
    except TypeError:
        raise TypeError(
            f"run[{query!r}] mixes document ids of different types: ties are broken by "
            "id, so make all of them str."
        ) from None


def _numbers(mappings: list[_Numbers], queries: list[_Q], name: str) -> Floats:
    """All values of some mappings, one after the other, if they are finite numbers."""
    values = list(chain.from_iterable(mapping.values() for mapping in mappings))
    if all(issubclass(t, numbers.Real | np.bool_) for t in set(map(type, values))):
        array = np.array(values, dtype=np.float64)
        if np.isfinite(array).all():
            return array
    for query, mapping in zip(queries, mappings, strict=True):
        _check_numbers(mapping, f"{name}[{query!r}]")
    return array


def _check_numbers(mapping: _Numbers, name: str) -> None:
    for document, value in mapping.items():
        if not isinstance(value, numbers.Real | np.bool_):
            raise TypeError(f"{name}[{document!r}] must be a number, got {value!r}.")
        if not math.isfinite(value):
            raise ValueError(f"{name}[{document!r}] must be finite, got {value}.")
