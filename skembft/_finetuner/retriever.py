"""What a fitted finetuner is used for: to score, and to retrieve."""

import warnings
from collections.abc import Callable
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skembft._data.encoded import encode
from skembft._data.items import check_items, check_queries
from skembft._data.numbering import Numbering, find_own
from skembft._data.relevance import JudgedRelevance
from skembft._utils.types import (
    Data,
    Floats,
    Ints,
    ItemKind,
    OwnDocuments,
    Similarity,
    Vectors,
)
from skembft.metrics._measures import check_metrics
from skembft.metrics._ranking import top_k
from skembft.metrics._scoring import (
    encode_with,
    item_kind,
    read_for,
    score_vectors,
)

if TYPE_CHECKING:
    from torch import Tensor

POOL = "documents in the pool of validation"  # in the sizes that are kept
# sizes of collections of which a score over few documents has been told: a search makes
# a hundred of them, and Python's own "once" ends with every catch_warnings
_told: set[int] = set()


class RetrieverMixin:
    """Scores and retrieves, with the vectors that a finetuner makes.

    Attributes
    ----------
    scoring : str
    exclude_self : bool or dict of {query: document}
    embedding_dim_ : int
    _sizes : dict of {str: int} or None
        What the data of the fit were; of a directory, None where it does not tell.
    """

    scoring: str
    exclude_self: OwnDocuments
    embedding_dim_: int
    _sizes: dict[str, int] | None
    transform: Any

    @property
    def _item_kind(self) -> ItemKind:
        return "text"

    @property
    def _similarity(self) -> Similarity:
        return "cosine"

    def score(
        self,
        X: Data,
        y: Data = None,
        sample_weight: Data = None,
        *,
        corpus: Data = None,
    ) -> float:
        """Return the mean of the metric `scoring` over the distinct queries.

        Parameters
        ----------
        X, y : same forms as in `fit`
            The pool to retrieve from is the distinct documents of `y` (explicit
            negatives included), then those of `corpus`.
        sample_weight : array-like of shape (n,), default=None
            Weight of every row; a query has the mean of its rows' weights.
        corpus : array-like of documents, default=None
            More documents to retrieve from. Scores are comparable only over equal
            pools: in a search use ``RetrievalScorer(metric, corpus=documents)``.

        Returns
        -------
        score : float

        Warns
        -----
        UserWarning
            Without a corpus, where `y` holds less than half of the documents that
            `fit` knew: a query has fewer to choose from than it will have. Told once
            a process and size.
        """
        metrics = check_metrics(self.scoring)
        data = read_for(self, X, y, corpus, self.exclude_self)
        queries, documents, similarity = encode_with(self, data)
        if corpus is None and isinstance(data.relevance, JudgedRelevance):
            self._check_pool(len(data.documents))
        values = score_vectors(
            queries,
            documents,
            data.relevance,
            metrics,
            similarity=similarity,
            weights=data.query_weights(sample_weight),
            exclude=data.excluded(self.exclude_self),
        )
        return values[self.scoring]

    def _check_pool(self, n_documents: int) -> None:
        """Warn where a score is one over few of the documents there are."""
        known = (getattr(self, "_sizes", None) or {}).get(POOL, 0)
        if 2 * n_documents < known and known not in _told:
            _told.add(known)
            warnings.warn(
                "score() ranks the documents of y alone, less than half of those that "
                "fit knew. It is higher than over the whole collection, and comparable "
                "only where pools are equal. Pass corpus=, and in a search "
                "scoring=RetrievalScorer(metric, corpus=documents).",
                UserWarning,
                stacklevel=3,
            )

    def retrieve(self, X: Data, corpus: Data, k: int = 10) -> tuple[Ints, Floats]:
        """Return the best documents of `corpus` for every query.

        Parameters
        ----------
        X : queries, as in `transform`
        corpus : array-like of n_documents documents
            Or, of texts or ids, their vectors: the float array of shape
            (n_documents, d) that `transform_documents` has made of them once, for
            calls that shall not encode or adapt the same documents again.
        k : int, default=10

        Returns
        -------
        indices : int64 ndarray of shape (n, min(k, n_documents))
            Indices into `corpus`, best first; ties in the order of `corpus`.
        scores : float32 ndarray of the same shape
            Cosine similarities; dot products after `CorpusFinetuner` with
            ``method="nudge_m"``, and with ``normalize=False`` of a model whose
            similarity function is the dot product.

        Raises
        ------
        ValueError
            Bad data; vectors of another width, or with `exclude_self`, for which the
            documents themselves are needed.

        Examples
        --------
        >>> import numpy as np
        >>> from skembft import AdapterFinetuner, PrecomputedEncoder
        >>> vectors = {"a": [1, 0], "b": [0.6, 0.8], "c": [0, 1]}
        >>> encoder = PrecomputedEncoder(vectors)
        >>> model = AdapterFinetuner(encoder, validation_fraction=None, epochs=1)
        >>> model = model.fit(["a", "c"], ["b", "a"])
        >>> indices, scores = model.retrieve(["a"], ["c", "b", "a"], k=2)
        >>> indices
        array([[2, 1]])
        >>> prepared = model.transform_documents(["c", "b", "a"])
        >>> model.retrieve(["a"], prepared, k=2)[0]
        array([[2, 1]])
        """
        check_is_fitted(self)
        if not isinstance(k, Integral) or k < 1:
            raise ValueError(f"k must be a positive whole number, got {k!r}.")
        kind = item_kind(self)
        if kind != "vector" and _is_matrix(corpus):
            documents, hide = self._check_prepared(corpus), None
        else:
            if kind != "vector":
                corpus = check_items(corpus, "corpus", kind)
            documents = encode(self, corpus, "document")
            hide = self._hide_own(X, corpus)
        return top_k(
            np.asarray(self.transform(X)),
            documents,
            int(k),
            similarity=self._similarity,
            hide=hide,
        )

    def _of_the_fit(self, vectors: Vectors) -> Vectors:
        """Vectors of the encoder, if they are as wide as in the fit."""
        if vectors.shape[1] != self.embedding_dim_:
            raise ValueError(
                f"The encoder gives vectors of {vectors.shape[1]} dimensions, and in "
                f"the fit they had {self.embedding_dim_}: it has become another model, "
                "for which a new fit is needed."
            )
        return vectors

    def _check_prepared(self, vectors: Vectors) -> Vectors:
        """Vectors of documents, if they can be what `transform_documents` makes."""
        if vectors.shape[1] != self.embedding_dim_:
            raise ValueError(
                f"corpus is a matrix of vectors of width {vectors.shape[1]}, and those "
                f"of transform_documents have {self.embedding_dim_}: pass what it "
                "gives, or the documents themselves."
            )
        if self.exclude_self is not False:
            raise ValueError(
                "corpus is a matrix of vectors, which do not tell the document that a "
                "query is itself: pass the documents, or set exclude_self=False."
            )
        return vectors

    def _hide_own(
        self, X: Data, corpus: Data
    ) -> Callable[["Tensor", int, int], None] | None:
        """What hides from each query the document that it is, where it is left out.

        The corpus may repeat it.
        """
        kind = item_kind(self)
        if self.exclude_self is False or kind == "vector":
            return None
        numbering = Numbering()
        number = numbering.of(corpus)
        own = find_own(check_queries(X, kind), numbering, self.exclude_self)

        def hide(scores: "Tensor", first_query: int, first_document: int) -> None:
            n_queries, n_documents = scores.shape
            ours = own[first_query : first_query + n_queries]
            theirs = number[first_document : first_document + n_documents]
            scores[ours[:, None] == theirs] = -np.inf

        return hide


def _is_matrix(values: Data) -> bool:
    """Whether documents are vectors: texts and ids have one dimension."""
    return (
        isinstance(values, np.ndarray)
        and values.ndim == 2
        and (values.dtype.kind == "f")
    )
