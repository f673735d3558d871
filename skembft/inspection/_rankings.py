"""What two retrievers rank first for the same queries."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any, TypedDict

import numpy as np
from sklearn.utils import gen_batches

from skembft._data.retrieval_data import RetrievalData
from skembft._utils.types import Data, Floats, Ints, Metrics, OwnDocuments
from skembft.inspection._query_change import Graded
from skembft.metrics._measures import check_metrics, query_values
from skembft.metrics._scoring import (
    Ranking,
    check_own,
    check_retriever,
    common_own,
    item_kind,
    rank_estimator,
    read_for,
)

SHOWN = 10  # documents of a query that are shown
KEPT = 50  # documents of a query that are kept: 400 bytes a side
_CURVE = (1, 2, 3, 5, 10, 20, KEPT)  # cut-offs
_BLOCK = 2**14  # queries that are judged at a time


class ScoreShift(TypedDict):
    """How far the scores of some documents have moved: quartiles over queries."""

    document: str
    n_queries: int
    before: float
    after: float
    quartiles_before: tuple[float, float]
    quartiles_after: tuple[float, float]


class Rankings:
    """The first `KEPT` documents of every query, before and after.

    Attributes
    ----------
    queries : ndarray of shape (n,)
        Indices of the queries of `data`.
    sides : tuple of Ranking
    """

    def __init__(self, data: RetrievalData, before: Ranking, after: Ranking) -> None:
        self.data, self.queries, self.sides = data, before.queries, (before, after)

    def grades(self, side: Ranking, rows: Any = slice(None)) -> Floats:
        """Grades of what is kept; 0 where not relevant."""
        return self.data.relevance.grades(self.queries[rows], side.indices[rows])

    def graded(self, row: int) -> list[list[Graded]]:
        """The documents shown of a query with their grades, before and after."""
        return [
            [
                (self.data.documents[i], float(grade))
                for i, grade in zip(
                    side.indices[row, :SHOWN],
                    self.grades(side, slice(row, row + 1))[0],
                    strict=False,
                )
                if i >= 0
            ]
            for side in self.sides
        ]

    @cached_property
    def first_relevant(self) -> Ints:
        """Rank of the first relevant document, (2, n); 0 where none is kept."""
        return self._first(relevant=True)

    def score_shifts(self) -> list[ScoreShift]:
        return [
            self._shift("best relevant", self.first_relevant),
            self._shift("best irrelevant", self._first(relevant=False)),
        ]

    def curves(
        self, metrics: Iterable[str]
    ) -> tuple[list[int], dict[str, list[list[float]]]]:
        """Means of metrics without cut-off at several k: of each the two curves."""
        depth = min(KEPT, len(self.data.documents))
        ks = [k for k in _CURVE if k <= depth]
        stems = list(dict.fromkeys(metrics))
        names = [f"{stem}@{k}" for stem in stems for k in ks]
        parsed = check_metrics(names)
        relevance, n = self.data.relevance, len(self.queries)
        n_relevant = relevance.n_relevant
        sums = np.zeros((2, len(names)))
        for rows in gen_batches(n, _BLOCK):
            queries = self.queries[rows]
            ideal = relevance.ideal(queries, depth)
            for total, side in zip(sums, self.sides, strict=True):
                values = query_values(
                    parsed, self.grades(side, rows), ideal, n_relevant[queries]
                )
                total += [values[name].sum() for name in names]
        means = (sums / n).reshape(2, len(stems), len(ks))
        return ks, {stem: means[:, i].tolist() for i, stem in enumerate(stems)}

    def _first(self, relevant: bool) -> Ints:
        ranks = np.zeros((2, len(self.queries)), dtype=np.int32)
        for rank, side in zip(ranks, self.sides, strict=True):
            for rows in gen_batches(len(rank), _BLOCK):
                hits = (self.grades(side, rows) > 0) == relevant
                hits &= side.indices[rows] >= 0
                rank[rows] = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)
        return ranks

    def _shift(self, document: str, ranks: Ints) -> ScoreShift:
        """Of the queries that have such a document among those kept on both sides."""
        rows = np.flatnonzero((ranks > 0).all(axis=0))
        quartiles = [
            np.quantile(side.scores[rows, rank[rows] - 1], [0.25, 0.5, 0.75]).tolist()
            if len(rows)
            else [np.nan] * 3
            for side, rank in zip(self.sides, ranks, strict=True)
        ]
        (low, before, high), (after_low, after, after_high) = quartiles
        return {
            "document": document,
            "n_queries": len(rows),
            "before": before,
            "after": after,
            "quartiles_before": (low, high),
            "quartiles_after": (after_low, after_high),
        }


def rank_both(
    before: tuple[Any, Data],
    after: tuple[Any, Data],
    y: Data,
    corpus: Data,
    metrics: Metrics,
    exclude_self: OwnDocuments | None,
) -> Rankings:
    """Rank by two retrievers, each given with the queries that it takes."""
    exclude_self = check_own(exclude_self)
    if exclude_self is None:
        exclude_self = common_own(before[0], after[0])
    data = other = read_for(*after, y, corpus, exclude_self)
    exclude = others_exclude = data.excluded(exclude_self)
    if before[0] is not None and not _reads_alike(*before, *after):
        other = read_for(*before, y, corpus, exclude_self)
        others_exclude = other.excluded(exclude_self)
    if not _see_the_same(data, other):
        raise ValueError(
            "before and after do not see the same distinct queries and documents (a "
            "step of a Pipeline makes some of them equal): compare both behind it."
        )
    first, second = (
        rank_estimator(each, read, metrics, exclude=own, n_kept=KEPT)
        for each, read, own in (
            (before[0], other, others_exclude),
            (after[0], data, exclude),
        )
    )
    return Rankings(other, first, second)


def _see_the_same(data: RetrievalData, other: RetrievalData) -> bool:
    """Whether the same rows are the same query, and name the same documents."""
    return (
        len(data.documents) == len(other.documents)
        and np.array_equal(data.row_query, other.row_query)
        and np.array_equal(data.example_document, other.example_document)
    )


def _reads_alike(before: Any, X_before: Data, after: Any, X_after: Data) -> bool:
    """Whether both make the same of the data, so that they need not be read twice."""
    check_retriever(before)
    kind = item_kind(before)
    return X_before is X_after and kind == item_kind(after) and kind != "vector"
