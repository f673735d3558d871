"""A small trainable layer over frozen embeddings."""

import os
from numbers import Real

import numpy as np
from sklearn.base import clone
from sklearn.utils._param_validation import (
    InvalidParameterError,
    StrOptions,
)
from sklearn.utils.validation import check_is_fitted, validate_data

from skembft._base import TRAINING_CONSTRAINTS, BaseFinetuner
from skembft._encoders import SentenceEncoder
from skembft._inputs import check_vector_data, check_vectors
from skembft._losses import check_argument_names, check_loss, find_loss
from skembft._scoring import item_kind, read_data
from skembft._utils import tag_text_input, unit_rows

_LOSSES = ("multiple_negatives_ranking", "triplet", "cosine_similarity")


class AdapterFinetuner(BaseFinetuner):
    """Train a small layer on top of frozen embeddings, for better retrieval.

    Every text is encoded once; training then takes seconds on a CPU. With
    ``side="query"`` only queries are adapted, so that the vectors of an existing index
    stay as they are. The layer starts at the identity, and with validation (the
    default) the untouched embeddings are a candidate: when nothing beats them, they are
    kept.

    Read more in the guide on adapters.

    Parameters
    ----------
    encoder : str, encoder or None, default="BAAI/bge-small-en"
        What makes the vectors: the name or directory of a Sentence Transformers model
        (the same as ``SentenceEncoder(name)``), a `SentenceEncoder`, a
        `PrecomputedEncoder`, any object with `transform` and `transform_documents`, an
        unfitted finetuner (cloned and fitted first), or None: X is vectors.
    loss : str or class, default="multiple_negatives_ranking"
        A loss of Sentence Transformers, by name or class:
        "multiple_negatives_ranking" (InfoNCE), "triplet" or "cosine_similarity".
    loss_params : dict, default=None
        Arguments of the loss, such as ``{"scale": 20.0}`` (the default).
    negatives : {"batch", "corpus"}, default="corpus"
        What a positive competes with in InfoNCE: the documents of its batch, or all
        documents seen in training. A document known to be relevant to a query is never
        its negative. Losses that need single negatives draw them at random.
    adapter : {"linear"}, default="linear"
        The layer: a square matrix.
    adapter_params : dict, default=None
        Arguments of the layer: ``{"bias": True}`` (default False).
    side : {"query", "both"}, default="query"
        What is adapted: queries only, or queries and documents by one shared layer.
    batch_size : int, default=128
        Pairs in a batch.
    epochs : int, default=30
        The most passes over the training pairs; early stopping takes fewer.
    learning_rate : float, default=3e-4
        Of AdamW. Vectors of few dimensions want more.
    weight_decay : float, default=0.01
        Of AdamW, toward the identity.
    warmup_ratio : float, default=0.0
        Share of the steps in which the learning rate rises linearly; it is constant
        afterwards.
    use_all_docs : bool, default=True
        Whether every relevant document of a query makes a pair, or the first only.
    scoring : str, default="ndcg@10"
        Metric of `score` and of validation.
    validation_fraction : float or None, default=0.1
        Share of the distinct queries held out at random, to choose the number of
        epochs. `X_val` in `fit` wins over it.
    n_iter_no_change : int or None, default=5
        Stop after so many evaluations without gain.
    evaluation_steps : int, default=0
        Validate every so many steps; 0 means once an epoch.
    refit : bool, default=True
        Train again for the number of epochs that validation chose, on all the data,
        those of `validation_fraction` included.
    random_state : int, RandomState instance or None, default=None
        Determines the validation queries, the order of the pairs and drawn negatives.

    Attributes
    ----------
    weights_ : dict of {str: dict of {str: ndarray}}
        Of the "query" layer, and of the "document" layer if there is one, the "weight"
        of shape (d, d) and, with a bias, the "bias" of shape (d,). A vector x becomes
        ``weight @ x + bias``.
    encoder_ : encoder or None
        What makes the vectors.
    history_ : list of dict
        An entry an evaluation with "step", "epoch", "loss" (mean since the last entry)
        and the validation metrics; the first is the untouched model at step 0.
    n_iter_ : int
        Optimizer steps taken, before refitting.
    best_step_ : int
        Step of the best validation score; 0 means the untouched model.
    best_epoch_ : float
        Epoch of the best validation score.
    base_score_ : float or None
        Validation score of the untouched model; None without validation.
    validation_score_ : float or None
        Best validation score, before refitting.
    embedding_dim_ : int
        Dimension of the vectors.

    See Also
    --------
    EmbeddingFinetuner : Train the whole model.
    SentenceEncoder : Encode texts with a frozen model.

    References
    ----------
    A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with Contrastive
    Predictive Coding", 2018, arXiv:1807.03748 (InfoNCE).

    Examples
    --------
    Vectors that exist already, from an index or an embedding API:

    >>> import numpy as np
    >>> from skembft import AdapterFinetuner
    >>> rng = np.random.default_rng(0)
    >>> documents = rng.normal(size=(300, 16))
    >>> queries = documents @ rng.normal(0.1, 0.2, size=(16, 16)) + documents / 4
    >>> adapter = AdapterFinetuner(None, learning_rate=1e-3, random_state=0)
    >>> adapter = adapter.fit(queries[:200], documents[:200])
    >>> score = adapter.score(queries[200:], documents[200:])
    >>> bool(score > adapter.base_score_ + 0.1)
    True

    Texts, with a Sentence Transformers model:

    >>> AdapterFinetuner("path/to/model", side="both")
    AdapterFinetuner(encoder='path/to/model', side='both')
    """

    _encoder_checked = True  # not after unpickling
    _parameter_constraints: dict = {
        **TRAINING_CONSTRAINTS,
        "encoder": "no_validation",
        "negatives": [StrOptions({"batch", "corpus"})],
        "adapter": [StrOptions({"linear"})],
        "adapter_params": [dict, None],
        "side": [StrOptions({"query", "both"})],
    }

    def __init__(
        self,
        encoder="BAAI/bge-small-en",
        *,
        loss="multiple_negatives_ranking",
        loss_params=None,
        negatives="corpus",
        adapter="linear",
        adapter_params=None,
        side="query",
        batch_size=128,
        epochs=30,
        learning_rate=3e-4,
        weight_decay=0.01,
        warmup_ratio=0.0,
        use_all_docs=True,
        scoring="ndcg@10",
        validation_fraction=0.1,
        n_iter_no_change=5,
        evaluation_steps=0,
        refit=True,
        random_state=None,
    ):
        self.encoder = encoder
        self.loss = loss
        self.loss_params = loss_params
        self.negatives = negatives
        self.adapter = adapter
        self.adapter_params = adapter_params
        self.side = side
        self.batch_size = batch_size
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_ratio = warmup_ratio
        self.use_all_docs = use_all_docs
        self.scoring = scoring
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.evaluation_steps = evaluation_steps
        self.refit = refit
        self.random_state = random_state

    # ---- fit

    def _check_settings(self):
        super()._check_settings()
        self._check_encoder()
        name = self._find_loss()
        if name is None:
            raise InvalidParameterError(
                "AdapterFinetuner takes a loss by name or class; there is no model "
                "that a callable could be called with."
            )
        if name == "multiple_negatives_ranking":
            check_argument_names(
                self.loss_params, ["scale"], f"loss_params of the loss {name!r}"
            )
            scale = (self.loss_params or {}).get("scale", 20.0)
            if not isinstance(scale, Real) or not 0 < scale < np.inf:
                raise InvalidParameterError(
                    f"The scale of the loss must be a positive number, got {scale!r}."
                )
        else:
            check_loss(self.loss, self.loss_params)
        check_argument_names(
            self.adapter_params, ["bias"], f"adapter_params of {self.adapter!r}"
        )

    def _find_loss(self):
        return find_loss(self.loss, _LOSSES)

    def _check_encoder(self):
        encoder = self.encoder
        if encoder is None or isinstance(encoder, str | os.PathLike):
            return
        if not hasattr(encoder, "transform") or not hasattr(
            encoder, "transform_documents"
        ):
            hint = (
                "save the model, model.save_pretrained('path'), and pass encoder='path'"
                if hasattr(encoder, "encode")
                else "pass the name or directory of a model, a SentenceEncoder, a "
                "PrecomputedEncoder, or None when X is vectors"
            )
            raise InvalidParameterError(
                f"encoder is a {type(encoder).__name__} without transform and "
                f"transform_documents; {hint}."
            )

    def _read(self, X, y, corpus, *, fitting=False, reset=False, suffix=""):
        encoder = self.encoder if fitting else self.encoder_
        if encoder is not None:
            return read_data(encoder, X, y, corpus, type(self).__name__, suffix)
        if y is None:
            raise ValueError(
                "This AdapterFinetuner estimator requires y to be passed, but the "
                "target y is None: with encoder=None, y holds class labels or the "
                "vectors of the relevant documents."
            )
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=reset)
        return check_vector_data(X, y, corpus, suffix)

    def _open(self, data, X, y, corpus, rng):
        from skembft._adapter_training import AdapterTrainer

        return AdapterTrainer(self, self._fitted_encoder(X, y, corpus), rng)

    def _fitted_encoder(self, X, y, corpus):
        encoder = self.encoder
        if isinstance(encoder, str | os.PathLike):
            return SentenceEncoder(os.fspath(encoder))
        if hasattr(encoder, "get_params"):
            encoder = clone(encoder)
        if isinstance(encoder, BaseFinetuner):
            encoder.fit(X, y, corpus=corpus)
        return encoder

    def _keep(self, trainer, state, monitor):
        super()._keep(trainer, state, monitor)
        self._encoder_fingerprint = _fingerprint(self.encoder_)

    # ---- use

    def transform(self, X):
        """Return the adapted vectors of queries.

        Parameters
        ----------
        X : queries of shape (n,), table of (query, document, …) rows, or vectors
            Vectors of shape (n, d) with ``encoder=None``.

        Returns
        -------
        vectors : float32 ndarray of shape (n, d)
            Of unit length.
        """
        check_is_fitted(self)
        if self.encoder_ is None:
            X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return self._query_vectors(X)

    def _query_vectors(self, queries):
        if self.encoder_ is not None:
            queries = self._checked_encoder().transform(queries)
        return apply_weights(self.weights_["query"], np.asarray(queries))

    def transform_documents(self, D):
        """Return the vectors of documents.

        Parameters
        ----------
        D : documents of shape (n,), or vectors of shape (n, d) with ``encoder=None``

        Returns
        -------
        vectors : float32 ndarray of shape (n, d)
            With ``side="query"`` exactly what the encoder gives, otherwise adapted
            and of unit length.
        """
        check_is_fitted(self)
        if self.encoder_ is None:
            vectors = check_vectors(D, "D", self.n_features_in_)
        else:
            vectors = np.asarray(self._checked_encoder().transform_documents(D))
        if "document" in self.weights_:
            return apply_weights(self.weights_["document"], vectors)
        return np.asarray(vectors, dtype=np.float32)

    def _checked_encoder(self):
        """The encoder; after unpickling it is compared with the one of fit, once."""
        if not self._encoder_checked:
            if _fingerprint(self.encoder_) != self._encoder_fingerprint:
                raise ValueError(
                    f"The encoder {self.encoder_!r} is not the one this adapter was "
                    "fitted with: its weights, prompts or settings have changed. "
                    "Restore the model, or fit again."
                )
            self._encoder_checked = True
        return self.encoder_

    def __getstate__(self):
        state = super().__getstate__()
        state.pop("_encoder_checked", None)
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        self._encoder_checked = not hasattr(self, "_encoder_fingerprint")

    @property
    def _item_kind(self):
        encoder = getattr(self, "encoder_", self.encoder)
        return "vector" if encoder is None else item_kind(encoder)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "weights_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.encoder is None
        if self.encoder is None:
            tags.transformer_tags.preserves_dtype = ["float32"]
        else:
            tags.transformer_tags.preserves_dtype = []
            tag_text_input(tags)
        return tags


def _fingerprint(encoder):
    """Hash of what determines an encoder's vectors; None where it has none."""
    return encoder._fingerprint() if hasattr(encoder, "_fingerprint") else None


def apply_weights(weights, vectors):
    """Adapt vectors (n, d) by a layer, giving float32 unit vectors; no torch needed."""
    vectors = np.asarray(unit_rows(vectors), dtype=np.float32) @ weights["weight"].T
    if "bias" in weights:
        vectors = vectors + weights["bias"]
    return unit_rows(vectors)
