"""Fine-tuning of a whole Sentence Transformers model."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import Tags
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
)
from sklearn.utils.validation import check_is_fitted

from skembft._data.items import check_items, check_queries
from skembft._data.retrieval_data import RetrievalData
from skembft._embedding.output import check_output, write_model
from skembft._finetuner.base import TRAINING_CONSTRAINTS, BaseFinetuner
from skembft._finetuner.history import History
from skembft._finetuner.monitor import Monitor
from skembft._losses.params import check_loss, check_vector_loss
from skembft._losses.table import LOSSES, VECTOR_LOSSES, find_loss
from skembft._models.params import HasModelParams, check_model_params
from skembft._saving.export import Exporter
from skembft._saving.model_card import model_card
from skembft._saving.params import STATE, Damaged, check
from skembft._saving.registry import saved_by_name
from skembft._saving.state import Parts, State
from skembft._utils.estimators import tag_text_input
from skembft._utils.launched import check_launch, first_process_speaks
from skembft._utils.messages import nearest, shorten
from skembft._utils.search import in_fold
from skembft._utils.types import (
    BatchTokens,
    Data,
    Loss,
    OwnDocuments,
    Params,
    Path,
    RandomState,
    Role,
    Similarity,
    Vectors,
)
from skembft._utils.vectors import check_finite
from skembft.encoders._sentence import (
    MODEL_CONSTRAINTS,
    StoreKey,
    check_model_id,
)

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from skembft._embedding.trainer import ModelTrainer
    from skembft._models.precision import Precision


@saved_by_name
class EmbeddingFinetuner(HasModelParams, BaseFinetuner):
    """Fine-tune every weight of a Sentence Transformers model for retrieval.

    Training is done by Sentence Transformers' own trainer, with its losses; the result
    is a plain `SentenceTransformer` in ``model_``. A fit leaves nothing behind: no
    file, no output, no changed global random state.

    Read more in the :doc:`guide on full fine-tuning </full_finetuning>`.

    Parameters
    ----------
    model_id : str, default="BAAI/bge-small-en"
        Name of a model on the Hugging Face hub, or a local directory. A model instance
        is an error: save it first, a clone would copy it.
    loss : str, class or callable, default="multiple_negatives_ranking"
        Any loss of Sentence Transformers, by name ("multiple_negatives_ranking",
        InfoNCE over in-batch negatives; "cached_multiple_negatives_ranking", "triplet",
        "cosent", "matryoshka", …), by class, or a callable that makes one from a model.
        The guide has a table of what each learns from, and how missing negatives and
        labels are made; what cannot be made is an error before training.
    loss_params : dict, default=None
        Arguments of the loss, such as ``{"scale": 20.0}``. Defaults are the library's,
        but margins of 5, which mean nothing on unit vectors, are 0.3. A wrapper takes
        the loss that it wraps: ``{"loss": "cosent", "loss_params": {"scale": 10.0}}``.
    negatives : {"batch", "random", "hard", "corpus"}, default="batch"
        Negatives besides explicit ones: the other documents of the batch; these and one
        random document a pair; these and a hard one, mined with the model as it is
        before training; or, with ``side="query"`` only, all documents of training (of
        more than 65,536 so many at random for each batch). Losses that take single
        negatives get hard ones with "hard" and random ones otherwise. A document known
        to be relevant to a query is never its negative.
    side : {"both", "query"}, default="both"
        What is trained: one model for queries and documents; or that of the queries
        alone, while documents keep the vectors of the untouched model. These are made
        once, so that an index stays valid, and a step costs its queries only. `model_`
        then has a route for each. It takes losses by name or class that need no more
        than vectors: the guide's table tells which.
    batch_size : int, default=10
        Pairs in a batch; in-batch negatives grow with it.
    epochs : int, default=2
        Passes over the training pairs.
    learning_rate : float, default=2e-5
        The highest of AdamW's learning rates, which then decay linearly to 0.
    weight_decay : float, default=0.01
        Of AdamW.
    interpolation : float in (0, 1], "auto" or None, default=None
        How much of what was learnt is kept: α of ``(1 - α) W₀ + α W``, between the
        weights as they were and as they are after training; a model forgets less of
        what it could before. "auto" is 1 where the gain in validation is sure, and
        0.7, 0.5 or 0 the more chance may have made it; None is 1, or 0 where that is
        likely.
    warmup_ratio : float, default=0.1
        Share of the steps in which the learning rate rises linearly:
        ``int(n_batches * epochs * warmup_ratio)`` steps.
    use_all_docs : bool, default=False
        Whether every relevant document of a query makes a pair, or the first only.
    scoring : str, default="ndcg@10"
        Metric of `score` and of validation.
    validation_fraction : float or None, default=None
        Share of the distinct queries held out at random for validation, or less of very
        many; the best weights are then kept. `X_val` in `fit` wins over it.
    n_iter_no_change : int or None, default=None
        Stop after so many evaluations without gain.
    evaluation_steps : int, default=50
        Validate every so many steps; 0 means once an epoch, or once in several
        where an evaluation costs more than an epoch.
    refit : bool, default=False
        Train again for the number of epochs that validation chose, on all the data,
        those of `validation_fraction` included.
    query_prompt, document_prompt : str, default=None
        Text put before every query or document, in training and in use. None means the
        model's own prompts.
    normalize : bool, default=True
        Give unit vectors; the model then ends in a Normalize module. Others are ranked
        by the similarity function that the model is saved with, "cosine" or "dot";
        a model with a distance is refused.
    trainable : {"all", "lora"} or int, default="all"
        What is trained: all weights; the top so many transformer layers and what
        follows them (what the layers below make of a text is then computed once, and
        without dropout); or low-rank weights beside frozen ones (LoRA, needs `peft`).
    trainable_params : dict, default=None
        Arguments of `peft.LoraConfig`; ours are r=16, lora_alpha=32 and
        target_modules="all-linear". With ``"merge": True`` the low-rank weights are
        folded into the model after training.
    layer_decay : float, default=None
        Learning rate of every layer as a share of that of the layer above. None means
        one rate for all.
    precision : {"float32", "auto"}, default="float32"
        Of the arithmetic; weights are float32, however the model is stored. "auto"
        trains and encodes in bfloat16 (autocast) where the device has it. On a CPU,
        dropout then draws other random numbers than PyTorch's own, faster.
    gradient_accumulation_steps : int, default=1
        Batches whose gradients are added up for a step of the optimizer. In-batch
        negatives do not grow by it.
    activation_checkpointing : bool, default=False
        Compute activations again for the gradient instead of keeping them: less memory,
        more time.
    torch_compile : bool, default=False
        Compile the model for training: worth it for long trainings only.
    sort_by_length : bool, default=True
        Embed a batch in chunks of texts of about equal length where at least a quarter
        of its tokens, and 512, are padding. The loss is the same but for rounding and
        dropout's random numbers.
    encode_batch_tokens : int or "auto", default="auto"
        Tokens in a batch of encoding, in validation and in use; vectors are the same
        but for rounding. "auto" is 65,536 on a GPU (131,072 in bfloat16), and 1,024
        (3,072) on a CPU. It is halved, for the rest of a call, when the memory of a GPU
        runs out.
    max_seq_length : int, default=None
        Tokens after which a text is cut. None means the model's own limit.
    truncate_dim : int, default=None
        Keep the first so many dimensions of the vectors.
    trust_remote_code : bool, default=False
        Allow models that bring their own code. It runs with your rights.
    model_params : dict, default=None
        Arguments of `SentenceTransformer`: "revision" of a name on the hub, "token",
        "model_kwargs" (such as {"dtype": "bfloat16"} or "attn_implementation"),
        "processor_kwargs", "config_kwargs". The token is not shown, pickled or saved.
    trainer_params : dict, default=None
        Arguments of `SentenceTransformerTrainingArguments` that have no argument here,
        such as ``{"lr_scheduler_type": "cosine", "max_grad_norm": 0.5}``, "optim",
        "adam_beta1", "max_steps" (which then counts instead of `epochs`), "fp16" or
        "report_to"; and "callbacks", a list of transformers' classes of callbacks, or
        of functions that make one. What the fit sets itself is an error that says how.
    model_output_path : path, default=None
        Directory for the fine-tuned model, in Sentence Transformers' format, and for
        its checkpoints. In a search only the refitted best model is written. Files that
        no fit wrote there are an error; a model of an earlier fit is replaced.
    save_checkpoints : bool, default=False
        Save checkpoints, below `model_output_path`. Every fit has its own directory
        there, named by a hash of its data and parameters.
    checkpoint_save_steps : int, default=500
        Save every so many optimizer steps.
    checkpoint_save_total_limit : int, default=0
        Keep the newest so many checkpoints of a fit; 0 keeps all.
    resume_from_checkpoint : bool, default=False
        Go on from the newest checkpoint of the same data and parameters, to the result
        that the fit would have had without the break. Start anew where there is none;
        checkpoints of another fit only are an error. With False a fit starts anew, and
        the checkpoints of the same fit that were there are kept until it has finished.
    warm_start : bool, default=False
        Let a second `fit` train the present weights for `epochs` further epochs.
    device : str, default=None
        Where to compute: "cpu", "cuda", "mps", … None takes the best there is when it
        is used; it is never stored.
    exclude_self : bool or dict of {query: document}, default=False
        Whether no query retrieves the document that it is itself, in validation,
        `score` and `retrieve`: the same text or id, or what the dict says where only
        ids tell (``load_beir(…).own_documents``). A query's own document is never its
        negative, whatever this says.
    random_state : int, RandomState instance or None, default=None
        An int is the trainer's seed. Determines dropout, the order of the pairs, the
        validation queries and sampled negatives.

    Attributes
    ----------
    model_ : SentenceTransformer
        The fine-tuned model.
    history_ : list of dict
        An entry an evaluation with "step", "epoch", "loss" (mean since the last entry)
        and, with validation, its metrics and the "standard_error" of `scoring`; the
        first is the untouched model at step 0.
        ``history_.plot()`` draws it.
    interpolation_ : float
        The share of what was learnt that is kept; 0 where that is nothing.
    n_iter_ : int
        Optimizer steps taken, before refitting.
    best_step_ : int
        Step whose weights are kept; 0 means the untouched model.
    best_epoch_ : float
        The same in epochs.
    base_score_ : float or None
        Validation score of the untouched model; None without validation.
    validation_score_ : float or None
        Best validation score.
    embedding_dim_ : int
        Dimension of the vectors.

    See Also
    --------
    AdapterFinetuner : Train a small layer over frozen embeddings, in seconds.

    References
    ----------
    .. [1] N. Reimers, I. Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese
       BERT-Networks", 2019, arXiv:1908.10084.
    .. [2] M. Henderson et al., "Efficient Natural Language Response Suggestion for
       Smart Reply", 2017, arXiv:1705.00652 (in-batch negatives).
    .. [3] P. Jain et al., "Succeeding at Scale: Enterprise Retrieval Benchmark
       Construction and Index-Preserving Query Adaptation for Multi-Tenant Search",
       2026, arXiv:2601.04646 (``side="query"``).

    Examples
    --------
    >>> from skembft import EmbeddingFinetuner
    >>> finetuner = EmbeddingFinetuner("path/to/model", batch_size=32, epochs=1)
    >>> finetuner.fit(queries, documents)  # doctest: +SKIP
    >>> finetuner.transform(["how do I reset my password?"])  # doctest: +SKIP
    """

    _unweighted = ("texts", "damaged")
    _parameter_constraints: dict = {
        **TRAINING_CONSTRAINTS,
        **MODEL_CONSTRAINTS,
        "negatives": [StrOptions({"batch", "random", "hard", "corpus"})],
        "side": [StrOptions({"both", "query"})],
        "layer_decay": [Interval(Real, 0, 1, closed="right"), None],
        "trainable": [
            StrOptions({"all", "lora"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "trainable_params": [dict, None],
        "gradient_accumulation_steps": [Interval(Integral, 1, None, closed="left")],
        "activation_checkpointing": ["boolean"],
        "torch_compile": ["boolean"],
        "sort_by_length": ["boolean"],
        "trainer_params": [dict, None],
        "model_output_path": [str, os.PathLike, None],
        "save_checkpoints": ["boolean"],
        "checkpoint_save_steps": [Interval(Integral, 1, None, closed="left")],
        "checkpoint_save_total_limit": [Interval(Integral, 0, None, closed="left")],
        "resume_from_checkpoint": ["boolean"],
    }

    model_: SentenceTransformer
    # of the vectors of documents; None where the model was trained for them too
    _document_key: StoreKey | None = None

    def __init__(
        self,
        model_id: Path = "BAAI/bge-small-en",
        *,
        loss: Loss = "multiple_negatives_ranking",
        loss_params: Params | None = None,
        negatives: str = "batch",
        side: str = "both",
        batch_size: int = 10,
        epochs: int = 2,
        learning_rate: float = 2e-5,
        weight_decay: float = 0.01,
        interpolation: float | str | None = None,
        warmup_ratio: float = 0.1,
        use_all_docs: bool = False,
        scoring: str = "ndcg@10",
        validation_fraction: float | None = None,
        n_iter_no_change: int | None = None,
        evaluation_steps: int = 50,
        refit: bool = False,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        normalize: bool = True,
        trainable: str | int = "all",
        trainable_params: Params | None = None,
        layer_decay: float | None = None,
        precision: Precision = "float32",
        gradient_accumulation_steps: int = 1,
        activation_checkpointing: bool = False,
        torch_compile: bool = False,
        sort_by_length: bool = True,
        encode_batch_tokens: BatchTokens = "auto",
        max_seq_length: int | None = None,
        truncate_dim: int | None = None,
        trust_remote_code: bool = False,
        model_params: Params | None = None,
        trainer_params: Params | None = None,
        model_output_path: Path | None = None,
        save_checkpoints: bool = False,
        checkpoint_save_steps: int = 500,
        checkpoint_save_total_limit: int = 0,
        resume_from_checkpoint: bool = False,
        warm_start: bool = False,
        device: str | None = None,
        exclude_self: OwnDocuments = False,
        random_state: RandomState = None,
    ) -> None:
        self.model_id = model_id
        self.loss = loss
        self.loss_params = loss_params
        self.negatives = negatives
        self.side = side
        self.batch_size = batch_size
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.interpolation = interpolation
        self.warmup_ratio = warmup_ratio
        self.use_all_docs = use_all_docs
        self.scoring = scoring
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.evaluation_steps = evaluation_steps
        self.refit = refit
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.normalize = normalize
        self.trainable = trainable
        self.trainable_params = trainable_params
        self.layer_decay = layer_decay
        self.precision = precision
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.activation_checkpointing = activation_checkpointing
        self.torch_compile = torch_compile
        self.sort_by_length = sort_by_length
        self.encode_batch_tokens = encode_batch_tokens
        self.max_seq_length = max_seq_length
        self.truncate_dim = truncate_dim
        self.trust_remote_code = trust_remote_code
        self.model_params = model_params
        self.trainer_params = trainer_params
        self.model_output_path = model_output_path
        self.save_checkpoints = save_checkpoints
        self.checkpoint_save_steps = checkpoint_save_steps
        self.checkpoint_save_total_limit = checkpoint_save_total_limit
        self.resume_from_checkpoint = resume_from_checkpoint
        self.warm_start = warm_start
        self.device = device
        self.exclude_self = exclude_self
        self.random_state = random_state

    def _validate_params(self) -> None:
        check_model_id(self.model_id)
        super()._validate_params()
        check_model_params(self.model_params, self.trust_remote_code)

    # ---- fit

    def _quiet(self) -> AbstractContextManager[None]:
        return first_process_speaks(self)

    def _find_loss(self) -> str | None:
        return find_loss(self.loss, LOSSES)

    def _check_settings(self) -> None:
        super()._check_settings()
        check_launch()
        self._find_loss()
        self._check_loss()
        if self.trainable == "lora":
            from skembft._embedding.trainable import lora_config

            lora_config(self.trainable_params)
        elif self.trainable_params:
            raise InvalidParameterError(
                f"trainable_params go with trainable='lora', not {self.trainable!r}."
            )
        if isinstance(self.trainable, bool | np.bool_):
            raise InvalidParameterError(
                "trainable must be 'all', 'lora' or a number of layers, got "
                f"{self.trainable!r}."
            )
        check_output(self)
        if self.trainer_params:
            from skembft._embedding.trainer_params import check_trainer_params

            check_trainer_params(self)

    def _check_loss(self) -> None:
        if self.side == "query":
            self._check_query_loss()
        elif self.negatives == "corpus":
            raise InvalidParameterError(
                "negatives='corpus' goes with side='query', which keeps the vectors of "
                "all documents. With side='both' use 'hard', or a larger batch_size."
            )
        elif isinstance(self.loss, str | type):
            check_loss(self.loss, self.loss_params)
        elif self.loss_params:
            raise InvalidParameterError(
                "loss_params go with a loss by name or class; a callable sets the "
                "arguments of its loss itself."
            )

    def _check_query_loss(self) -> None:
        if not isinstance(self.loss, str | type):
            raise InvalidParameterError(
                "side='query' takes a loss by name or class: one that a callable makes "
                "would embed documents anew."
            )
        name = find_loss(self.loss, LOSSES)
        if LOSSES[name].whole_model:
            raise InvalidParameterError(
                f"loss={name!r} goes with side='both' only: it needs the model itself "
                "for documents too, and side='query' has their vectors. "
                f"{nearest(name, VECTOR_LOSSES)}"
            )
        check_vector_loss(self.loss, self.loss_params, "side='query'")

    def _draws_negatives(self, data: RetrievalData) -> bool:
        # of fixed documents, InfoNCE masks those that are no negatives
        spec = self._loss_spec()
        masks = self.side == "query" and spec and spec.needs == "positives"
        return not masks and super()._draws_negatives(data)

    def _open(
        self,
        rng: np.random.RandomState,
        data: RetrievalData,
        held_out: RetrievalData | None,
    ) -> ModelTrainer:
        from skembft._embedding.opening import open_trainer

        return open_trainer(self, rng, data, held_out)

    def _keep(
        self,
        trainer: Any,  # a `ModelTrainer`
        state: Any,
        monitor: Monitor,
    ) -> None:
        from skembft._embedding.trainable import finish

        super()._keep(trainer, state, monitor)
        finish(trainer.model, self.trainable_params)
        card = self._describe_model()
        path = self.model_output_path
        if path is not None and not in_fold():
            trainer.processes.first(lambda: write_model(self.model_, card, path))
        if trainer.run is not None:
            trainer.processes.first(trainer.run.finish)

    def _describe_model(self) -> str:
        """Give `model_` the card with which it is saved and published.

        By itself it has that of its base, or one with nothing of the fit.
        """
        card = model_card(self, split=False, makes_model=True)
        self.model_._model_card_text = card  # type: ignore[assignment]  # not only None
        return card

    # ---- saving

    def _exporter(self) -> Exporter:
        return Exporter(self, {})

    def _saved(self) -> Parts:
        parts = super()._saved()
        parts.content["truncate_dim"] = self.model_.truncate_dim
        if self._document_key is not None:
            parts.content["document_key"] = list(self._document_key)
        return parts

    def _restore(self, state: State) -> None:
        super()._restore(state)
        self.model_ = state.model(self)
        self._document_key = _key_of(state.content.get("document_key"))
        self._describe_model()

    def _take_model(self, model: SentenceTransformer) -> None:
        """Become the encoder that a directory holds as a model, without a history."""
        from skembft._models.loading import dimension_of

        self.model_ = model
        self.embedding_dim_ = dimension_of(model)
        self.history_ = History()
        self.n_iter_, self.base_score_, self.validation_score_ = 0, None, None
        self.best_step_ = self.best_epoch_ = None

    # ---- use

    def transform(self, X: Data) -> Vectors:
        """Encode queries.

        Parameters
        ----------
        X : array-like of str of shape (n,), or a table of (query, document, …) rows
            Of a table the queries are encoded.

        Returns
        -------
        vectors : float32 ndarray of shape (n, d)
        """
        check_is_fitted(self)
        return self._query_vectors(check_queries(X, "text"))

    @property
    def _similarity(self) -> Similarity:
        from skembft._models.loading import similarity_of_model

        return similarity_of_model(self.model_)

    def _query_vectors(self, queries: list[str]) -> Vectors:
        return self._encode(queries, "query")

    def transform_documents(self, D: Data) -> Vectors:
        """Encode documents.

        Parameters
        ----------
        D : array-like of str of shape (n,)

        Returns
        -------
        vectors : float32 ndarray of shape (n, d)
            With ``side="query"`` those of the untouched model; each document is encoded
            once in a process.
        """
        check_is_fitted(self)
        documents = check_items(D, "D", "text")
        if self._document_key is None or not documents:
            return self._encode(documents, "document")
        from skembft._embedding.fixed_documents import DocumentEncoder

        encoder = DocumentEncoder(
            self.model_, self._document_key, self.encode_batch_tokens
        )
        return encoder.vectors(documents)

    def _encode(self, texts: list[str], role: Role) -> Vectors:
        from skembft._models.encoding import encode
        from skembft._models.loading import ends_in_normalize
        from skembft._models.prompts import choose_prompt

        prompts: dict[str, Any] = self.model_.prompts  # none is None
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        vectors = encode(
            self.model_,
            list(distinct),
            role=role,
            prompt=choose_prompt(prompts, None, role),
            normalize=ends_in_normalize(self.model_),  # as it was in fit
            precision=self.precision,
            batch_tokens=self.encode_batch_tokens,
        )
        check_finite(vectors, "The vectors of the model")
        return vectors[np.array([distinct[text] for text in texts], dtype=int)]

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "model_" in state:
            from skembft._embedding.packed_model import pack_model
            from skembft._models.code import installed_classes

            state["_module_classes"] = installed_classes(state["model_"])
            state["_truncate_dim"] = state["model_"].truncate_dim
            state["_card"] = state["model_"]._model_card_text
            state["model_"] = pack_model(state["model_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        packed = state.get("model_")
        if isinstance(packed, bytes):
            from skembft._embedding.packed_model import unpack_model

            state = dict(state)
            model = unpack_model(
                packed,
                model_id=os.fspath(state["model_id"]),
                truncate_dim=state.pop("_truncate_dim"),
                classes=state.pop("_module_classes", {}),
                device=state["device"],
            )
            model._model_card_text = state.pop("_card", None)
            state["model_"] = model
        super().__setstate__(state)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Tags:
        tags = tag_text_input(super().__sklearn_tags__())
        tags.transformer_tags.preserves_dtype = []
        return tags


def _key_of(saved: Any) -> StoreKey | None:
    """The key that a directory tells of, a list of texts and numbers or None."""
    if saved is None:
        return None
    check(saved, list, f"'document_key' in {STATE}")
    plain = all(isinstance(value, str | int | None) for value in saved)
    if not plain or len(saved) != len(StoreKey._fields):
        raise Damaged(f"'document_key' in {STATE} is {shorten(saved)}")
    return StoreKey(*saved)
