"""A frozen text encoder that never encodes the same text twice."""

import os
import threading
from collections import OrderedDict
from numbers import Integral

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
)

from skembft._base_encoder import BaseEncoder
from skembft._inputs import check_items, check_queries
from skembft._utils import check_finite

MODEL_CONSTRAINTS = {
    "model_id": [str, os.PathLike],
    "query_prompt": [str, None],
    "document_prompt": [str, None],
    "normalize": ["boolean"],
    "precision": [StrOptions({"float32", "auto"})],
    "max_seq_length": [Interval(Integral, 1, None, closed="left"), None],
    "truncate_dim": [Interval(Integral, 1, None, closed="left"), None],
    "trust_remote_code": ["boolean"],
    "device": [str, None],
}


def check_model_id(model_id):
    """Refuse a model instance with a message that says what to pass instead."""
    if hasattr(model_id, "encode") and not isinstance(model_id, str):
        raise InvalidParameterError(
            f"model_id is a {type(model_id).__name__} instance, which every clone in a "
            "search would copy. Save it first, model.save_pretrained('path'), and pass "
            "model_id='path'."
        )
    if not str(model_id):  # Sentence Transformers would make a model without modules
        raise InvalidParameterError(
            "model_id is ''; pass the name of a model or a directory."
        )


class _Store:
    """Vectors of texts, each encoded once; the oldest go when there is no room."""

    def __init__(self):
        self.lock = threading.RLock()
        self.rows = {}  # text -> row of vectors
        self.vectors = np.empty((0, 0), dtype=np.float32)
        self.size = 0  # rows in use; the array grows by doubling

    def get(self, texts, encode, max_bytes):
        """Return the vectors of `texts`; `encode` is called for the new ones."""
        new = [text for text in dict.fromkeys(texts) if text not in self.rows]
        if new:
            self._append(new, encode(new))
        answer = self.vectors[[self.rows[text] for text in texts]]
        self._trim(max_bytes)
        return answer

    def _append(self, texts, vectors):
        check_finite(vectors, "The vectors of the encoder")
        needed = self.size + len(texts)
        if needed > len(self.vectors):
            room = max(needed, 2 * len(self.vectors))
            grown = np.empty((room, vectors.shape[1]), dtype=np.float32)
            if self.size:
                grown[: self.size] = self.vectors[: self.size]
            self.vectors = grown
        self.vectors[self.size : needed] = vectors
        self.rows.update(zip(texts, range(self.size, needed), strict=True))
        self.size = needed

    def _trim(self, max_bytes):
        most = max_bytes // max(self.vectors[:1].nbytes, 1)
        if self.size > most:
            drop = self.size - 3 * most // 4  # room for more, or each text would trim
            self.vectors = self.vectors[drop : self.size].copy()
            self.size -= drop
            self.rows = {t: row - drop for t, row in self.rows.items() if row >= drop}


_MAX_STORES = 16  # models, prompts and settings whose vectors a process keeps
_stores = OrderedDict()
_stores_lock = threading.Lock()


def _store(key):
    with _stores_lock:
        store = _stores.setdefault(key, _Store())
        _stores.move_to_end(key)
        while len(_stores) > _MAX_STORES:
            _stores.popitem(last=False)
        return store


class SentenceEncoder(BaseEncoder):
    """Encode texts with a frozen Sentence Transformers model, each text once.

    Every distinct text is encoded once per process: all encoders of the same model,
    prompt and precision share a store in memory, whether they are clones in a grid
    search, folds of a cross-validation or steps of different pipelines. New texts are
    encoded in the order of their length in tokens, in batches of about equal numbers
    of tokens, so that hardly any padding is computed.

    Read more in the guide on encoders.

    Parameters
    ----------
    model_id : str, default="BAAI/bge-small-en"
        Name of a model on the Hugging Face hub, or a local directory.
    query_prompt, document_prompt : str, default=None
        Text put before every query or document. None means the model's own prompts,
        "" none at all.
    normalize : bool, default=True
        Scale vectors to unit length.
    precision : {"float32", "auto"}, default="float32"
        "auto" computes in bfloat16 (autocast) on a CPU or GPU that has it natively:
        about three times as fast, at a cosine of 0.9995 or more to float32. Results
        then vary with the machine.
    max_seq_length : int, default=None
        Tokens after which a text is cut. None means the model's own limit.
    truncate_dim : int, default=None
        Keep the first so many dimensions (of a Matryoshka model).
    trust_remote_code : bool, default=False
        Allow models that bring their own code. It runs with your rights.
    device : str, default=None
        Where to compute: "cpu", "cuda", "mps", … None takes the best there is when it
        is used; it is never stored.
    backend : {"torch", "onnx", "openvino"}, default="torch"
        What runs the model; the last two need their extras of Sentence Transformers.
    max_store_bytes : int, default=1073741824
        Size of the vectors kept in memory for one model, prompt and setting; the
        oldest are dropped.
        0 keeps none.

    See Also
    --------
    PrecomputedEncoder : Vectors that exist already.
    AdapterFinetuner : Train a small layer over a frozen encoder.

    Examples
    --------
    >>> from skembft import SentenceEncoder
    >>> encoder = SentenceEncoder("path/to/model", query_prompt="query: ")
    >>> encoder
    SentenceEncoder(model_id='path/to/model', query_prompt='query: ')
    """

    _item_kind = "text"
    _parameter_constraints: dict = {
        **MODEL_CONSTRAINTS,
        "backend": [StrOptions({"torch", "onnx", "openvino"})],
        "max_store_bytes": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        model_id="BAAI/bge-small-en",
        *,
        query_prompt=None,
        document_prompt=None,
        normalize=True,
        precision="float32",
        max_seq_length=None,
        truncate_dim=None,
        trust_remote_code=False,
        device=None,
        backend="torch",
        max_store_bytes=2**30,
    ):
        self.model_id = model_id
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.normalize = normalize
        self.precision = precision
        self.max_seq_length = max_seq_length
        self.truncate_dim = truncate_dim
        self.trust_remote_code = trust_remote_code
        self.device = device
        self.backend = backend
        self.max_store_bytes = max_store_bytes

    def _validate_params(self):
        check_model_id(self.model_id)
        super()._validate_params()

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X=None, y=None):
        """Check the parameters; there is nothing to learn.

        Parameters
        ----------
        X, y : ignored

        Returns
        -------
        self : object
        """
        return self

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
        return self._encode(check_queries(X, "text"), "query")

    def transform_documents(self, D):
        """Encode documents.

        Parameters
        ----------
        D : array-like of str of shape (n,)

        Returns
        -------
        vectors : float32 ndarray of shape (n, d)
        """
        return self._encode(check_items(D, "D", "text"), "document")

    def warm(self, texts):
        """Encode texts as queries and documents into the store, ahead of use.

        Parameters
        ----------
        texts : array-like of str of shape (n,)

        Returns
        -------
        self : object
        """
        texts = check_items(texts, "texts", "text")
        for role in ("query", "document"):
            self._encode(texts, role)
        return self

    def clear(self):
        """Forget the vectors that this process keeps for this encoder.

        Returns
        -------
        self : object
        """
        for role in ("query", "document"):
            with _stores_lock:
                _stores.pop(self._store_key(self._loaded(), role), None)
        return self

    def _dimension(self):
        return self.truncate_dim or self._loaded().dimension

    def _fingerprint(self):
        """Hash of the model and of the parameters that change its vectors."""
        loaded = self._loaded()
        prompts = [self._prompt(loaded, role) for role in ("query", "document")]
        return f"{loaded.fingerprint} {prompts} {self.normalize} {self.truncate_dim}"

    def _loaded(self):
        from skembft._models import ModelOptions, load_shared

        self._validate_params()
        return load_shared(ModelOptions.of(self))

    def _prompt(self, loaded, role):
        from skembft._models import resolve_prompt

        given = self.query_prompt if role == "query" else self.document_prompt
        return resolve_prompt(loaded.model, given, role)

    def _store_key(self, loaded, role):
        from skembft._models import resolve_precision

        return (
            loaded.fingerprint,
            self._prompt(loaded, role),
            role if loaded.has_routes else "",
            self.normalize,
            resolve_precision(self.precision, loaded.model.device),
            self.truncate_dim,
            self.backend,
        )

    def _encode(self, texts, role):
        from skembft import _models

        loaded = self._loaded()

        def encode(new):
            with loaded.lock:  # tokenizers are not for several threads
                return _models.encode(
                    loaded.model,
                    new,
                    role=role,
                    prompt=self._prompt(loaded, role),
                    normalize=self.normalize,
                    precision=self.precision,
                )

        if not texts:
            return np.empty((0, self._dimension()), dtype=np.float32)
        store = _store(self._store_key(loaded, role))
        with store.lock:  # threads of a search wait instead of encoding twice
            return store.get(texts, encode, self.max_store_bytes)
