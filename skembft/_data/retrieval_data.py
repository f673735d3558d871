"""The internal representation of all forms of data."""

import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np

from skembft._data.relevance import JudgedRelevance, LabelRelevance, Relevance
from skembft._data.stored_texts import StoredTexts
from skembft._utils.messages import shorten
from skembft._utils.types import Data, Floats, Ints, Items, OwnDocuments, Vectors


@dataclass(frozen=True)
class RetrievalData:
    """Distinct queries and documents, their relevance, and the training examples.

    Attributes
    ----------
    queries, documents : list of str or id, StoredTexts, or ndarray of shape (n, d)
        Distinct, in order of first appearance; documents of `corpus` come last.
    relevance : JudgedRelevance or LabelRelevance
    row_query : ndarray of shape (n_rows,)
        Index of the query of every row of X; n_queries for a row that counts nothing.
    example_row, example_document, example_grade : ndarray of shape (n_examples,)
        What the rows say, row by row, most relevant document first.
    pool : ndarray
        Indices of the documents that training may see.
    corpus : ndarray
        Indices of those that were passed as corpus=, which stay in the pool.
    n_negatives : int
        Explicit negatives of an example: the width of a table less 2, or 1 when
        some document was judged not relevant.
    labelled : bool
        Whether rows are pairs with a similarity or 0/1 label.
    weights : ndarray of shape (n_queries,) or None
        What each query counts in training and validation; None: all the same.
    """

    queries: Items
    documents: Items
    relevance: Relevance
    row_query: Ints
    example_row: Ints
    example_document: Ints
    example_grade: Floats
    pool: Ints
    corpus: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    n_negatives: int = 0
    labelled: bool = False
    weights: Floats | None = None

    @property
    def n_queries(self) -> int:
        return len(self.queries)

    @property
    def judged(self) -> JudgedRelevance:
        """The relevance of texts and ids, and of vectors in pairs."""
        assert isinstance(self.relevance, JudgedRelevance)
        return self.relevance

    @property
    def vectors(self) -> tuple[Vectors, Vectors]:
        """Queries and documents, where they are vectors."""
        queries, documents = self.queries, self.documents
        assert isinstance(queries, np.ndarray) and isinstance(documents, np.ndarray)
        return queries, documents

    @cached_property
    def answerable(self) -> Ints:
        """Indices of the queries that have a relevant document and a weight above 0."""
        answerable = self.relevance.n_relevant > 0
        if self.weights is not None:
            answerable &= self.weights > 0
        return np.flatnonzero(answerable)

    def subset(self, queries: Ints) -> Self:
        """The rows of some queries; documents keep their indices, `pool` shrinks."""
        queries = np.sort(queries)
        new_index = np.full(self.n_queries + 1, -1)
        new_index[queries] = np.arange(len(queries))
        rows = np.flatnonzero(new_index[self.row_query] >= 0)
        new_row = np.full(len(self.row_query), -1)
        new_row[rows] = np.arange(len(rows))
        kept = new_row[self.example_row] >= 0
        if isinstance(self.relevance, LabelRelevance):
            dropped = np.setdiff1d(self.pool, self.relevance.self_index[queries])
        else:
            dropped = np.setdiff1d(
                self.example_document[~kept], self.example_document[kept]
            )
        kept_queries: Items
        if isinstance(self.queries, np.ndarray | StoredTexts):
            kept_queries = self.queries[queries]
        else:
            kept_queries = [self.queries[i] for i in queries]
        return replace(
            self,
            queries=kept_queries,
            relevance=self.relevance.take(queries),
            row_query=new_index[self.row_query[rows]],
            example_row=new_row[self.example_row[kept]],
            example_document=self.example_document[kept],
            example_grade=self.example_grade[kept],
            pool=np.setdiff1d(self.pool, np.setdiff1d(dropped, self.corpus)),
            weights=None if self.weights is None else self.weights[queries],
        )

    def own_documents(self) -> Ints:
        """Index of the document that is the query itself, or -1, for every query."""
        if isinstance(self.relevance, LabelRelevance):
            return self.relevance.self_index
        if isinstance(self.queries, np.ndarray):
            raise ValueError(
                "exclude_self compares texts or ids, and these are vectors: leave it "
                "out."
            )
        return self.judged.own

    def excluded(
        self, exclude_self: OwnDocuments, *, some: bool = False
    ) -> Ints | None:
        """What `own_documents` gives, where queries are not to retrieve it.

        With `some` these are not all queries, and it may be that none is a document.
        """
        if exclude_self is False:
            return None
        own = self.own_documents()
        if exclude_self is True and not some and not (own >= 0).any():
            warnings.warn(
                f"exclude_self=True, but none of the {self.n_queries} queries is the "
                "same text or id as a document. Where only ids tell which document a "
                "query is, pass exclude_self={query: document}, as "
                "load_beir(…).own_documents has it.",
                UserWarning,
                stacklevel=2,
            )
        return own

    def query_weights(
        self, sample_weight: Data, name: str = "sample_weight"
    ) -> Floats | None:
        """Mean weight of the rows of every query."""
        if sample_weight is None:
            return None
        try:
            weights = np.asarray(sample_weight, dtype=np.float64)
        except (TypeError, ValueError):
            raise TypeError(f"{name} must be numbers, one for each row.") from None
        if weights.shape != self.row_query.shape:
            raise ValueError(
                f"{name} has shape {weights.shape}, expected one weight a row: "
                f"{self.row_query.shape}."
            )
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise ValueError(f"{name} must be finite and not negative.")
        if not np.isfinite(weights.sum()):
            raise ValueError(
                f"The sum of {name} overflows: divide by the largest, as only ratios "
                "count."
            )
        if weights.any():  # a power of two changes no digit, and no ratio
            weights = np.ldexp(weights, 1 - np.frexp(weights.max())[1])
        total = np.bincount(self.row_query, weights, minlength=self.n_queries)
        return total / np.bincount(self.row_query, minlength=self.n_queries)

    # ---- training examples

    def examples(
        self, needs: str, use_all_docs: bool, rng: np.random.RandomState
    ) -> tuple[Ints | Floats, ...]:
        """Columns of the training examples that a loss needs: indices and labels.

        "labels": query, document, label; "scores": query, two documents, their grades;
        all others: query, relevant document.
        """
        if needs == "labels":
            return self.labelled_pairs(use_all_docs, rng)
        if needs == "scores":
            return self.graded_pairs(rng)
        return self.positive_pairs(use_all_docs, rng)

    def positive_pairs(
        self, use_all_docs: bool, rng: np.random.RandomState
    ) -> tuple[Ints, Ints]:
        """Query and document indices of the positive pairs.

        With class labels there are too many pairs to list: every call draws one
        partner a row.
        """
        if isinstance(self.relevance, LabelRelevance):
            return self.relevance.partners(np.arange(self.n_queries), self.pool, rng)
        positive = np.flatnonzero(self.example_grade > 0)
        if not use_all_docs:
            _, first = np.unique(self.example_row[positive], return_index=True)
            positive = positive[first]
        return self.row_query[self.example_row[positive]], self.example_document[
            positive
        ]

    def labelled_pairs(
        self, use_all_docs: bool, rng: np.random.RandomState
    ) -> tuple[Ints, Ints, Floats]:
        """Query indices, document indices and labels; derived where data have none."""
        if self.labelled:
            rows = self.example_row
            return self.row_query[rows], self.example_document, self.example_grade
        queries, documents = self.positive_pairs(use_all_docs, rng)
        count = max(self.n_negatives, 1)
        negatives = self.negatives(queries, count, rng)
        labels = np.repeat([1.0, 0.0], [len(queries), len(queries) * count])
        return (
            np.concatenate([queries, np.repeat(queries, count)]),
            np.concatenate([documents, negatives.ravel()]),
            labels,
        )

    def graded_pairs(
        self, rng: np.random.RandomState
    ) -> tuple[Ints, Ints, Ints, Floats, Floats]:
        """Query, document, another document of the query, and both grades.

        Every judged document of a query is paired with another one, drawn at random.
        """
        order = np.argsort(self.row_query[self.example_row], kind="stable")
        query = self.row_query[self.example_row[order]]
        _, starts, counts = np.unique(query, return_index=True, return_counts=True)
        start, count = np.repeat(starts, counts), np.repeat(counts, counts)
        step = 1 + (rng.random_sample(len(query)) * (count - 1)).astype(int)
        other = order[start + (np.arange(len(query)) - start + step) % count]
        kept = self.example_document[order] != self.example_document[other]
        first, second = order[kept], other[kept]
        return (
            query[kept],
            self.example_document[first],
            self.example_document[second],
            self.example_grade[first],
            self.example_grade[second],
        )

    @property
    def has_scores(self) -> bool:
        """Whether some query has documents of different grades."""
        if isinstance(self.relevance, LabelRelevance):
            return False
        query = self.row_query[self.example_row]
        low, high = np.full(self.n_queries, np.inf), np.full(self.n_queries, -np.inf)
        np.minimum.at(low, query, self.example_grade)
        np.maximum.at(high, query, self.example_grade)
        return bool((low < high).any())

    def check_negatives(self, *, some: bool = False) -> None:
        """Raise an error unless every query has a document that is not relevant.

        With `some` these are the queries and documents that are not held out.
        """
        without = np.flatnonzero(self.relevance.fills(self.pool))
        if len(without):
            left = "that validation_fraction leaves for training " if some else ""
            raise ValueError(
                f"Every document {left}is relevant to the query "
                f"{shorten(_item(self.queries, without[0]))}, so it has no negative: "
                "pass more documents as corpus=, or use a loss that needs none."
            )

    def negatives(self, queries: Ints, count: int, rng: np.random.RandomState) -> Ints:
        """`count` negatives for each of `queries`, shape (n, count).

        Judged negatives come first, repeated in turn where there are too few; a
        query without any gets random documents that are not known to be relevant
        (where all are relevant, one of them: `check_negatives` tells beforehand).
        """
        out = np.empty((len(queries), count), dtype=np.int64)
        found, judged = self.relevance.draw_judged(queries, count, rng)
        others = np.delete(np.arange(len(queries)), found)
        wanting = np.repeat(queries[others], count)
        drawn = self.relevance.draw_unknown(wanting, self.pool, rng)
        out[found], out[others] = judged, drawn.reshape(len(others), count)
        return out


def _item(items: Items, index: int) -> object:
    return f"row {index}" if isinstance(items, np.ndarray) else items[index]
