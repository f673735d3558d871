"""A small trainable layer over frozen embeddings."""

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import Tags
from sklearn.utils._param_validation import InvalidParameterError, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from skembft._adapter.params import Spec, Weights, apply_weights, check_adapter
from skembft._adapter.saved import add_adapter, exporter_of, restore_adapter
from skembft._data.encoded import encode
from skembft._data.relevance import LabelRelevance
from skembft._data.retrieval_data import RetrievalData
from skembft._data.vectors import check_vector_data, check_vectors
from skembft._finetuner.base import TRAINING_CONSTRAINTS
from skembft._finetuner.frozen import FrozenFinetuner
from skembft._losses.params import check_vector_loss
from skembft._losses.table import LOSSES, VECTOR_LOSSES, LossSpec, find_loss
from skembft._saving.export import Exporter
from skembft._saving.registry import saved_by_name
from skembft._saving.state import Parts, State
from skembft._utils.estimators import tag_text_input
from skembft._utils.types import (
    Data,
    OwnDocuments,
    Params,
    RandomState,
    Vectors,
)
from skembft._utils.vectors import read_vectors
from skembft.metrics._scoring import item_kind, read_data

if TYPE_CHECKING:
    from skembft._adapter.trainer import AdapterTrainer


@saved_by_name
class AdapterFinetuner(FrozenFinetuner):
    """Train a small layer on top of frozen embeddings, for better retrieval.

    Every text is encoded once; training then takes seconds on a CPU. With
    ``side="query"`` only queries are adapted, so that the vectors of an existing index
    stay as they are. The layer starts at the identity, and with validation (the
    default) the untouched embeddings are a candidate: when nothing beats them, they are
    kept.

    Read more in the :doc:`guide on adapters </adapters>`.

    Parameters
    ----------
    encoder : str, encoder or None, default="BAAI/bge-small-en"
        What makes the vectors: the name or directory of a Sentence Transformers model
        (the same as ``SentenceEncoder(name)``), a `SentenceEncoder`, an `APIEncoder`, a
        `PrecomputedEncoder`, any object with `transform` and `transform_documents`, an
        unfitted finetuner (cloned and fitted first), or None: X is vectors.
    loss : str or class, default="multiple_negatives_ranking"
        Any loss of Sentence Transformers that works on embeddings, by name or class:
        "multiple_negatives_ranking" (InfoNCE), "triplet", "cosent", … The guide has a
        table of what each learns from.
    loss_params : dict, default=None
        Arguments of the loss, such as ``{"scale": 20.0}`` (the default). Defaults are
        the library's, but margins of 5, which mean nothing on unit vectors, are 0.3.
    negatives : {"auto", "batch", "random", "hard", "corpus"}, default="auto"
        What a positive competes with in InfoNCE: the documents of its batch; these and
        one random document a pair; these and hard negatives, mined from the vectors as
        they are; or all documents seen in training (of more than 8,192 so many are
        drawn for every batch). "auto" trains with "random", "batch" and "corpus" in
        turn and keeps what does best in validation; it is "random" without validation,
        and of more than 20,000 queries. Losses that take single negatives get hard ones
        with "hard" and random ones otherwise. A document known to be relevant to a
        query is never its negative.
    adapter : {"linear", "low_rank", "mlp"} or class, default="linear"
        The layer: a matrix; the identity plus a product of two thin matrices; a
        two-layer perceptron added to its input; or a `torch.nn.Module` class, called
        with the dimension of the vectors and `adapter_params`.
    adapter_params : dict, default=None
        Arguments of the layer. "linear": ``bias`` (False) and ``output_dim`` (None: as
        the encoder's; starts at the principal directions of the training vectors), with
        ``solver="closed_form"`` only ``ridge`` (0.03), the λ of
        ``mean |W q − d|² + λ |W − I|²``;
        "low_rank": ``rank`` (32); "mlp": ``hidden_dim`` (None: twice the dimension) and
        ``activation`` ("relu", "gelu" or "silu").
    side : {"query", "both", "separate"}, default="query"
        What is adapted: queries only; queries and documents by one shared layer; or
        each by a layer of its own.
    solver : {"adamw", "closed_form"}, default="adamw"
        How the layer is found. "closed_form" is ridge regression from queries to their
        documents, toward the identity: a square matrix for queries in one step, without
        negatives. It uses none of `loss`, `negatives` and the arguments of AdamW, and
        warns where one of these is not at its default.
    batch_size : int, default=128
        Queries in a batch, each with all its pairs; every query counts the same.
    epochs : int, default=100
        The most passes over the training pairs; early stopping takes fewer.
    learning_rate : float or "auto", default="auto"
        Of AdamW. "auto" is ``0.01 / sqrt(d)`` for vectors of d dimensions, as the
        entries of a matrix that turns vectors shrink with d: 5e-4 for 384.
    weight_decay : float or "auto", default="auto"
        Of AdamW, toward the identity: every step takes ``learning_rate * weight_decay``
        of the way back. "auto" is ``sqrt(d) / 2``, about 10 for 384 dimensions. A class
        of your own decays toward 0, and wants less.
    warmup_ratio : float, default=0.0
        Share of the steps in which the learning rate rises linearly; it is constant
        afterwards.
    interpolation : float in (0, 1], "auto" or None, default="auto"
        How much of what was learnt is kept: α of ``(1 - α) W₀ + α W``, between the
        layer at its start and as it was trained. "auto" is 1 where the gain in
        validation is sure, and 0.7, 0.5 or 0 the more chance may have made it; None
        is 1, or 0 where that is likely. A warm start of a low-rank layer keeps the
        nearest one of its rank.
    use_all_docs : bool, default=True
        Whether every relevant document of a query makes a pair, or the first only.
    scoring : str, default="ndcg@10"
        Metric of `score` and of validation.
    validation_fraction : float, "auto" or None, default="auto"
        Share of the distinct queries held out at random, to choose the number of
        epochs, and whether to keep the adapter; less of very many, as validation is not
        to cost more than training. With "auto" each of 20 to 1,000 queries is held out
        once, in five parts, each by an adapter that is trained on the others
        (cross-fitting); of more queries it is 0.1, but at least 300 queries. Where that
        cannot be (no `refit`, `warm_start`, `evaluation_steps`, an encoder that is
        trained first, nothing to learn in a part), or is dear (more than 300 queries,
        and queries × documents over 67 million and over 8,000 × pairs), it is 0.1, and
        with `refit` at least 300 queries or half of them, as fewer tell too little.
        `X_val` in `fit` wins over it.
    n_iter_no_change : int, "auto" or None, default="auto"
        Stop after so many evaluations without gain. "auto" is 3, and at least 15 steps,
        where each query is held out once, as the mean of all is steady, and otherwise
        20.
    evaluation_steps : int, default=0
        Validate every so many steps; 0 means once an epoch, or once in several
        where an evaluation costs more than an epoch.
    refit : bool, default=True
        Train again for the number of epochs that validation chose, on all the data,
        those of `validation_fraction` included.
    warm_start : bool, default=False
        Let a second `fit` train the fitted adapter further, instead of a new one.
        ``solver="closed_form"`` solves anew all the same.
    exclude_self : bool or dict of {query: document}, default=False
        Whether no query retrieves the document that it is itself, in validation,
        `score` and `retrieve`: the same text or id, or what the dict says where only
        ids tell (``load_beir(…).own_documents``). A query's own document is never its
        negative, whatever this says.
    random_state : int, RandomState instance or None, default=None
        Determines the validation queries, the order of the pairs and drawn negatives,
        and what an encoder that learns draws, if it has no `random_state` itself.

    Attributes
    ----------
    weights_ : dict of {str: dict of {str: ndarray}}
        Of the "query" layer, and of the "document" layer if there is one. "linear" and
        "low_rank": "weight" of shape (output_dim, d) and, with a bias, "bias"; a vector
        x becomes ``weight @ x + bias``. "mlp": "weight_1", "bias_1", "weight_2" and
        "bias_2"; x becomes ``x + weight_2 @ act(weight_1 @ x + bias_1) + bias_2``. A
        class: its state_dict, or {} where the untouched vectors are kept.
    encoder_ : encoder or None
        What makes the vectors.
    history_ : list of dict
        An entry an evaluation with "step", "epoch", "loss" (mean since the last entry)
        and the validation metrics, with the "standard_error" of `scoring`; the first is
        the untouched model at step 0. With "negatives" too, where some are compared:
        epochs then begin anew with each, steps go on.
        ``history_.plot()`` draws it.
    negatives_ : str
        The negatives of training: what "auto" chose.
    interpolation_ : float
        The share of what was learnt that is kept; 0 where that is nothing.
    n_iter_ : int
        Optimizer steps taken, before refitting; of one adapter of several.
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
    .. [1] A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with
       Contrastive Predictive Coding", 2018, arXiv:1807.03748 (InfoNCE).
    .. [2] G. Moreira et al., "NV-Retriever: Improving text embedding models with
       effective hard-negative mining", 2024, arXiv:2407.15831 (hard negatives).

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

    _unweighted = ("classes",)
    _parameter_constraints: dict = {
        **TRAINING_CONSTRAINTS,
        "encoder": "no_validation",
        "learning_rate": [*TRAINING_CONSTRAINTS["learning_rate"], StrOptions({"auto"})],
        "weight_decay": [*TRAINING_CONSTRAINTS["weight_decay"], StrOptions({"auto"})],
        "negatives": [StrOptions({"auto", "batch", "random", "hard", "corpus"})],
        "adapter": [StrOptions({"linear", "low_rank", "mlp"}), type],
        "adapter_params": [dict, None],
        "side": [StrOptions({"query", "both", "separate"})],
        "validation_fraction": [
            *TRAINING_CONSTRAINTS["validation_fraction"],
            StrOptions({"auto"}),
        ],
        "n_iter_no_change": [
            *TRAINING_CONSTRAINTS["n_iter_no_change"],
            StrOptions({"auto"}),
        ],
        "solver": [StrOptions({"adamw", "closed_form"})],
    }

    weights_: Weights
    # those before the refit, of which only a warm start has need
    _validated_weights: Weights | None = None
    _adapter_spec: Spec

    def __init__(
        self,
        encoder: Any = "BAAI/bge-small-en",
        *,
        loss: str | type = "multiple_negatives_ranking",
        loss_params: Params | None = None,
        negatives: str = "auto",
        adapter: str | type = "linear",
        adapter_params: Params | None = None,
        side: str = "query",
        solver: str = "adamw",
        batch_size: int = 128,
        epochs: int = 100,
        learning_rate: float | str = "auto",
        weight_decay: float | str = "auto",
        warmup_ratio: float = 0.0,
        interpolation: float | str | None = "auto",
        use_all_docs: bool = True,
        scoring: str = "ndcg@10",
        validation_fraction: float | str | None = "auto",
        n_iter_no_change: int | str | None = "auto",
        evaluation_steps: int = 0,
        refit: bool = True,
        warm_start: bool = False,
        exclude_self: OwnDocuments = False,
        random_state: RandomState = None,
    ) -> None:
        self.encoder = encoder
        self.loss = loss
        self.loss_params = loss_params
        self.negatives = negatives
        self.adapter = adapter
        self.adapter_params = adapter_params
        self.side = side
        self.solver = solver
        self.batch_size = batch_size
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_ratio = warmup_ratio
        self.interpolation = interpolation
        self.use_all_docs = use_all_docs
        self.scoring = scoring
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.evaluation_steps = evaluation_steps
        self.refit = refit
        self.warm_start = warm_start
        self.exclude_self = exclude_self
        self.random_state = random_state

    # ---- fit

    def _check_settings(self) -> None:
        super()._check_settings()
        name = self._find_loss()
        if name is None:
            raise InvalidParameterError(
                "AdapterFinetuner takes a loss by name or class; there is no model "
                "that a callable could be called with."
            )
        check_vector_loss(self.loss, self.loss_params, type(self).__name__)
        check_adapter(self, LOSSES[name].needs)

    def _check_learnable(self, data: RetrievalData) -> None:
        if self.solver == "closed_form":  # it has no loss
            self._check_answerable(data)
            return
        needs = LOSSES[self._find_loss()].needs
        if needs == "classes" and not isinstance(data.relevance, LabelRelevance):
            raise ValueError(
                f"loss={self.loss!r} learns from class labels: use encoder=None, with "
                "the vectors as X and the labels as y."
            )
        super()._check_learnable(data)

    def _check_batch(self, spec: LossSpec, data: RetrievalData) -> None:
        if spec.needs == "positives":  # otherwise a batch has all rows of its queries
            super()._check_batch(spec, data)

    def _draws_negatives(self, data: RetrievalData) -> bool:
        infonce = LOSSES[self._find_loss()].needs == "positives"  # masks them instead
        return not infonce and super()._draws_negatives(data)

    def _find_loss(self) -> str:
        return find_loss(self.loss, VECTOR_LOSSES)

    def _spec(self) -> Spec:
        """What `_apply` needs to know of the adapter, as it is now."""
        return self.adapter, dict(self.adapter_params or {})

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
        if encoder is not None and item_kind(encoder) != "vector":
            own = own or self.exclude_self
            return read_data(encoder, X, y, corpus, type(self).__name__, suffix, own)
        if y is None:
            raise ValueError(
                "AdapterFinetuner requires y to be passed, but the target y is None: "
                f"with encoder=None, y{suffix} holds class labels or the vectors of "
                "the relevant documents."
            )
        going_on = self.warm_start and self.__sklearn_is_fitted__()
        X = self._check_X(X, f"X{suffix}", reset and not going_on)
        return check_vector_data(X, y, corpus, suffix)

    def _check_X(self, X: Data, name: str, reset: bool = False) -> Vectors:
        X = read_vectors(X, name)
        types = [np.float64, np.float32, np.float16]
        return validate_data(self, X, dtype=types, reset=reset)

    def _in_folds(self, n_queries: int, most: int) -> bool:
        once = not self.warm_start and not self.evaluation_steps
        return once and super()._in_folds(n_queries, most)

    def _open(
        self,
        rng: np.random.RandomState,
        data: RetrievalData,
        held_out: RetrievalData | None,
    ) -> "AdapterTrainer":
        from skembft._adapter.trainer import AdapterTrainer

        starts = None
        if self.warm_start and self.__sklearn_is_fitted__():
            if (
                self._adapter_spec != self._spec()
                or set(self.weights_) != self._sides()
            ):
                raise ValueError(
                    "warm_start=True trains the fitted adapter further, and adapter, "
                    "adapter_params or side have changed since: restore them, or fit "
                    "a clone."
                )
            starts = self._validated_weights or self.weights_, self.weights_
        return AdapterTrainer(self, self._open_encoder(), rng, starts)

    def _keep_validated(self, state: list[Weights] | None) -> bool:
        self._validated_weights = state[0] if state and self.warm_start else None
        return self._validated_weights is not None

    def _sides(self) -> set[str]:
        return {"query"} if self.side == "query" else {"query", "document"}

    # ---- saving

    def _exporter(self) -> Exporter:
        return exporter_of(self)

    def _saved(self) -> Parts:
        parts = super()._saved()
        add_adapter(parts, self)
        return parts

    def _restore(self, state: State) -> None:
        super()._restore(state)
        restore_adapter(self, state)

    # ---- use

    def transform(self, X: Data) -> Vectors:
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
            X = self._check_X(X, "X")
        return self._query_vectors(X)

    def _query_vectors(self, queries: Data) -> Vectors:
        if self.encoder_ is not None:
            queries = encode(self._checked_encoder(), queries, "query")
        return self._apply("query", queries)

    def _document_vectors(self, documents: Data) -> Vectors:
        if self.encoder_ is None:
            vectors = check_vectors(documents, "D", self.n_features_in_)
        else:
            vectors = encode(self._checked_encoder(), documents, "document")
        if "document" in self.weights_:
            return self._apply("document", vectors)
        return self._of_the_fit(vectors)

    def _apply(self, side: str, vectors: Vectors) -> Vectors:
        adapter, params = self._adapter_spec
        weights = self.weights_[side]
        if isinstance(adapter, str) or not weights:
            activation = (params or {}).get("activation", "relu")
            return apply_weights(weights, vectors, activation)
        from skembft._adapter.training import apply_module

        return apply_module(adapter, params, weights, vectors)

    def transform_documents(self, D: Data) -> Vectors:
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
        return np.asarray(self._document_vectors(D), dtype=np.float32)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "weights_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.encoder is None
        if self.encoder is None:
            tags.transformer_tags.preserves_dtype = ["float32"]
        else:
            tags.transformer_tags.preserves_dtype = []
            tag_text_input(tags)
        return tags
