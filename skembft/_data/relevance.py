"""Which documents answer which queries."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from scipy import sparse

from skembft._utils.types import Bools, Floats, Ints

if TYPE_CHECKING:
    import torch


class _Judgements:
    """What is judged a negative, pair by pair."""

    negative: sparse.csr_array  # 1 where judged and not positive

    def draw_judged(
        self, queries: Ints, count: int, rng: np.random.RandomState
    ) -> tuple[Ints, Ints]:
        """`count` judged negatives of every query that has some.

        They are neighbours in its row, in turn where there are too few.

        Returns
        -------
        found : ndarray
            Indices into `queries` of those that have some.
        documents : ndarray of shape (n_found, count)
        """
        rows = self.negative[queries]
        sizes = np.diff(rows.indptr)
        found = np.flatnonzero(sizes)
        sizes = sizes[found, None]
        start = (rng.random_sample(sizes.shape) * sizes).astype(np.int64)
        start[sizes <= count] = 0
        at = (start + np.arange(count)) % sizes
        return found, rows.indices[rows.indptr[found, None] + at]


class JudgedRelevance(_Judgements):
    """Relevance judgements as sparse matrices (n_queries, n_documents).

    What is known of a query is never its negative: the documents that are relevant to
    it, and the one that it is itself.

    Parameters
    ----------
    positive : csr_array
        Grades above 0.
    negative : csr_array
        1 where judged and not positive.
    own : ndarray of shape (n_queries,), default=None
        The document that each query is itself, or -1. None means none is.
    """

    self_index = None

    def __init__(
        self,
        positive: sparse.csr_array,
        negative: sparse.csr_array,
        own: Ints | None = None,
    ) -> None:
        positive.sort_indices()
        self.positive = positive
        self.negative = negative
        self.own = np.full(positive.shape[0], -1) if own is None else own

    @classmethod
    def from_triples(
        cls,
        queries: Ints,
        documents: Ints,
        grades: Floats,
        shape: tuple[int, int],
        own: Ints | None = None,
    ) -> JudgedRelevance:
        """Merge repeated judgements of a pair into the highest grade."""
        keys = np.asarray(queries) * shape[1] + documents
        order = np.argsort(keys, kind="stable")  # fast, as rows are in order
        keys, grades = keys[order], np.asarray(grades, dtype=np.float64)[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        if len(first) < len(keys):
            keys, grades = keys[first], np.maximum.reduceat(grades, first)
        positive = grades > 0

        def matrix(mask: Bools, values: Floats) -> sparse.csr_array:
            kept, first_keys = keys[mask], np.arange(shape[0] + 1) * shape[1]
            starts = np.searchsorted(kept, first_keys)
            columns = kept - np.repeat(first_keys[:-1], np.diff(starts))
            return sparse.csr_array((values[mask], columns, starts), shape=shape)

        return cls(
            matrix(positive, grades), matrix(~positive, np.ones_like(grades)), own
        )

    @cached_property
    def known(self) -> sparse.csr_array:
        """Not 0 where a document is relevant to a query, or the query itself."""
        queries = np.flatnonzero(self.own >= 0)
        if not len(queries):
            return self.positive
        return _marked(self.positive, queries, self.own[queries])

    @property
    def n_judged(self) -> int:
        """Number of pairs of a query and a document that are judged."""
        return self.positive.nnz + self.negative.nnz

    @property
    def n_relevant(self) -> Ints:
        """Number of relevant documents of every query."""
        return np.diff(self.positive.indptr)

    @cached_property
    def _keys(self) -> Ints:
        """Sorted ``query * n_documents + document`` of all positives."""
        queries, documents = self.positive_coordinates()
        return queries * self.positive.shape[1] + documents

    def grades(self, queries: Ints, documents: Ints) -> Floats:
        """Grades of `documents` (n, k) for `queries` (n,); 0 where not relevant."""
        out = np.zeros(documents.shape)
        if len(self._keys):
            wanted = queries[:, None] * self.positive.shape[1] + documents
            at = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
            hit = (self._keys[at] == wanted) & (documents >= 0)
            out[hit] = self.positive.data[at][hit]
        return out

    def ideal(self, queries: Ints, k: int) -> Floats:
        """The k highest grades of each of `queries`, best first, padded with 0."""
        rows = self.positive[queries]
        row = np.repeat(np.arange(len(queries)), np.diff(rows.indptr))
        grades = rows.data[np.lexsort((-rows.data, row))]
        rank = np.arange(len(grades)) - rows.indptr[row]
        out = np.zeros((len(queries), k))
        out[row[rank < k], rank[rank < k]] = grades[rank < k]
        return out

    def best(self, query: int) -> Ints:
        """The relevant documents of one query, highest grade first."""
        start, stop = self.positive.indptr[query : query + 2]
        order = np.argsort(-self.positive.data[start:stop], kind="stable")
        return self.positive.indices[start:stop][order]

    def known_places(self, queries: Ints, column_of: Ints) -> tuple[Ints, Ints]:
        """Coordinates (row, column) of what is known among a set of columns.

        `column_of` maps every document to its column, or to -1.
        """
        rows = self.known[queries]
        columns = column_of[rows.indices]
        found = columns >= 0
        row = np.repeat(np.arange(len(queries)), np.diff(rows.indptr))
        return row[found], columns[found]

    def hide_known(
        self, scores: torch.Tensor, queries: Ints, first_document: int
    ) -> None:
        """Set the scores of what is known to -inf, in place.

        `scores` is a tensor of `queries` × documents, beginning with `first_document`.
        """
        rows = self.known[queries]
        row = np.repeat(np.arange(len(queries)), np.diff(rows.indptr))
        column = rows.indices - first_document
        here = (column >= 0) & (column < scores.shape[1])
        scores[row[here], column[here]] = -np.inf

    def is_known(self, queries: Ints, documents: Ints) -> Bools:
        """Whether each document is known of its query, elementwise."""
        relevant = self.grades(queries, documents[:, None])[:, 0] > 0
        return relevant | (self.own[queries] == documents)

    def fills(self, pool: Ints) -> Bools:
        """Whether all documents of a pool are known, for every query."""
        return np.diff(self.known.indptr) >= len(pool)

    def draw_unknown(
        self, queries: Ints, pool: Ints, rng: np.random.RandomState
    ) -> Ints:
        """A random document of a sorted pool for each query, of those not known of it.

        All of these are equally likely; where there are none, it is one of the known.
        """
        known = self.known[queries]
        row = np.repeat(np.arange(len(queries)), np.diff(known.indptr))
        place = np.searchsorted(pool, known.indices)
        inside = pool[place.clip(max=len(pool) - 1)] == known.indices
        row, place = row[inside], place[inside]
        n_known = np.bincount(row, minlength=len(queries))
        first = np.cumsum(n_known) - n_known
        rank, room = _random_ranks(len(pool) - n_known, len(pool), rng)
        # the unknown document of a rank stands behind those known ones that have no
        # more than so many unknown ones before them
        before = place - (np.arange(len(row)) - first[row])
        width = len(pool) + 1
        key = np.arange(len(queries)) * width + rank
        passed = np.searchsorted(row * width + before, key, side="right") - first
        return pool[np.where(room, rank + passed, rank)]

    def positive_coordinates(self) -> tuple[Ints, Ints]:
        """Query and document of every known positive."""
        queries = np.repeat(np.arange(self.positive.shape[0]), self.n_relevant)
        return queries, self.positive.indices

    def with_negatives(self, queries: Ints, documents: Ints) -> JudgedRelevance:
        """Judge more documents as negatives, pair by pair."""
        negative = _marked(self.negative, queries, documents)
        return JudgedRelevance(self.positive, negative, self.own)

    def take(self, queries: Ints) -> JudgedRelevance:
        return JudgedRelevance(
            self.positive[queries], self.negative[queries], self.own[queries]
        )


def _random_ranks(
    counts: Ints, otherwise: int, rng: np.random.RandomState
) -> tuple[Ints, Bools]:
    """Return random numbers below the counts, and where these are above 0.

    Where a count is 0 its number is below `otherwise`.
    """
    room = counts > 0
    below = np.where(room, counts, otherwise)
    return (rng.random_sample(len(counts)) * below).astype(np.int64), room


def _marked(matrix: sparse.csr_array, rows: Ints, columns: Ints) -> sparse.csr_array:
    """A sparse matrix of ones, with more of its entries set."""
    more = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=matrix.shape)
    marked = (matrix + more).tocsr()
    marked.data[:] = 1
    marked.sort_indices()
    return marked


class _Classes(NamedTuple):
    """Documents in the order of their classes; where each class starts, its size."""

    members: Ints
    starts: Ints
    counts: Ints


class LabelRelevance(_Judgements):
    """Rows with equal class labels are relevant to one another, not to themselves.

    Nothing quadratic is stored: a judgement is a comparison of two labels.
    """

    def __init__(
        self,
        labels: Ints,
        rows: Ints | None = None,
        negative: sparse.csr_array | None = None,
    ) -> None:
        self.labels = labels  # of every document
        self.self_index = np.arange(len(labels)) if rows is None else rows
        if negative is None:
            negative = sparse.csr_array((len(self.self_index), len(labels)))
        self.negative = negative  # 1 where judged a negative, as mining does
        self._counts = np.bincount(labels)
        self._classes: tuple[Ints, _Classes] | None = None

    @property
    def n_relevant(self) -> Ints:
        return self._counts[self.labels[self.self_index]] - 1

    def grades(self, queries: Ints, documents: Ints) -> Floats:
        rows = self.self_index[queries][:, None]
        same = self.labels[rows] == self.labels[documents]
        return (same & (documents != rows) & (documents >= 0)).astype(np.float64)

    def ideal(self, queries: Ints, k: int) -> Floats:
        n_relevant = self._counts[self.labels[self.self_index[queries]]] - 1
        return (np.arange(k) < n_relevant[:, None]).astype(np.float64)

    def best(self, query: int) -> Ints:
        row = self.self_index[query]
        same = np.flatnonzero(self.labels == self.labels[row])
        return same[same != row]

    def known_places(self, queries: Ints, column_of: Ints) -> tuple[Ints, Ints]:
        documents = np.flatnonzero(column_of >= 0)
        labels = self.labels[self.self_index[queries]]
        row, at = np.nonzero(labels[:, None] == self.labels[documents])
        return row, column_of[documents[at]]  # the row itself is masked too

    def same_class(self, queries: Ints, documents: Ints | slice) -> Bools:
        """Whether documents (an index or slice) are of the class of queries, (n, m)."""
        labels = self.labels[self.self_index[queries]]
        return labels[:, None] == self.labels[documents]

    def hide_known(
        self, scores: torch.Tensor, queries: Ints, first_document: int
    ) -> None:
        import torch

        columns = slice(first_document, first_document + scores.shape[1])
        same = torch.from_numpy(self.same_class(queries, columns))
        scores.masked_fill_(same, -torch.inf)  # the row itself too

    def is_known(self, queries: Ints, documents: Ints) -> Bools:
        return self.labels[self.self_index[queries]] == self.labels[documents]

    def fills(self, pool: Ints) -> Bools:
        counts = np.bincount(self.labels[pool], minlength=len(self._counts))
        return counts[self.labels[self.self_index]] >= len(pool)

    def with_negatives(self, queries: Ints, documents: Ints) -> LabelRelevance:
        """Judge documents as negatives, pair by pair."""
        negative = _marked(self.negative, queries, documents)
        return LabelRelevance(self.labels, self.self_index, negative)

    def _classes_of(self, pool: Ints) -> _Classes:
        """A pool by classes; the last one is kept, as every batch asks for the same."""
        if self._classes is None or self._classes[0] is not pool:
            labels = self.labels[pool]
            counts = np.bincount(labels, minlength=len(self._counts))
            members = pool[np.argsort(labels, kind="stable")]
            self._classes = pool, _Classes(members, np.cumsum(counts) - counts, counts)
        return self._classes[1]

    def draw_unknown(
        self, queries: Ints, pool: Ints, rng: np.random.RandomState
    ) -> Ints:
        """A random document of a pool for each query, of those of other classes.

        All of these are equally likely; where there are none, it is one of its class.
        """
        members, starts, counts = self._classes_of(pool)
        labels = self.labels[self.self_index[queries]]
        rank, room = _random_ranks(len(pool) - counts[labels], len(pool), rng)
        passed = np.where(rank >= starts[labels], counts[labels], 0)
        return members[np.where(room, rank + passed, rank)]

    def partners(
        self, queries: Ints, pool: Ints, rng: np.random.RandomState
    ) -> tuple[Ints, Ints]:
        """One random other row of the same label for every query that has one."""
        members, starts, counts = self._classes_of(pool)
        labels = self.labels[self.self_index[queries]]
        keep = counts[labels] > 1
        queries, labels = queries[keep], labels[keep]
        # every row knows its place in its class; step over it by 1 … count - 1
        place = np.empty(len(self.labels), dtype=np.int64)
        place[members] = np.arange(len(members)) - starts[self.labels[members]]
        step = 1 + (rng.random_sample(len(queries)) * (counts[labels] - 1)).astype(int)
        place = (place[self.self_index[queries]] + step) % counts[labels]
        return queries, members[starts[labels] + place]

    def take(self, queries: Ints) -> LabelRelevance:
        return LabelRelevance(
            self.labels, self.self_index[queries], self.negative[queries]
        )


Relevance: TypeAlias = JudgedRelevance | LabelRelevance
