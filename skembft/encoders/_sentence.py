"""A frozen text encoder that never encodes the same text twice."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar, overload

from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
)

from skembft._models.files import Backend, ModelFiles, cannot_load, find_model
from skembft._models.params import HasModelParams, check_model_params, key_of
from skembft._models.prompts import choose_prompt
from skembft._models.similarity import similarity_of
from skembft._utils.types import BatchTokens, Params, Path, Role, Similarity
from skembft.encoders._store import Portions
from skembft.encoders._stored import ROLES, STORE_CONSTRAINTS, StoredEncoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from skembft._models.loading import LoadedModel
    from skembft._models.precision import Computed, Precision

_T = TypeVar("_T")
MODEL_CONSTRAINTS: dict[str, list[Any]] = {
    "model_id": [str, os.PathLike],
    "query_prompt": [str, None],
    "document_prompt": [str, None],
    "normalize": ["boolean"],
    "precision": [StrOptions({"float32", "auto"})],
    "encode_batch_tokens": [
        Interval(Integral, 1, None, closed="left"),
        StrOptions({"auto"}),
    ],
    "max_seq_length": [Interval(Integral, 1, None, closed="left"), None],
    "truncate_dim": [Interval(Integral, 1, None, closed="left"), None],
    "trust_remote_code": ["boolean"],
    "model_params": [dict, None],
    "device": [str, None],
}


class StoreKey(NamedTuple):
    """What determines the vectors of a model."""

    weights: str
    prompt: str
    role: Role | Literal[""]  # "" where prompts alone tell queries from documents
    normalize: bool
    precision: Computed
    max_seq_length: int | None
    truncate_dim: int | None
    backend: Backend
    model_params: str


def check_model_id(model_id: object) -> None:
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


class SentenceEncoder(HasModelParams, StoredEncoder):
    """Encode texts with a frozen Sentence Transformers model, each text once.

    Every distinct text is encoded once per process: all encoders of the same model,
    prompt and precision share a store in memory, whether they are clones in a grid
    search, folds of a cross-validation or steps of different pipelines. With
    `cache_dir` processes share it too: once the texts are in it, a worker of a search
    loads no model. New texts are encoded in the order of their length in tokens, in
    batches of about equal numbers of tokens, so that hardly any padding is computed.

    Read more in the :doc:`guide on encoders </encoders>`.

    Parameters
    ----------
    model_id : str, default="BAAI/bge-small-en"
        Name of a model on the Hugging Face hub, or a local directory. A name means the
        revision in the hub's local cache; it is downloaded where there is none.
    query_prompt, document_prompt : str, default=None
        Text put before every query or document. None means the model's own prompts,
        "" none at all.
    normalize : bool, default=True
        Scale vectors to unit length. Others are ranked by the similarity function that
        the model is saved with, "cosine" or "dot"; scores refuse a distance.
    precision : {"float32", "auto"}, default="float32"
        "float32" means it however the model is stored. "auto" computes in bfloat16 on
        a CPU or GPU that has it natively: two to three times as fast, at a cosine of
        0.9995 or more to float32. Results then vary with the machine. A copy of the
        weights takes half as much memory again.
    encode_batch_tokens : int or "auto", default="auto"
        Tokens in a batch; vectors are the same but for rounding. "auto" is 65,536 on a
        GPU (131,072 in bfloat16), and 1,024 (3,072) on a CPU. It is halved, for the
        rest of a call, when the memory of a GPU runs out.
    max_seq_length : int, default=None
        Tokens after which a text is cut. None means the model's own limit.
    truncate_dim : int, default=None
        Keep the first so many dimensions (of a Matryoshka model).
    trust_remote_code : bool, default=False
        Allow models that bring their own code. It runs with your rights.
    model_params : dict, default=None
        Arguments of `SentenceTransformer`: "revision" of a name on the hub, "token",
        "model_kwargs" (such as {"dtype": "bfloat16"} or "attn_implementation"),
        "processor_kwargs", "config_kwargs". The token is not shown, pickled or saved.
    device : str, default=None
        Where to compute: "cpu", "cuda", "mps", … None takes the best there is when it
        is used; it is never stored.
    backend : {"torch", "onnx", "openvino"}, default="torch"
        What runs the model; the last two need their extras of Sentence Transformers.
    cache_dir : str or PathLike, default=None
        Directory where vectors are kept for all processes and for the next time; it is
        made if it does not exist.
    max_store_bytes : int, default=1073741824
        Size of the vectors kept in memory for one model, prompt and setting; the
        oldest are dropped. 0 keeps none. Vectors in `cache_dir` do not count.

    Raises
    ------
    OSError
        A model that cannot be loaded, or a `cache_dir` that cannot be made. One that
        is full or read-only, or a damaged file in it, is a UserWarning: the vectors are
        computed, and kept in memory.

    See Also
    --------
    APIEncoder : Texts encoded by an API or any other client.
    PrecomputedEncoder : Vectors that exist already.
    AdapterFinetuner : Train a small layer over a frozen encoder.

    Examples
    --------
    >>> from skembft import SentenceEncoder
    >>> encoder = SentenceEncoder("path/to/model", query_prompt="query: ")
    >>> encoder
    SentenceEncoder(model_id='path/to/model', query_prompt='query: ')
    """

    _parameter_constraints: dict = {
        **MODEL_CONSTRAINTS,
        "backend": [StrOptions({"torch", "onnx", "openvino"})],
        **STORE_CONSTRAINTS,
    }

    def __init__(
        self,
        model_id: Path = "BAAI/bge-small-en",
        *,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        normalize: bool = True,
        precision: Precision = "float32",
        encode_batch_tokens: BatchTokens = "auto",
        max_seq_length: int | None = None,
        truncate_dim: int | None = None,
        trust_remote_code: bool = False,
        model_params: Params | None = None,
        device: str | None = None,
        backend: Backend = "torch",
        cache_dir: Path | None = None,
        max_store_bytes: int = 2**30,
    ) -> None:
        self.model_id = model_id
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.normalize = normalize
        self.precision = precision
        self.encode_batch_tokens = encode_batch_tokens
        self.max_seq_length = max_seq_length
        self.truncate_dim = truncate_dim
        self.trust_remote_code = trust_remote_code
        self.model_params = model_params
        self.device = device
        self.backend = backend
        self.cache_dir = cache_dir
        self.max_store_bytes = max_store_bytes

    def _validate_params(self) -> None:
        check_model_id(self.model_id)
        super()._validate_params()
        check_model_params(self.model_params, self.trust_remote_code)

    # None of the following loads the model, but for a hub name seen for the first time

    def _fingerprint(self) -> str:
        """Hash of the model's files and of the parameters that change its vectors."""
        self._validate_params()
        files = self._files()
        prompts = [self._prompt(files, role) for role in ROLES]
        settings = (prompts, self.normalize, self.max_seq_length, self.truncate_dim)
        key = key_of(self.model_params)
        return f"{self._weights(files)} {settings}{key and f' {key}'}"

    def _store_key(self, role: Role) -> StoreKey:
        files = self._files()
        return StoreKey(
            self._weights(files),
            self._prompt(files, role),
            role if files.tells_roles_apart() else "",
            self.normalize,
            self._precision(),
            self.max_seq_length,
            self.truncate_dim,
            self.backend,
            key_of(self.model_params),
        )

    def _files(self) -> ModelFiles:
        model_id = os.fspath(self.model_id)
        revision = (self.model_params or {}).get("revision")
        files = find_model(model_id, revision)
        if files is None:
            self._load()
            files = find_model(model_id, revision, loaded=True)
        if files is None:
            raise cannot_load(model_id, "its files are not in the cache of the hub.")
        return files

    def _weights(self, files: ModelFiles) -> str:
        return files.fingerprint(
            backend=self.backend, trust_remote_code=self.trust_remote_code
        )

    def _prompt(self, files: ModelFiles, role: Role) -> str:
        given = self.query_prompt if role == "query" else self.document_prompt
        return choose_prompt(files.prompts(), given, role)

    @property
    def _similarity(self) -> Similarity:
        if self.normalize:
            return "cosine"
        files = self._files()
        config = files.config("config_sentence_transformers.json")
        last = "".join(module["type"] for module in files.modules()[-1:])
        unit = last.endswith(".Normalize") and self.truncate_dim is None
        return similarity_of(config.get("similarity_fn_name"), unit=unit)

    def _precision(self) -> Computed:
        if self.precision == "float32":
            return self.precision
        from skembft._models.precision import resolve_precision

        return resolve_precision(self.precision, self.device)

    # These do

    def _load(self) -> LoadedModel:
        from skembft._models.loading import ModelOptions, load_shared

        return load_shared(ModelOptions.of(self))

    def _using(
        self, precision: Computed = "float32"
    ) -> AbstractContextManager[SentenceTransformer]:
        from skembft._models.loading import ModelOptions

        return self._load().using(ModelOptions.of(self), precision)

    def clear(self) -> Self:
        """Forget the vectors of this encoder, here and in `cache_dir`, and its model.

        Returns
        -------
        self : object
        """
        super().clear()
        loading = sys.modules.get("skembft._models.loading")
        if loading is not None:
            loading.forget_model(loading.ModelOptions.of(self))
        return self

    def _find_dimension(self) -> int:
        from skembft._models.loading import dimension_of

        with self._using() as model:
            return dimension_of(model)

    def _compute(self, texts: list[str], role: Role) -> Portions:
        from skembft._models import encoding

        # for one thread, as tokenizers are
        with self._using(self._precision()) as model:
            for rows, vectors in encoding.encode_portions(
                model,
                texts,
                role=role,
                prompt=self._prompt(self._files(), role),
                normalize=self.normalize,
                precision=self.precision,
                batch_tokens=self.encode_batch_tokens,
            ):
                yield [texts[i] for i in rows], vectors


@overload
def as_encoder(encoder: Path) -> SentenceEncoder: ...
@overload
def as_encoder(encoder: _T) -> _T: ...
def as_encoder(encoder: Any) -> Any:
    """A `SentenceEncoder` of a model's name or directory; all else as it is."""
    if isinstance(encoder, str | os.PathLike):
        return SentenceEncoder(os.fspath(encoder))
    return encoder
