"""Moving the vectors of documents toward the queries that they answer."""

import warnings
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils import Tags
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
)
from sklearn.utils.validation import check_is_fitted

from skembft._corpus.trainer import (
    CorpusTrainer,
    positions,
    similarity_of,
    unit_vectors,
)
from skembft._data.encoded import encode
from skembft._data.items import check_items
from skembft._data.retrieval_data import RetrievalData
from skembft._finetuner.base import FINETUNER_CONSTRAINTS
from skembft._finetuner.frozen import FrozenFinetuner
from skembft._saving.params import STATE, Damaged, check
from skembft._saving.registry import saved_by_name
from skembft._saving.state import ARRAYS, Parts, State
from skembft._utils.estimators import tag_text_input
from skembft._utils.messages import shorten
from skembft._utils.types import (
    Data,
    Ints,
    Item,
    OwnDocuments,
    RandomState,
    Similarity,
    Split,
    Vectors,
)
from skembft._utils.vectors import to_array
from skembft.metrics._scoring import item_kind, read_data

_DOCUMENTS = "documents.json"  # in a saved directory
_FEWEST_MOVED = 10  # held-out queries that can tell what moving their documents brings


def _count_moved(data: RetrievalData, splits: list[Split]) -> int:
    """Count held-out queries of which a document is moved by those in training."""
    positive = data.judged.positive
    moved = 0
    for train, held_out in splits:
        askers = positive[np.intersect1d(train, data.answerable)]  # of a weight
        asked = np.bincount(askers.indices, minlength=positive.shape[1]) > 0
        moved += int(np.count_nonzero(positive[held_out] @ asked))
    return moved


@saved_by_name
class CorpusFinetuner(FrozenFinetuner):
    """Move the vectors of documents toward the queries that they answer (NUDGE).

    Nothing is trained: where a document goes follows in closed form from the mean of
    its training queries, and how far from one number, `gamma`, which is chosen on
    held-out queries. Queries keep the vectors of the encoder, and so do documents that
    answer no training query, to the bit.

    Read more in the guide on moving documents.

    Parameters
    ----------
    encoder : str or encoder, default="BAAI/bge-small-en"
        What makes the vectors: the name or directory of a Sentence Transformers model
        (the same as ``SentenceEncoder(name)``), a `SentenceEncoder`, a
        `PrecomputedEncoder`, any object with `transform` and `transform_documents`, a
        `FrozenEstimator` around a fitted finetuner, or an unfitted finetuner (cloned
        and fitted first, on the same data).
    method : {"nudge_n", "nudge_m"}, default="nudge_n"
        "nudge_n" rotates vectors, which keep their unit length. "nudge_m" adds to them:
        they get longer, and must be ranked by dot product, never by cosine.
    gamma : float, default=None
        How far a document moves at most, the γ of the paper: with "nudge_n" it bounds
        the square of the distance, which is 2 for a right angle, with "nudge_m" the
        distance itself. 0 is not at all. None
        tries 0.02, 0.04, … 0.48 with "nudge_n" and … 0.70 with "nudge_m", on held-out
        queries; of equal scores the smallest wins.
    scoring : str, default="ndcg@10"
        Metric of `score` and of validation.
    validation_fraction : float, "auto" or None, default="auto"
        Share of the distinct queries held out at random. "auto" holds out each of 20 to
        10,000 queries once, in five parts, where documents are moved by the others,
        unless a large corpus makes it dear (more than 300 queries, and queries ×
        documents over 67 million and over 8,000 × pairs); of more a tenth. Where that
        cannot be (no `refit`, an `encoder` that is fitted first) it is a tenth, and
        with `refit` at least 300 queries or half of them. Ten are held out in any case,
        or all but one.
        Only queries whose documents other queries move can tell what moving brings:
        where fewer than ten of those held out are such, the vectors stay as they are,
        with a warning, and a given `gamma` is not validated. `X_val` in `fit` wins
        over it.
    refit : bool, default=True
        Move documents again by the `gamma` that validation chose, with all queries,
        those of `validation_fraction` included.
    exclude_self : bool or dict of {query: document}, default=False
        Whether no query retrieves the document that it is itself, in validation,
        `score` and `retrieve`: the same text or id, or what the dict says where only
        ids tell (``load_beir(…).own_documents``). A query's own document is never its
        negative, whatever this says.
    random_state : int, RandomState instance or None, default=None
        Determines which queries are held out, and in which part, and what an encoder
        that learns draws, if it has no `random_state` itself.

    Attributes
    ----------
    moved_documents_ : list of str or int of length m
        The documents that have moved: their texts, or their ids.
    moved_vectors_ : float32 ndarray of shape (m, d)
        Where they are now; upsert these into an index.
    gamma_ : float
        How far documents were moved; 0 means that none was.
    similarity_ : {"cosine", "dot"}
        What an index of these vectors must rank by.
    encoder_ : encoder
        What makes the vectors.
    history_ : list of dict
        An entry a `gamma` with "step", "epoch", "loss" (None), "gamma" and the metric
        `scoring` with its "standard_error"; the first is the untouched model at step 0.
        ``history_.plot()`` draws it.
    n_iter_ : int
        Number of values of `gamma` that were tried.
    best_step_ : int
        Step of the best validation score; 0 means the untouched model.
    best_epoch_ : float
        1.0, or 0.0 for the untouched model.
    base_score_ : float or None
        Validation score of the untouched model; None without validation.
    validation_score_ : float or None
        Best validation score, before refitting.
    embedding_dim_ : int
        Dimension of the vectors.

    See Also
    --------
    AdapterFinetuner : Train a small layer, which also helps unseen documents.

    References
    ----------
    S. Zeighami, Z. Wellmer, A. Parameswaran, "NUDGE: Lightweight Non-Parametric
    Fine-Tuning of Embeddings for Retrieval", 2024, arXiv:2409.02343.

    Examples
    --------
    The document "b" turns toward the query that it answers, and is found by it:

    >>> from skembft import CorpusFinetuner, PrecomputedEncoder
    >>> vectors = {"q": [0.8, 0.6], "a": [1, 0], "b": [0, 1]}
    >>> index = PrecomputedEncoder(vectors)
    >>> mover = CorpusFinetuner(index, gamma=0.4, validation_fraction=None)
    >>> mover = mover.fit(["q"], ["b"])
    >>> mover.moved_documents_, mover.moved_vectors_.round(2)
    (['b'], array([[0.6, 0.8]], dtype=float32))
    >>> indices, scores = mover.retrieve(["q"], ["a", "b"])
    >>> indices, scores.round(2)
    (array([[1, 0]]), array([[0.96, 0.8 ]], dtype=float32))
    """

    _history_metrics = ()  # all of them would take several times as long
    _most_in_folds = 10_000  # nothing is trained
    _fewest_held_out = _FEWEST_MOVED
    _advice = "More training queries, or another encoder, may help."
    _parameter_constraints: dict = {
        **FINETUNER_CONSTRAINTS,
        "encoder": "no_validation",
        "validation_fraction": [
            *FINETUNER_CONSTRAINTS["validation_fraction"],
            StrOptions({"auto"}),
        ],
        "method": [StrOptions({"nudge_n", "nudge_m"})],
        "gamma": [Interval(Real, 0, 1e18, closed="both"), None],
    }

    moved_documents_: list[Item]
    moved_vectors_: Vectors
    gamma_: float
    similarity_: Similarity

    def __init__(
        self,
        encoder: Any = "BAAI/bge-small-en",
        *,
        method: str = "nudge_n",
        gamma: float | None = None,
        scoring: str = "ndcg@10",
        validation_fraction: float | str | None = "auto",
        refit: bool = True,
        exclude_self: OwnDocuments = False,
        random_state: RandomState = None,
    ) -> None:
        self.encoder = encoder
        self.method = method
        self.gamma = gamma
        self.scoring = scoring
        self.validation_fraction = validation_fraction
        self.refit = refit
        self.exclude_self = exclude_self
        self.random_state = random_state

    # ---- fit

    def _check_encoder(self) -> None:
        super()._check_encoder()
        if self.encoder is None or item_kind(self.encoder) == "vector":
            raise InvalidParameterError(
                "CorpusFinetuner knows documents by their text or id, and this encoder "
                f"({self.encoder!r}) takes vectors. Give the vectors ids: "
                "encoder=PrecomputedEncoder({id: vector, …})."
            )

    def _read(
        self,
        X: Data,
        y: Data,
        corpus: Data,
        *,
        fitting: bool = False,
        reset: bool = False,
        suffix: str = "",
        own: OwnDocuments = False,
    ) -> RetrievalData:
        encoder = self.encoder if fitting else self.encoder_
        own = own or self.exclude_self
        return read_data(encoder, X, y, corpus, type(self).__name__, suffix, own)

    def _check_learnable(self, data: RetrievalData) -> None:
        self._check_answerable(data)

    def _split(
        self,
        data: RetrievalData,
        held_out: RetrievalData | None,
        trainer: Any,  # a CorpusTrainer; the base class says any trainer
        most: int,
        trained: Ints | None,
    ) -> list[Split] | None:
        if held_out is None and self.validation_fraction is None and self.gamma is None:
            raise InvalidParameterError(
                "gamma=None is chosen on held-out queries, and validation_fraction="
                "None holds none out: pass a gamma, a validation_fraction, or X_val."
            )
        splits = super()._split(data, held_out, trainer, most, trained)
        if held_out is not None or (
            splits and _count_moved(data, splits) >= _FEWEST_MOVED
        ):
            return splits
        if self.gamma is not None:
            return None
        if splits is None:
            raise ValueError(
                "gamma=None is chosen on held-out queries, and a single query that "
                "has a relevant document cannot be held out: pass a gamma, or X_val."
            )
        more = "Pass X_val"
        if self.validation_fraction != "auto" and data.n_queries >= 2 * _FEWEST_MOVED:
            more = "Leave validation_fraction='auto', pass X_val"
        warnings.warn(
            "The vectors of documents stay as they are: which gamma is best is told "
            "by held-out queries whose documents other queries move, and of the "
            f"{len(data.answerable)} queries fewer than {_FEWEST_MOVED} were held out "
            f"so. {more}, with other queries for the documents of X, or a gamma; 0.02 "
            "is a small one.",
            UserWarning,
            stacklevel=4,
        )
        trainer.gammas = []
        return splits

    def _open(
        self,
        rng: np.random.RandomState,
        data: RetrievalData,
        held_out: RetrievalData | None,
    ) -> CorpusTrainer:
        return CorpusTrainer(self, self._open_encoder(), rng)

    # ---- saving

    def _saved(self) -> Parts:
        parts = super()._saved()
        parts.content |= {"gamma": float(self.gamma_), "similarity": self.similarity_}
        parts.arrays["moved_vectors"] = self.moved_vectors_
        parts.files[_DOCUMENTS] = self.moved_documents_
        return parts

    def _restore(self, state: State) -> None:
        super()._restore(state)
        documents = state.json(_DOCUMENTS)
        vectors = state.arrays.get("moved_vectors")
        gamma: Any = state.content.get("gamma")
        check(documents, list, _DOCUMENTS)
        check(gamma, Real, f"'gamma' in {STATE}")
        for document in documents:
            check(document, (str, int), f"a document in {_DOCUMENTS}")
        if not np.isfinite(gamma) or len(set(documents)) < len(documents):
            raise Damaged(f"'gamma' is {gamma}, or {_DOCUMENTS} repeats a document")
        shape = (len(documents), self.embedding_dim_)
        if vectors is None or vectors.shape != shape or vectors.dtype != np.float32:
            raise Damaged(f"{ARRAYS} holds no 'moved_vectors' of shape {shape}")
        self.moved_documents_, self.moved_vectors_ = documents, vectors
        self.gamma_ = gamma
        similarity: Any = state.content.get("similarity", similarity_of(self.method))
        if similarity not in ("cosine", "dot"):
            raise Damaged(f"'similarity' in {STATE} is {shorten(similarity)}")
        self.similarity_ = similarity

    # ---- use

    def transform(self, X: Data) -> Vectors:
        """Return the vectors of queries, which are the encoder's.

        Parameters
        ----------
        X : queries of shape (n,), or table of (query, document, …) rows

        Returns
        -------
        vectors : float32 ndarray of shape (n, d)
            Of unit length.
        """
        check_is_fitted(self)
        return self._query_vectors(X)

    def _query_vectors(self, queries: Data) -> Vectors:
        vectors = encode(self._checked_encoder(), queries, "query")
        return self._of_the_fit(unit_vectors(vectors))

    def transform_documents(self, D: Data) -> Vectors:
        """Return the vectors of documents, moved where they have moved.

        Parameters
        ----------
        D : documents of shape (n,)

        Returns
        -------
        vectors : float32 ndarray of shape (n, d)
            Of documents that have not moved exactly what the encoder gives; for a
            ranking by dot product scaled to unit length, where they are not of it.
        """
        check_is_fitted(self)
        documents = check_items(D, "D", self._item_kind)
        vectors = self._checked_encoder().transform_documents(documents)
        if self._similarity == "dot":
            vectors = unit_vectors(vectors)
        vectors = to_array(vectors, "The document vectors")
        vectors = self._of_the_fit(np.array(vectors, dtype=np.float32))  # a copy
        row = positions(documents, self.moved_documents_)
        moved = row >= 0
        vectors[moved] = self.moved_vectors_[row[moved]]
        return vectors

    @property
    def _similarity(self) -> Similarity:
        return getattr(self, "similarity_", "cosine")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "moved_vectors_")

    def __sklearn_tags__(self) -> Tags:
        tags = tag_text_input(super().__sklearn_tags__())
        tags.transformer_tags.preserves_dtype = []
        return tags
