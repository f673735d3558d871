"""Loading and running Sentence Transformers models. Imports torch: import it lazily."""

import hashlib
import os
import threading
from collections import OrderedDict
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Transformer,
)
from sentence_transformers.util import get_device_name
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from skembft._model_files import cannot_load, choose_prompt, find_model
from skembft._rng import isolated_rng, process_state_lock
from skembft._trainable import has_lora, merge_lora
from skembft._utils import unit_rows

_MAX_LOADED = 4  # models kept in memory by one process
# tokens of a batch, (on CPUs, on others): more outgrow a CPU's cache
_TOKENS = {"float32": (1024, 65536), "bf16": (3072, 131072)}
_BF16_MODULES = (Transformer, Pooling, Normalize, Dense)
_LEAST_COSINE = 0.9995  # of a vector computed in bfloat16 to that of float32
_PROBES = [
    "search",
    "How do I get my money back?",
    "3.14 million shares, or 27%, were sold on 5 May 2021 (see note 12).",
    " ".join(["The committee shall report its findings to the members."] * 12),
]
_CHARACTERS = 8  # more than nearly all tokens have on average, in any language
_PORTION = 32  # batches whose vectors are stored together


@dataclass(frozen=True)
class ModelOptions:
    """What determines a loaded model; hashable."""

    model_id: str
    max_seq_length: int | None = None
    truncate_dim: int | None = None
    trust_remote_code: bool = False
    device: str | None = None
    backend: str = "torch"

    @classmethod
    def of(cls, estimator):
        """The options that an estimator has as parameters of the same names."""
        names = [f.name for f in fields(cls) if hasattr(estimator, f.name)]
        options = {name: getattr(estimator, name) for name in names}
        return cls(**{**options, "model_id": os.fspath(estimator.model_id)})


@dataclass
class LoadedModel:
    """A frozen model shared by all encoders of a process."""

    model: SentenceTransformer
    lock: threading.RLock = field(default_factory=threading.RLock)

    def in_precision(self, precision):
        """The model that computes in "float32" or "bf16"; to be called with the lock.

        The second is a copy whose weights and activations are bfloat16, which is a
        quarter faster than autocast; where there is none, autocast has to do.
        """
        if precision == "float32":
            return self.model
        return self._bf16_model or self.model

    @cached_property
    def _bf16_model(self):
        return _bf16_copy(self.model)


def _bf16_copy(model):
    """A copy in bfloat16, or None where its vectors are not those of float32.

    Modules of other packages may mix types; and what is rounded in every layer is tried
    on some texts.
    """
    shipped = all(isinstance(module, _BF16_MODULES) for module in model)
    inner = getattr(model, "transformers_model", None)
    if not shipped or not type(inner).__module__.startswith("transformers.models."):
        return None
    copy = deepcopy(model).to(torch.bfloat16)
    first, second = (
        unit_rows(np.asarray(m.encode(_PROBES, show_progress_bar=False), np.float32))
        for m in (model, copy)
    )
    cosines = (first * second).sum(axis=1)
    return copy if (cosines >= _LEAST_COSINE).all() else None


_loaded = OrderedDict()
_loaded_lock = threading.RLock()


def load_shared(options):
    """Load a model once per process; a directory that changed is loaded again."""
    with _loaded_lock:
        files = find_model(options.model_id)
        key = files and _loaded_key(options, files)
        if key in _loaded:
            _loaded.move_to_end(key)
            return _loaded[key]
    # in this order: a fit holds the random states, and may load a guide
    with process_state_lock, _loaded_lock:
        files = find_model(options.model_id)
        if files is None:
            model = load_model(options)
            key = _loaded_key(options, find_model(options.model_id, loaded=True))
        else:
            key = _loaded_key(options, files)
            if key not in _loaded:
                model = load_model(options, files.revision)
        if key not in _loaded:
            model.eval().requires_grad_(False)
            _loaded[key] = LoadedModel(model)
            while len(_loaded) > _MAX_LOADED:
                _loaded.popitem(last=False)
        _loaded.move_to_end(key)
        return _loaded[key]


def load_for_training(options):
    """Return a model of its own, and a hash of the files it came from.

    The files are read once per process. What is copied lies in the machine's memory,
    not in that of a GPU.
    """
    device = options.device or get_device_name()
    if not str(device).startswith("cpu"):
        options = replace(options, device="cpu")
    loaded = load_shared(options)
    with loaded.lock:
        model = deepcopy(loaded.model).requires_grad_(True).to(device)
    if has_lora(model):
        merge_lora(model)
    files = find_model(options.model_id, loaded=True)
    return model, _loaded_key(options, files)[1] or hash_weights(model)


def hash_weights(model):
    """Hash of all weights of a model."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def _loaded_key(options, files):
    return options, files and files.fingerprint(
        backend=options.backend, trust_remote_code=options.trust_remote_code
    )


def is_available(device):
    """Whether torch can compute on a device of this machine; None always is."""
    try:
        return device is None or torch.empty(0, device=device) is not None
    except (RuntimeError, AssertionError):  # what torch raises without CUDA
        return False


def load_model(options, revision=None):
    """Load a Sentence Transformer, or raise an OSError that says what to do.

    `revision` is a commit of a model on the hub; None means the newest.
    """
    if not is_available(options.device):
        raise ValueError(
            f"device={options.device!r} is not available on this machine; pass None to "
            "take the best there is."
        )
    model_id = options.model_id
    try:
        with no_progress_bar(), isolated_rng():
            model = SentenceTransformer(
                model_id,
                revision=revision,
                device=options.device,
                trust_remote_code=options.trust_remote_code,
                truncate_dim=options.truncate_dim,
                backend=options.backend,
            )
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            raise
        raise cannot_load(model_id, _first_line(error)) from error
    if options.max_seq_length is not None:
        model.max_seq_length = options.max_seq_length
    return model


@contextmanager
def no_progress_bar():
    """Load weights without transformers' bar: bars are the callbacks' business."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def ends_in_normalize(model):
    """Whether the last module of a model is Normalize."""
    return any(isinstance(module, Normalize) for module in list(model)[-1:])


def has_bf16(device):
    """Whether a device computes bfloat16 natively (elsewhere it would be slower)."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in checks)
    return False


def resolve_precision(precision, device=None):
    """Return "bf16" where "auto" is asked for and the device has it, or "float32".

    None is the device that a model without one is put on.
    """
    if precision == "auto" and has_bf16(device or get_device_name()):
        return "bf16"
    return "float32"


def resolve_prompt(model, prompt, role):
    """Return the prompt of "query" or "document": the given, the model's own, or ""."""
    return choose_prompt(model.prompts, prompt, role)


def encode(model, texts, **settings):
    """Encode distinct texts: float32 ndarray of shape (n, d); see `encode_portions`."""
    out = np.empty((len(texts), model.get_embedding_dimension()), dtype=np.float32)
    for rows, vectors in encode_portions(model, texts, **settings):
        out[rows] = vectors
    return out


def encode_portions(
    model, texts, *, role, prompt, normalize, precision="float32", portion=_PORTION
):
    """Encode distinct texts in order of their token length, by a budget of tokens.

    Batches hold texts of about equal length, so that hardly any padding is computed,
    and as many as fit the budget. Each goes through the model's own `encode_query` or
    `encode_document`: routes, prompts and truncation are Sentence Transformers' own.

    Yields
    ------
    rows : int ndarray of shape (m,)
        Which texts; those of `portion` batches.
    vectors : float32 ndarray of shape (m, d)
    """
    device = model.device
    run = model.encode_query if role == "query" else model.encode_document
    precision = resolve_precision(precision, device)
    bf16 = precision == "bf16"
    budget = _TOKENS[precision][device.type != "cpu"]
    cast = bf16 and any(p.dtype == torch.float32 for p in model.parameters())
    unit = normalize or ends_in_normalize(model)
    batches = list(token_batches(token_lengths(model, texts), budget))
    for start in range(0, len(batches), portion):
        vectors = []
        with torch.autocast(device.type, torch.bfloat16) if cast else nullcontext():
            for rows in batches[start : start + portion]:
                batch = run(
                    [texts[i] for i in rows],
                    batch_size=len(rows),
                    prompt=prompt,
                    normalize_embeddings=normalize,
                    show_progress_bar=False,
                )
                vectors.append(np.asarray(batch, dtype=np.float32))
        vectors = np.concatenate(vectors)
        if bf16 and unit:  # bfloat16 leaves lengths that are off by up to 0.4 %
            vectors = unit_rows(vectors)
        yield np.concatenate(batches[start : start + portion]), vectors


def token_lengths(model, texts):
    """Number of tokens of every text, or of characters where there is no tokenizer."""
    tokenizer = model.tokenizer
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    if isinstance(tokenizer, PreTrainedTokenizerBase) and tokenizer.is_fast:
        limit = model.max_seq_length or int(1e9)
        # what is far longer than the limit is cut to it, and need not be counted
        counted = np.flatnonzero(lengths < _CHARACTERS * limit)
        for start in range(0, len(counted), 4096):
            rows = counted[start : start + 4096]
            encoded = tokenizer(
                [texts[i] for i in rows],
                add_special_tokens=False,
                return_attention_mask=False,
                verbose=False,
            )
            lengths[rows] = [len(ids) for ids in encoded["input_ids"]]
        lengths = lengths.clip(max=limit)
    return lengths


def token_batches(lengths, budget):
    """Yield index arrays of similar lengths, longest first, within the budget."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // max(int(lengths[order[start]]), 1))
        yield order[start : start + size]
        start += size
