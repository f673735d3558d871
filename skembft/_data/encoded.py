"""Vectors of queries and documents, as training takes them. Import it lazily."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from skembft._data.retrieval_data import RetrievalData
from skembft._utils.types import Ints, Vectors
from skembft._utils.vectors import check_finite, check_same_width, to_array


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
            queries = to_array(encoder.transform(data.queries), "The query vectors")
            documents = to_array(
                encoder.transform_documents(data.documents), "The document vectors"
            )
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

    def subset(self, queries: Ints) -> "EncodedData":
        """The rows of some queries."""
        data = self.data.subset(queries)
        if self.queries is self.data.queries:  # vectors are what the data hold
            return EncodedData(data, data.vectors[0], self.documents)
        return EncodedData(data, self.queries[np.sort(queries)], self.documents)
