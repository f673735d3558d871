"""Loading and running Sentence Transformers models. Imports torch: import it lazily."""

import hashlib
import os
import random
import threading
from collections import OrderedDict
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Router
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

_MAX_LOADED = 4  # models kept in memory by one process
_CPU_TOKENS, _GPU_TOKENS = 2048, 65536  # of a batch, padding included


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
    fingerprint: str
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def dimension(self):
        return self.model.get_embedding_dimension()

    @property
    def has_routes(self):
        """Whether queries and documents take different ways through the model."""
        return any(isinstance(module, Router) for module in self.model)


_loaded = OrderedDict()
_loaded_lock = threading.RLock()


def load_shared(options):
    """Load a model once per process; a directory that changed is loaded again."""
    key = (options, _stamp(options.model_id))
    with _loaded_lock:
        if key not in _loaded:
            model = load_model(options)
            model.eval().requires_grad_(False)
            _loaded[key] = LoadedModel(model, fingerprint(model))
            while len(_loaded) > _MAX_LOADED:
                _loaded.popitem(last=False)
        _loaded.move_to_end(key)
        return _loaded[key]


def _stamp(model_id):
    """Names, sizes and times of a local directory's files; None for a hub name."""
    root = Path(model_id)
    if not root.is_dir():
        return None
    paths = [*root.glob("*"), *root.glob("*/*")]  # of the model and of its modules
    files = sorted(path for path in paths if path.is_file())
    stats = [(path, path.stat()) for path in files]
    return tuple((str(p), s.st_size, s.st_mtime_ns) for p, s in stats)


def is_available(device):
    """Whether torch can compute on a device of this machine; None always is."""
    try:
        return device is None or torch.empty(0, device=device) is not None
    except (RuntimeError, AssertionError):  # what torch raises without CUDA
        return False


def load_model(options):
    """Load a Sentence Transformer, or raise an OSError that says what to do."""
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
                device=options.device,
                trust_remote_code=options.trust_remote_code,
                truncate_dim=options.truncate_dim,
                backend=options.backend,
            )
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            raise
        where = "directory" if os.path.isdir(model_id) else "model"
        raise OSError(
            f"Could not load the {where} {model_id!r}: {_first_line(error)} Check "
            "the spelling and the network (HF_HUB_OFFLINE?), or pass a directory that "
            "SentenceTransformer.save_pretrained wrote."
        ) from error
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


def fingerprint(model):
    """Hash of everything that determines a model's vectors: modules and weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, module in model.named_children():
        config = module.get_config_dict() if hasattr(module, "get_config_dict") else {}
        digest.update(
            repr((name, type(module).__name__, sorted(config.items()))).encode()
        )
    digest.update(repr((model.max_seq_length, sorted(model.prompts.items()))).encode())
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def has_bf16(device):
    """Whether a device computes bfloat16 natively (elsewhere it would be slower)."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in checks)
    return False


def resolve_precision(precision, device):
    """Return "bf16" where "auto" is asked for and the device has it, or "float32"."""
    return "bf16" if precision == "auto" and has_bf16(device) else "float32"


def resolve_prompt(model, prompt, role):
    """Return the prompt of "query" or "document": the given, the model's own, or ""."""
    if prompt is not None:
        return prompt
    names = ["query"] if role == "query" else ["document", "passage", "corpus"]
    return next((model.prompts[n] for n in names if model.prompts.get(n)), "")


def encode(model, texts, *, role, prompt, normalize, precision="float32"):
    """Encode distinct texts in order of their token length, by a budget of tokens.

    Batches hold texts of about equal length, so that hardly any padding is computed,
    and as many as fit the budget. Each goes through the model's own `encode_query` or
    `encode_document`: routes, prompts and truncation are Sentence Transformers' own.

    Returns
    -------
    float32 ndarray of shape (n, d)
    """
    device = model.device
    run = model.encode_query if role == "query" else model.encode_document
    dimension = model.truncate_dim or model.get_embedding_dimension()
    out = np.empty((len(texts), dimension or 0), dtype=np.float32)
    budget = _CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS
    bf16 = resolve_precision(precision, device) == "bf16"
    with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
        for rows in token_batches(token_lengths(model, texts), budget):
            vectors = run(
                [texts[i] for i in rows],
                batch_size=len(rows),
                prompt=prompt,
                normalize_embeddings=normalize,
                show_progress_bar=False,
            )
            out[rows] = vectors
    return out


def token_lengths(model, texts):
    """Number of tokens of every text, or of characters where there is no tokenizer."""
    tokenizer = model.tokenizer
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    if isinstance(tokenizer, PreTrainedTokenizerBase) and tokenizer.is_fast:
        limit = model.max_seq_length or int(1e9)
        for start in range(0, len(texts), 4096):
            encoded = tokenizer(
                texts[start : start + 4096],
                add_special_tokens=False,
                return_attention_mask=False,
                verbose=False,
            )
            counts = [len(ids) for ids in encoded["input_ids"]]
            lengths[start : start + 4096] = counts
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


_process_state_lock = threading.RLock()


@contextmanager
def isolated_rng():
    """Restore the global random states of python, numpy and torch on exit.

    One thread at a time: random states are the process's, and so is accelerate's.
    """
    with _process_state_lock:
        yield from _restored_rng()


def _restored_rng():
    python, torch_cpu = random.getstate(), torch.get_rng_state()
    legacy = np.random.get_state()  # noqa: NPY002 (what others may have seeded)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        torch.set_rng_state(torch_cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
