"""Vectors of queries and documents, as training and scoring take them."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from skembft._data.items import check_items, check_queries
from skembft._data.retrieval_data import RetrievalData
from skembft._utils.types import Floats, Ints, Items, Role, Split, Vectors
from skembft._utils.vectors import (
    check_finite,
    check_same_width,
    to_array,
    unit_rows,
)


@dataclass(frozen=True)
class EncodedData:
    """Data with the vectors of its distinct queries and documents."""

    data: RetrievalData
    queries: Vectors
    documents: Vectors

    @classmethod
    def of(cls, data: RetrievalData, encoder: Any) -> Self:
        """Encode data, whose queries and documents are vectors without an encoder."""
        if encoder is None:
            queries, documents = data.vectors
        else:
            queries = encode(encoder, data.queries, "query")
            documents = encode(encoder, data.documents, "document")
            for name, vectors, items in (
                ("query", queries, data.queries),
                ("document", documents, data.documents),
            ):
                if vectors.ndim != 2 or len(vectors) != len(items):
                    raise ValueError(
                        f"The encoder made an array of shape {vectors.shape} of "
                        f"{len(items)} {name} item(s); it must give a vector for each."
                    )
        check_finite(queries, "The query vectors of the encoder")
        check_finite(documents, "The document vectors of the encoder")
        check_same_width(queries, documents)
        return cls(data, queries, documents)

    def finds(self, queries: Ints, documents: Ints) -> float:
        """The share of queries that find their own of as many documents first.

        Of many, a thousand of them are asked, spread evenly.
        """
        some = np.unique(np.linspace(0, len(queries) - 1, 1_000, dtype=np.int64))
        scores = (
            unit_rows(self.queries[queries[some]])
            @ unit_rows(self.documents[documents[some]]).T
        )
        return float(np.mean(np.diag(scores) >= scores.max(axis=1)))

    def subset(self, queries: Ints) -> "EncodedData":
        """The rows of some queries."""
        data = self.data.subset(queries)
        if self.queries is self.data.queries:  # vectors are what the data hold
            return EncodedData(data, data.vectors[0], self.documents)
        return EncodedData(data, self.queries[np.sort(queries)], self.documents)


@dataclass(frozen=True)
class Folds:
    """Encoded data whose queries are held out once each, part by part.

    Attributes
    ----------
    data : RetrievalData
        The queries that are held out.
    train, held_out : lists of EncodedData
        The two sides of every split.
    places : list of ndarrays
        Of the queries of each part in `data`.
    """

    data: RetrievalData
    train: list[EncodedData]
    held_out: list[EncodedData]
    places: list[Ints]

    @classmethod
    def of(cls, encoded: EncodedData, splits: list[Split]) -> Self:
        queries = np.sort(np.concatenate([held_out for _, held_out in splits]))
        return cls(
            encoded.data.subset(queries),
            [encoded.subset(train) for train, _ in splits],
            [encoded.subset(held_out) for _, held_out in splits],
            [np.searchsorted(queries, np.sort(held_out)) for _, held_out in splits],
        )

    def gather(self, values: list[dict[str, Floats]]) -> dict[str, Floats]:
        """Metrics of the queries of `data` from those of each part."""
        order = np.argsort(np.concatenate(self.places))
        return {
            name: np.concatenate([part[name] for part in values])[order]
            for name in values[0]
        }


def encode(estimator: Any, items: Items, role: Role) -> Vectors:
    """Vectors of queries or documents by an encoder or finetuner.

    What lies in a matrix is taken from it when it is needed: the result may be
    `TakenRows`, or float16. An encoder that is not ours gets a list of str.
    """
    if hasattr(estimator, f"_{role}_vectors"):
        return getattr(estimator, f"_{role}_vectors")(items)
    kind: Any = getattr(estimator, "_item_kind", "text")
    is_query = role == "query"
    if kind != "vector":
        items = (
            check_queries(items, kind) if is_query else check_items(items, "D", kind)
        )
    method = estimator.transform if is_query else estimator.transform_documents
    vectors = method(items)
    if hasattr(vectors, "toarray"):
        raise TypeError(
            f"The encoder made a sparse matrix of {role} items, and vectors must be "
            "dense: let it return an array, as .toarray() of the matrix is."
        )
    array = to_array(vectors, f"The {role} vectors")
    return array.astype(np.float32) if array.dtype == object else array
