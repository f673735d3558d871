"""Vectors of queries and documents, as training takes them. Import it lazily."""

from dataclasses import dataclass

import numpy as np

from skembft._data.retrieval_data import RetrievalData
from skembft._utils.vectors import check_finite, check_same_width


@dataclass(frozen=True)
class EncodedData:
    """Data with the vectors of its distinct queries and documents."""

    data: RetrievalData
    queries: np.ndarray
    documents: np.ndarray

    @classmethod
    def of(cls, data, encoder):
        """Encode data, whose queries and documents are vectors without an encoder."""
        queries, documents = data.queries, data.documents
        if encoder is not None:
            queries = np.asarray(encoder.transform(queries))
            documents = np.asarray(encoder.transform_documents(documents))
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

    def subset(self, queries):
        """The rows of some queries."""
        data = self.data.subset(queries)
        if self.queries is self.data.queries:  # vectors are what the data hold
            return EncodedData(data, data.queries, self.documents)
        return EncodedData(data, self.queries[np.sort(queries)], self.documents)
