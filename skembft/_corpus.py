"""Moving the vectors of documents toward the queries that they answer."""

from numbers import Real

import numpy as np
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
)
from sklearn.utils.validation import check_is_fitted

from skembft._base import FINETUNER_CONSTRAINTS
from skembft._frozen import FrozenFinetuner
from skembft._inputs import check_items
from skembft._nudge import find_moves, score_gammas
from skembft._scoring import item_kind, read_data
from skembft._utils import (
    tag_text_input,
    unit_rows,
)

# how far documents may move at most: the same lengths, up to 0.7, in both units
_GAMMAS = {
    "nudge_n": [round(0.02 * i, 2) for i in range(1, 25)],  # |Δ|², as nudge-ft has it
    "nudge_m": [round(0.02 * i, 2) for i in range(1, 36)],  # |Δ|
}


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
        How far a document moves at most: with "nudge_n" the square of the distance
        (between 0 and 2), with "nudge_m" the distance itself. 0 is not at all. None
        tries 0.02, 0.04, … 0.48 with "nudge_n" and … 0.70 with "nudge_m", on held-out
        queries; of equal scores the smallest wins.
    scoring : str, default="ndcg@10"
        Metric of `score` and of validation.
    validation_fraction : float or None, default=0.1
        Share of the distinct queries held out at random. `X_val` in `fit` wins over it.
    refit : bool, default=True
        Move documents again by the `gamma` that validation chose, with all queries,
        those of `validation_fraction` included.
    random_state : int, RandomState instance or None, default=None
        Determines the validation queries.

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
        `scoring`; the first is the untouched model at step 0.
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

    # the closed form sees the data once, and each gamma is tried
    epochs = 1
    n_iter_no_change = None
    _history_metrics = ()  # all of them would take several times as long
    _advice = "More training queries, or another encoder, may help."
    _parameter_constraints: dict = {
        **FINETUNER_CONSTRAINTS,
        "encoder": "no_validation",
        "method": [StrOptions({"nudge_n", "nudge_m"})],
        "gamma": [Interval(Real, 0, None, closed="left"), None],
    }

    def __init__(
        self,
        encoder="BAAI/bge-small-en",
        *,
        method="nudge_n",
        gamma=None,
        scoring="ndcg@10",
        validation_fraction=0.1,
        refit=True,
        random_state=None,
    ):
        self.encoder = encoder
        self.method = method
        self.gamma = gamma
        self.scoring = scoring
        self.validation_fraction = validation_fraction
        self.refit = refit
        self.random_state = random_state

    # ---- fit

    def _check_encoder(self):
        super()._check_encoder()
        if self.encoder is None or item_kind(self.encoder) == "vector":
            raise InvalidParameterError(
                "CorpusFinetuner knows documents by their text or id, and this encoder "
                f"({self.encoder!r}) takes vectors. Give the vectors ids: "
                "encoder=PrecomputedEncoder({id: vector, …})."
            )

    def _read(self, X, y, corpus, *, fitting=False, reset=False, suffix=""):
        encoder = self.encoder if fitting else self.encoder_
        return read_data(encoder, X, y, corpus, type(self).__name__, suffix)

    def _check_learnable(self, data):
        self._check_answerable(data)

    def _split(self, data, held_out, rng):
        split = super()._split(data, held_out, rng)
        if self.gamma is not None or held_out is not None or split is not None:
            return split
        if self.validation_fraction is None:
            raise InvalidParameterError(
                "gamma=None is chosen on held-out queries, and validation_fraction="
                "None holds none out: pass a gamma, a validation_fraction, or X_val."
            )
        raise ValueError(
            "gamma=None is chosen on held-out queries, and a single query that has a "
            "relevant document cannot be held out: pass a gamma, or X_val."
        )

    def _open(self, rng, data, held_out):
        return CorpusTrainer(self, self._open_encoder(), rng)

    def _validator(self, trainer, validation, metrics):
        return lambda: trainer.scores(validation, metrics)

    # ---- use

    def transform(self, X):
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

    def _query_vectors(self, queries):
        return unit_vectors(self._checked_encoder().transform(queries))

    def transform_documents(self, D):
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
        vectors = np.array(vectors, dtype=np.float32)  # the encoder keeps its own
        row = positions(documents, self.moved_documents_)
        moved = row >= 0
        vectors[moved] = self.moved_vectors_[row[moved]]
        return vectors

    @property
    def _similarity(self):
        return getattr(self, "similarity_", "cosine")

    def __sklearn_is_fitted__(self):
        return hasattr(self, "moved_vectors_")

    def __sklearn_tags__(self):
        tags = tag_text_input(super().__sklearn_tags__())
        tags.transformer_tags.preserves_dtype = []
        return tags


class CorpusTrainer:
    """Moves the documents of a `CorpusFinetuner`, by every gamma in question.

    A state is a gamma; where documents go is known before any is tried.
    """

    growth = None  # no weights are trained

    def __init__(self, estimator, encoder, rng):
        self.settings = estimator
        self.encoder = encoder
        self.rng = rng
        self.tasks = None
        given = estimator.gamma
        self.gammas = _GAMMAS[estimator.method] if given is None else [float(given)]

    def prepare(self, data):
        """Encode the distinct queries and documents, as float32 unit vectors."""
        from skembft._encoded import EncodedData

        encoded = EncodedData.of(data, self.encoder)
        queries, documents = (
            unit_vectors(encoded.queries),
            unit_vectors(encoded.documents),
        )
        return EncodedData(data, queries, documents)

    def train(self, encoded, monitor, epochs):
        """Try every gamma; return the one that the monitor chose."""
        self.documents, self.dim = encoded.data.documents, encoded.queries.shape[1]
        self.moves = find_moves(
            encoded.queries,
            encoded.documents,
            encoded.data.relevance.positive,
            self.settings.method,
        )
        self.gamma, self._scores = 0.0, None
        monitor.start(gamma=0.0)
        self.tasks.begin()
        for step, gamma in enumerate(self.gammas, start=1):
            self.gamma = gamma
            monitor.update(step, 1.0, None, gamma=gamma)
        monitor.finish()
        self.gammas = [monitor.best_state]  # of a refit
        self.tasks.end()
        return monitor.best_state

    def scores(self, validation, metrics):
        """Metrics at the present gamma; all of them are computed together, once."""
        if self._scores is None:
            names = [self.documents[i] for i in self.moves.index]
            place = positions(names, validation.data.documents)
            # in the order of the validation data, so that their ranks need less sorting
            rows = np.argsort(place)[np.count_nonzero(place < 0) :]
            gammas = [0.0, *self.gammas]
            scores = score_gammas(
                self.moves.take(rows, place[rows]),
                gammas,
                validation.queries,
                validation.documents,
                validation.data.relevance,
                metrics,
            )
            self._scores = dict(zip(gammas, scores, strict=True))
        return self._scores[self.gamma]

    def snapshot(self):
        return self.gamma

    def attributes(self, state=None):
        """The fitted attributes at a gamma, by default the present one."""
        gamma = self.gamma if state is None else state
        index = self.moves.index if gamma > 0 else self.moves.index[:0]
        vectors = self.moves.vectors(gamma)[: len(index)]
        return {
            "moved_documents_": [self.documents[i] for i in index],
            "moved_vectors_": vectors,
            "gamma_": gamma,
            "similarity_": "dot" if self.settings.method == "nudge_m" else "cosine",
            "embedding_dim_": self.dim,
            "encoder_": self.encoder,
            "_encoder_checked": True,
        }


def positions(items, among):
    """Index of every item in the list `among`, or -1."""
    place = {item: i for i, item in enumerate(among)}
    return np.fromiter((place.get(item, -1) for item in items), np.int64, len(items))


def unit_vectors(vectors):
    """Return float32 rows of unit length; those that are so already are kept as is."""
    vectors = np.asarray(vectors)
    with np.errstate(over="ignore"):  # infinity is no length to keep
        out = np.asarray(vectors, dtype=np.float32)
        squares = np.einsum("ij,ij->i", out, out)
    others = np.flatnonzero(~(np.abs(squares - 1) <= 2e-6))
    if len(others):
        out = out.copy() if out is vectors else out
        out[others] = unit_rows(vectors[others])
    return out
