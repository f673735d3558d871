"""Embedding APIs and other clients as an encoder that pays for each text once."""

import os
import pickle
import uuid
from contextlib import suppress
from numbers import Integral, Real
from types import MethodType
from typing import Any, Self

import numpy as np
from sklearn.utils._param_validation import Interval, InvalidParameterError

from skembft._utils.hidden import Hidden, name_of
from skembft._utils.types import Path, Role, Vectors
from skembft._utils.vectors import to_array, unit_rows
from skembft.encoders._store import Key, Portions, get_store
from skembft.encoders._stored import STORE_CONSTRAINTS, StoredEncoder

# what encodes a list of documents, and what its client has for queries
_METHODS = {
    "embed_documents": "embed_query",  # LangChain
    "get_text_embedding_batch": "get_query_embedding",  # LlamaIndex
    "encode_document": "encode_query",  # Sentence Transformers
    "encode": None,
    "__call__": None,
}
_ONE_BY_ONE = {"embed_query", "get_query_embedding"}  # take one text, not a list


class APIEncoder(StoredEncoder):
    """Encode texts with an embedding API or any other client, each text once.

    Batches are stored as they arrive, in memory and in `cache_dir`. When the API fails
    in the middle, its error is passed on and what has arrived is kept: call again, and
    only the rest is asked for. Clones in a search share the client and the vectors.

    Read more in the :doc:`guide on encoders </encoders>`.

    Parameters
    ----------
    client : object, default=None
        What makes the vectors, in this order: an object with `embed_documents` and
        `embed_query` (LangChain), with `get_text_embedding_batch` and
        `get_query_embedding` (LlamaIndex), with `encode_document` and `encode_query`,
        with `encode`, or a callable from a list of texts to a matrix. Where a client
        has one method only, queries and documents have the same vectors.
    model_name : str, default=None
        Names the vectors: encoders of the same name share them. Name the model and
        what else changes its vectors, such as their dimension. It is required with
        `cache_dir`; None shares the vectors of the same client in this process.
    batch_size : int, default=64
        The most texts in a call. `embed_query` and `get_query_embedding` take one.
    normalize : bool, default=True
        Scale vectors to unit length. The store holds them as they came.
    cache_dir : str or PathLike, default=None
        Directory where vectors are kept for all processes and for the next time; it is
        made if it does not exist.
    max_store_bytes : int, default=1073741824
        Size of the vectors kept in memory; the oldest are dropped, and would be paid
        for again. Vectors in `cache_dir` do not count.

    Raises
    ------
    ValueError
        By `transform` and `transform_documents`: the client returned too few or too
        many vectors, vectors of different widths, NaN or no numbers. Nothing of that
        batch is stored.
    OSError
        A `cache_dir` that cannot be made.

    See Also
    --------
    SentenceEncoder : Texts encoded by a Sentence Transformers model.
    PrecomputedEncoder : Vectors that exist already.

    Notes
    -----
    The client is shared by clones and never copied, and it travels inside a pickle,
    with the credentials that it holds.

    Examples
    --------
    >>> import numpy as np
    >>> from skembft import APIEncoder
    >>> def count_letters(texts):
    ...     print("asked for", texts)
    ...     return [[text.count(letter) for letter in "abc"] for text in texts]
    >>> encoder = APIEncoder(count_letters, normalize=False)
    >>> encoder.transform(["abba", "cab"])
    asked for ['abba', 'cab']
    array([[2., 2., 0.],
           [1., 1., 1.]], dtype=float32)
    >>> encoder.transform_documents(["cab", "baa"])
    asked for ['baa']
    array([[1., 1., 1.],
           [2., 1., 0.]], dtype=float32)
    """

    _parameter_constraints: dict = {
        "client": "no_validation",
        "model_name": [str, None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "normalize": ["boolean"],
        **STORE_CONSTRAINTS,
    }

    def __init__(
        self,
        client: Any = None,
        *,
        model_name: str | None = None,
        batch_size: int = 64,
        normalize: bool = True,
        cache_dir: Path | None = None,
        max_store_bytes: int = 2**30,
    ) -> None:
        self.client = client
        self.model_name = model_name
        self.batch_size = batch_size
        self.normalize = normalize
        self.cache_dir = cache_dir
        self.max_store_bytes = max_store_bytes

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Hidden) and name == "client":  # from `get_params`
            self._shown_client = value
            value = value.value
        super().__setattr__(name, value)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; the client is shown by its name only.

        Its own representation may hold credentials. It is the `value` of what is
        returned, and `client` itself.

        Parameters
        ----------
        deep : bool, default=True

        Returns
        -------
        params : dict
        """
        params = super().get_params(deep)
        if not isinstance(self.client, Real | None):
            shown = self.__dict__.get("_shown_client")
            if shown is None or shown.value is not self.client:
                shown = self._shown_client = Hidden(self.client)
            params["client"] = shown
        return params

    def _validate_params(self) -> None:
        super()._validate_params()
        if self.cache_dir is not None and not self.model_name:
            raise InvalidParameterError(
                f"cache_dir={os.fspath(self.cache_dir)!r} needs a model_name, which "
                "names the vectors on disk: pass the name of the model behind the "
                "client."
            )
        self._method("document")

    def _method(self, role: Role) -> str:
        """Name of the client's method for "query" or "document"."""
        client = self.client
        instance = not isinstance(client, str | bytes | type)  # str has an encode too
        for documents, queries in _METHODS.items():
            if instance and callable(getattr(client, documents, None)):
                if role == "query" and queries is not None and hasattr(client, queries):
                    return queries
                return documents
        raise InvalidParameterError(
            f"client is {name_of(client)}, which cannot encode texts: pass an "
            "object with embed_documents and embed_query, with "
            "get_text_embedding_batch, or with encode, or a function from a list of "
            "texts to a matrix."
        )

    def _fingerprint(self) -> str:
        return f"{self.model_name} {self.normalize}"

    def _store_key(self, role: Role) -> Key:
        shared = self._method("query") == self._method("document")
        name = self.model_name or self._client_name()
        return "api", name, "" if shared else role

    def _client_name(self) -> str:
        """What names a client that the user has not named, also in other processes."""
        client, name = self.__dict__.get("_named_client", (None, None))
        if name is not None and client is self.client:
            return name
        return _client_names.setdefault(_Identity(self.client), uuid.uuid4().hex)

    def _find_dimension(self) -> int:
        raise ValueError(
            "The dimension of an APIEncoder is known once it has encoded a text: call "
            "transform or transform_documents first."
        )

    def _encode(self, texts: list[str], role: Role) -> Vectors:
        vectors = super()._encode(texts, role)
        return unit_rows(vectors) if self.normalize else vectors

    def _compute(self, texts: list[str], role: Role) -> Portions:
        name = self._method(role)
        method = getattr(self.client, name)
        for start in range(0, len(texts), self.batch_size):
            batch = texts[start : start + self.batch_size]
            what = f"of texts {start} to {start + len(batch) - 1} of {len(texts)}"
            if name not in _ONE_BY_ONE:
                yield batch, self._check(method(list(batch)), len(batch), role, what)
                continue
            vectors = []
            try:
                for text in batch:
                    vectors.append(method(text))
            except BaseException:
                kept = None
                if vectors:  # paid for
                    with suppress(ValueError):  # the client's own error counts
                        kept = self._check(vectors, len(vectors), role, what)
                if kept is not None:
                    yield batch[: len(vectors)], kept
                raise
            yield batch, self._check(vectors, len(batch), role, what)

    def _check(self, vectors: Any, n: int, role: Role, what: str) -> Vectors:
        """Return what the client gave for n texts as a matrix, if it is one."""
        try:
            matrix = to_array(vectors, "vectors")
        except ValueError:  # of different widths, or without values
            matrix = np.empty(0, dtype=object)
        if matrix.ndim == 2 and matrix.dtype.kind in "fiu":
            with np.errstate(over="ignore"):  # found below
                matrix = matrix.astype(np.float32)
        width = get_store(self._store_key(role)).width(self.cache_dir)
        if not hasattr(vectors, "__len__") or hasattr(vectors, "toarray"):
            wrong = f"{type(vectors).__name__}, not vectors,"
            mend = "a client must return a matrix, one vector a text"
        elif len(vectors) != n:
            wrong = f"{len(vectors)} vectors"
            mend = "a client must return one vector a text, in their order"
        elif matrix.ndim != 2 or matrix.dtype != np.float32 or not matrix.size:
            wrong = "no matrix of numbers"
            mend = "a client must return vectors of one width"
        elif not np.isfinite(matrix).all():
            row = np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0]
            wrong = f"NaN or infinity (in vector {row} of them)"
            mend = "nothing can be ranked by such vectors: leave the text out"
        elif width not in (None, matrix.shape[1]):
            wrong = f"vectors of {matrix.shape[1]} dimensions, but {width} before"
            mend = "another model needs another model_name, or clear()"
        else:
            return matrix
        raise ValueError(
            f"The client {name_of(self.client)} returned {wrong} for the batch {what}, "
            f"{n} in number; {mend}. Nothing of this batch is stored."
        )

    def __sklearn_clone__(self) -> Self:
        clone = type(self)(**self.get_params(deep=False))
        if hasattr(self, "_named_client"):
            clone._named_client = self._named_client
        if hasattr(self, "_sklearn_output_config"):
            clone._sklearn_output_config = dict(self._sklearn_output_config)
        return clone

    def __getstate__(self) -> dict[str, Any]:
        try:
            # joblib's workers can be sent local functions and classes, pickle cannot
            with suppress(pickle.PicklingError, AttributeError):
                pickle.dumps(self.client)
        except TypeError as error:
            raise TypeError(
                f"The client {name_of(self.client)} of the APIEncoder cannot be "
                f"pickled ({error}): open its connection at first use instead of "
                "keeping it, or stay in one process, n_jobs=1."
            ) from error
        state = dict(super().__getstate__())
        state.pop("_shown_client", None)
        if self.model_name is None:  # or workers would pay again for every task
            state["_named_client"] = (self.client, self._client_name())
        return state


_client_names: "dict[_Identity, str]" = {}  # of this process's clients


class _Identity:
    """Equal only for the same object, which it keeps alive, or the same method of it.

    A method is another object each time that it is looked up.
    """

    def __init__(self, thing: object) -> None:
        self.thing = thing
        parts = [thing]
        if isinstance(thing, MethodType):
            parts = [thing.__self__, thing.__func__]
        self._ids = tuple(map(id, parts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other._ids == self._ids

    def __hash__(self) -> int:
        return hash(self._ids)
