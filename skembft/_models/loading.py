"""Loading and running Sentence Transformers models. Imports torch: import it lazily."""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Protocol, Self, TypeAlias

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Normalize,
)
from sentence_transformers.util import get_device_name
from sklearn.utils._param_validation import InvalidParameterError
from torch import nn
from transformers.utils import logging as transformers_logging

from skembft._models.devices import check_available, default_cpu
from skembft._models.files import Backend, ModelFiles, cannot_load, find_model
from skembft._models.kinds import check_bi_encoder, check_vocabulary, other_weights
from skembft._models.lengths import cut_to, limit_to_positions, set_max_seq_length
from skembft._models.lora import has_lora, merge_lora, note_base, transformer_of
from skembft._models.params import dtype_of, is_quantized, key_of
from skembft._models.precision import Computed, bf16_copy
from skembft._models.random_state import isolated_rng
from skembft._models.similarity import similarity_of
from skembft._utils import types
from skembft._utils.search import in_search

_MAX_BYTES = 4 * 2**30  # of models that one process keeps in memory
_SMALL = 2**29  # bytes of a model that is kept there for the next fit


class HasModelId(Protocol):
    """An estimator with a model."""

    @property
    def model_id(self) -> types.Path: ...


@dataclass(frozen=True)
class ModelOptions:
    """What determines a loaded model; hashable."""

    model_id: str
    max_seq_length: int | None = None
    truncate_dim: int | None = None
    trust_remote_code: bool = False
    device: str | None = None
    backend: Backend = "torch"
    model_params: types.Params | None = field(default=None, compare=False)

    @property
    def revision(self) -> str | None:
        """The branch, tag or commit of a name on the hub; None is the newest."""
        return (self.model_params or {}).get("revision")

    @classmethod
    def of(cls, estimator: HasModelId) -> Self:
        """The options that an estimator has as parameters of the same names."""
        names = [f.name for f in fields(cls) if hasattr(estimator, f.name)]
        options = {name: getattr(estimator, name) for name in names}
        return cls(**{**options, "model_id": os.fspath(estimator.model_id)})

    @property
    def as_loaded(self) -> Self:
        """What of them matters when the weights are read."""
        device = self.device or get_device_name()
        return replace(self, device=device, max_seq_length=None, truncate_dim=None)


@dataclass
class LoadedModel:
    """A frozen model shared by all encoders of a process."""

    model: SentenceTransformer
    lock: threading.RLock = field(default_factory=threading.RLock)

    @contextmanager
    def using(
        self, options: ModelOptions, precision: Computed = "float32"
    ) -> Iterator[SentenceTransformer]:
        """The model, for one thread, with the lengths of some options until the end."""
        with self.lock:
            model = self._in_precision(precision)
            with (
                cut_to(model, options.max_seq_length),
                model.truncate_embeddings(options.truncate_dim),
            ):
                yield model

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, those of the copy in bfloat16 included."""
        models = [self.model, self.__dict__.get("_bf16_model") or nn.Module()]
        return sum(t.nbytes for m in models for t in m.state_dict().values())

    def _in_precision(self, precision: Computed) -> SentenceTransformer:
        """The model that computes in "float32" or "bf16".

        The second is a copy whose weights and activations are bfloat16, which is a
        quarter faster than autocast; where there is none, autocast has to do. Weights
        of another type than float32 are what the user asked for.
        """
        if precision == "float32" or self.model.dtype != torch.float32:
            return self.model
        return self._bf16_model or self.model

    @cached_property
    def _bf16_model(self) -> SentenceTransformer | None:
        return bf16_copy(self.model)


# with the key of `model_params`, and a hash of the files
_Key: TypeAlias = tuple[ModelOptions, str, str | None]
_loaded: OrderedDict[_Key, LoadedModel] = OrderedDict()
_loaded_lock = threading.RLock()


def load_shared(options: ModelOptions) -> LoadedModel:
    """Load a model once per process; a directory that changed is loaded again.

    Its lengths are those of the directory: see `LoadedModel.using`.
    """
    options = options.as_loaded
    if loaded := _find_loaded(options):
        return loaded
    # in this order: a fit holds the random states, and may load a guide
    with isolated_rng(), _loaded_lock:
        files = find_model(options.model_id, options.revision)
        if files is None:
            model = load_model(options)
            files = find_model(options.model_id, options.revision, loaded=True)
            key = _loaded_key(options, files)
        else:
            key = _loaded_key(options, files)
            if key not in _loaded:
                model = load_model(options, files.revision)
        if key not in _loaded:
            model.eval().requires_grad_(False)
            _loaded[key] = LoadedModel(model)
        _loaded.move_to_end(key)
        while len(_loaded) > 1 and sum(m.nbytes for m in _loaded.values()) > _MAX_BYTES:
            _loaded.popitem(last=False)
        return _loaded[key]


def _find_loaded(options: ModelOptions) -> LoadedModel | None:
    """The model of a process, if it was loaded and its files are as they were."""
    with _loaded_lock:
        files = find_model(options.model_id, options.revision)
        key = _loaded_key(options.as_loaded, files)
        if files is None or key not in _loaded:
            return None
        _loaded.move_to_end(key)
        return _loaded[key]


def forget_model(options: ModelOptions) -> None:
    """Free the memory of a model, once nothing else uses it."""
    with _loaded_lock:
        for key in [key for key in _loaded if key[0] == options.as_loaded]:
            del _loaded[key]


def load_for_training(options: ModelOptions) -> tuple[SentenceTransformer, str]:
    """Return a model of its own, and a hash of the files it came from.

    In a search, and of small models, the files are read once per process and copied in
    the machine's memory, not in that of a GPU. A single fit of a large model holds it
    once, where it is trained.
    """
    check_available(options.device)
    device = options.device or get_device_name()
    on_cpu = options
    if not str(device).startswith("cpu"):
        on_cpu = replace(options, device="cpu")
    files = find_model(options.model_id, options.revision)
    small = files is not None and files.weights_size() <= _SMALL
    if small or in_search() or _find_loaded(on_cpu):
        with load_shared(on_cpu).using(options) as shared:
            model = deepcopy(shared).to(device)
    else:
        model = load_model(options)
        _set_lengths(model, options)
    files = find_model(options.model_id, options.revision, loaded=True)
    if has_lora(model):
        merge_lora(model)
    elif files is not None and files.transformer_at_root() and not options.revision:
        note_base(model, _full_name(model, options.model_id))
    return model, _loaded_key(options, files)[-1] or hash_weights(model)


def _full_name(model: SentenceTransformer, model_id: str) -> str | None:
    """What transformers finds a model by, from any directory."""
    if os.path.isdir(model_id):
        return os.path.abspath(model_id)
    # of a name on the hub with its owner, which Sentence Transformers fills in
    config = getattr(transformer_of(model), "config", None)
    return getattr(config, "_name_or_path", None)


def hash_weights(model: SentenceTransformer) -> str:
    """Hash of all weights of a model."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def _loaded_key(options: ModelOptions, files: ModelFiles | None) -> _Key:
    key = key_of(options.model_params)
    if files is None:
        return options, key, None
    return (
        options,
        key,
        files.fingerprint(
            backend=options.backend, trust_remote_code=options.trust_remote_code
        ),
    )


@default_cpu()
def load_model(
    options: ModelOptions, revision: str | None = None
) -> SentenceTransformer:
    """Load a Sentence Transformer in float32, or raise an OSError that says what to do.

    It has the lengths of its directory.

    `revision` is a commit of a model on the hub; None means that of the options.
    """
    check_available(options.device)
    model_id, params = options.model_id, options.model_params or {}
    revision = revision or options.revision
    files = find_model(model_id, revision)
    if files is not None:
        check_bi_encoder(model_id, files)
        files.check_whole(options.backend)
    try:
        with no_progress_bar(), isolated_rng():
            torch.manual_seed(0)  # of weights that no file holds, such as poolers'
            model = SentenceTransformer(
                model_id,
                device=options.device,
                trust_remote_code=options.trust_remote_code,
                backend=options.backend,
                **{
                    **params,
                    "revision": revision,
                    "model_kwargs": _model_kwargs(options),
                },
            )
    except (OSError, TypeError, ValueError) as error:
        reason = first_line(error)
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            raise
        if not isinstance(error, OSError) and _has_arguments(params):
            raise InvalidParameterError(
                f"model_params: {model_id!r} cannot be loaded with them: {reason}"
            ) from error
        if isinstance(error, TypeError):
            raise
        if options.revision is not None:
            reason = f"revision {options.revision!r}: {reason}"
        if options.backend == "torch":
            reason += other_weights(model_id)
        raise cannot_load(model_id, reason) from error
    if files is None:  # it was downloaded just now
        files = find_model(model_id, revision, loaded=True)
        if files is not None:
            check_bi_encoder(model_id, files)
    check_vocabulary(model_id, model)
    _set_dtype(model, options)
    _keep_layout(model)
    limit_to_positions(model)
    return model


def _set_lengths(model: SentenceTransformer, options: ModelOptions) -> None:
    model.truncate_dim = options.truncate_dim
    if options.max_seq_length is not None:
        set_max_seq_length(model, options.max_seq_length)


def _has_arguments(params: types.Params) -> bool:
    return any(params.get(name) for name in params if name.endswith("_kwargs"))


def _model_kwargs(options: ModelOptions) -> types.Params:
    """Arguments of the transformer: its weights are float32 unless the user says other.

    Small steps of training would be lost in what is stored in bfloat16 or float16.
    """
    params = options.model_params
    given = (params or {}).get("model_kwargs") or {}
    if options.backend != "torch" or dtype_of(params) or is_quantized(params):
        return given
    return {**given, "dtype": torch.float32}


def _set_dtype(model: SentenceTransformer, options: ModelOptions) -> None:
    """Give modules the type of their weights that transformers gives a transformer."""
    dtype, transformer = dtype_of(options.model_params), transformer_of(model)
    if options.backend != "torch" or getattr(transformer, "hf_quantizer", None):
        return
    if dtype is None:
        model.float()
    elif dtype != "auto" and transformer is None:
        model.to(getattr(torch, dtype))


def _keep_layout(model: SentenceTransformer) -> None:
    """Let bitsandbytes encode on a CPU with the weights as they are stored.

    It packs them for AVX-512, and (0.50) does not find the way back, which training
    and saving need.
    """
    modules: Iterator[Any] = model.modules()
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def save_merged(model: SentenceTransformer, directory: types.Path) -> None:
    """Write a model's files, into which low-rank weights are folded.

    A file of low-rank weights alone would need the base beside it.
    """
    if has_lora(model):
        merge_lora(model := deepcopy(model))
    with no_progress_bar():
        model.save_pretrained(str(directory), create_model_card=False)


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Load weights without transformers' bar: bars are the callbacks' business."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@default_cpu()
def dimension_of(model: SentenceTransformer) -> int:
    """Width of a model's vectors, also where none of its modules tells it."""
    dimension = model.get_embedding_dimension()
    if dimension is None:
        vectors = model.encode_document([""], show_progress_bar=False)
        dimension = vectors.shape[1]
    return dimension


def ends_in_normalize(model: SentenceTransformer) -> bool:
    """Whether the last module of a model is Normalize."""
    return any(isinstance(module, Normalize) for module in list(model)[-1:])


def similarity_of_model(model: SentenceTransformer) -> types.Similarity:
    """What vectors of a model are ranked by, as they come out of it."""
    return similarity_of(model.similarity_fn_name, unit=ends_in_normalize(model))
