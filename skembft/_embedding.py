"""Fine-tuning of a whole Sentence Transformers model."""

import numpy as np
from sklearn.utils._param_validation import InvalidParameterError, StrOptions
from sklearn.utils.validation import check_is_fitted

from skembft._base import TRAINING_CONSTRAINTS, BaseFinetuner
from skembft._encoders import MODEL_CONSTRAINTS, check_model_id
from skembft._inputs import check_items, check_queries
from skembft._losses import check_loss, find_loss
from skembft._utils import check_finite, tag_text_input


class EmbeddingFinetuner(BaseFinetuner):
    """Fine-tune every weight of a Sentence Transformers model for retrieval.

    Training is done by Sentence Transformers' own trainer, with its losses; the result
    is a plain `SentenceTransformer` in ``model_``. A fit leaves nothing behind: no
    file, no output, no changed global random state.

    Read more in the guide on full fine-tuning.

    Parameters
    ----------
    model_id : str, default="BAAI/bge-small-en"
        Name of a model on the Hugging Face hub, or a local directory. A model instance
        is an error: save it first, a clone would copy it.
    loss : str, class or callable, default="multiple_negatives_ranking"
        A loss of Sentence Transformers: "multiple_negatives_ranking" (InfoNCE over
        in-batch negatives), "triplet", "cosine_similarity", "contrastive", their
        classes, or a callable that makes one from a model. Every loss takes every form
        of data: missing negatives are sampled, missing labels are 1 for relevant and 0
        for sampled documents.
    loss_params : dict, default=None
        Arguments of the loss, such as ``{"scale": 20.0}``. Defaults are the library's,
        but the margin of "triplet" is 0.3 (5 means nothing on unit vectors).
    negatives : {"batch", "random"}, default="batch"
        Negatives besides explicit ones: the other documents of the batch, or one more
        random document a pair. A document known to be relevant to a query is never its
        negative.
    batch_size : int, default=10
        Pairs in a batch; in-batch negatives grow with it.
    epochs : int, default=2
        Passes over the training pairs.
    learning_rate : float, default=2e-5
        The highest of AdamW's learning rates, which then decay linearly to 0.
    weight_decay : float, default=0.01
        Of AdamW.
    warmup_ratio : float, default=0.1
        Share of the steps in which the learning rate rises linearly:
        ``int(n_batches * epochs * warmup_ratio)`` steps.
    use_all_docs : bool, default=False
        Whether every relevant document of a query makes a pair, or the first only.
    scoring : str, default="ndcg@10"
        Metric of `score` and of validation.
    validation_fraction : float or None, default=None
        Share of the distinct queries held out at random for validation; the best
        weights are then kept. `X_val` in `fit` wins over it.
    n_iter_no_change : int or None, default=None
        Stop after so many evaluations without gain.
    evaluation_steps : int, default=50
        Validate every so many steps; 0 means once an epoch.
    refit : bool, default=False
        Train again for the number of epochs that validation chose, on all the data,
        those of `validation_fraction` included.
    query_prompt, document_prompt : str, default=None
        Text put before every query or document, in training and in use. None means the
        model's own prompts.
    normalize : bool, default=True
        Give unit vectors; the model then ends in a Normalize module.
    precision : {"float32", "auto"}, default="float32"
        "auto" trains and encodes in bfloat16 (autocast) where the device has it.
    max_seq_length : int, default=None
        Tokens after which a text is cut. None means the model's own limit.
    truncate_dim : int, default=None
        Keep the first so many dimensions of the vectors.
    trust_remote_code : bool, default=False
        Allow models that bring their own code. It runs with your rights.
    device : str, default=None
        Where to compute: "cpu", "cuda", "mps", … None takes the best there is when it
        is used; it is never stored.
    random_state : int, RandomState instance or None, default=None
        An int is the trainer's seed. Determines dropout, the order of the pairs, the
        validation queries and sampled negatives.

    Attributes
    ----------
    model_ : SentenceTransformer
        The fine-tuned model.
    history_ : list of dict
        An entry an evaluation with "step", "epoch", "loss" (mean since the last entry)
        and, with validation, its metrics; the first is the untouched model at step 0.
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
    N. Reimers, I. Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese
    BERT-Networks", 2019, arXiv:1908.10084.
    M. Henderson et al., "Efficient Natural Language Response Suggestion for Smart
    Reply", 2017, arXiv:1705.00652 (in-batch negatives).

    Examples
    --------
    >>> from skembft import EmbeddingFinetuner
    >>> finetuner = EmbeddingFinetuner("path/to/model", batch_size=32, epochs=1)
    >>> finetuner.fit(queries, documents)  # doctest: +SKIP
    >>> finetuner.transform(["how do I reset my password?"])  # doctest: +SKIP
    """

    _losses = (
        "multiple_negatives_ranking",
        "triplet",
        "cosine_similarity",
        "contrastive",
    )
    _parameter_constraints: dict = {
        **TRAINING_CONSTRAINTS,
        **MODEL_CONSTRAINTS,
        "negatives": [StrOptions({"batch", "random"})],
    }

    def __init__(
        self,
        model_id="BAAI/bge-small-en",
        *,
        loss="multiple_negatives_ranking",
        loss_params=None,
        negatives="batch",
        batch_size=10,
        epochs=2,
        learning_rate=2e-5,
        weight_decay=0.01,
        warmup_ratio=0.1,
        use_all_docs=False,
        scoring="ndcg@10",
        validation_fraction=None,
        n_iter_no_change=None,
        evaluation_steps=50,
        refit=False,
        query_prompt=None,
        document_prompt=None,
        normalize=True,
        precision="float32",
        max_seq_length=None,
        truncate_dim=None,
        trust_remote_code=False,
        device=None,
        random_state=None,
    ):
        self.model_id = model_id
        self.loss = loss
        self.loss_params = loss_params
        self.negatives = negatives
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
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.normalize = normalize
        self.precision = precision
        self.max_seq_length = max_seq_length
        self.truncate_dim = truncate_dim
        self.trust_remote_code = trust_remote_code
        self.device = device
        self.random_state = random_state

    def _validate_params(self):
        check_model_id(self.model_id)
        super()._validate_params()

    # ---- fit

    def _find_loss(self):
        return find_loss(self.loss, self._losses)

    def _check_settings(self):
        super()._check_settings()
        name = self._find_loss()
        if name is not None:
            check_loss(self.loss, self.loss_params)
        elif self.loss_params:
            raise InvalidParameterError(
                "loss_params go with a loss by name or class; a callable sets the "
                "arguments of its loss itself."
            )

    def _open(self, rng):
        from sentence_transformers.sentence_transformer.modules import Normalize

        from skembft._embedding_training import ModelTrainer
        from skembft._models import ModelOptions, ends_in_normalize, load_model

        model = load_model(ModelOptions.of(self))
        if self.normalize and not ends_in_normalize(model):
            model.append(Normalize())
        return ModelTrainer(self, model, rng)

    # ---- use

    def transform(self, X):
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

    def _query_vectors(self, queries):
        return self._encode(queries, "query")

    def transform_documents(self, D):
        """Encode documents.

        Parameters
        ----------
        D : array-like of str of shape (n,)

        Returns
        -------
        vectors : float32 ndarray of shape (n, d)
        """
        check_is_fitted(self)
        return self._encode(check_items(D, "D", "text"), "document")

    def _encode(self, texts, role):
        from skembft._models import encode, ends_in_normalize, resolve_prompt

        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        vectors = encode(
            self.model_,
            list(distinct),
            role=role,
            prompt=resolve_prompt(self.model_, None, role),
            normalize=ends_in_normalize(self.model_),  # as it was in fit
            precision=self.precision,
        )
        check_finite(vectors, "The vectors of the model")
        return vectors[np.array([distinct[text] for text in texts], dtype=int)]

    def __getstate__(self):
        state = super().__getstate__()
        if "model_" in state:
            from skembft._embedding_training import pack_model

            state["model_"] = pack_model(state["model_"])
        return state

    def __setstate__(self, state):
        packed = state.get("model_")
        if isinstance(packed, bytes):
            from skembft._embedding_training import unpack_model

            model = unpack_model(
                packed,
                truncate_dim=state["embedding_dim_"],
                trust_remote_code=state["trust_remote_code"],
                device=state["device"],
            )
            state = {**state, "model_": model}
        super().__setstate__(state)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "model_")

    def __sklearn_tags__(self):
        tags = tag_text_input(super().__sklearn_tags__())
        tags.transformer_tags.preserves_dtype = []
        return tags
