"""What determines the result of a fit, so that a checkpoint tells whose it is."""

import hashlib
import os
from collections.abc import Iterable
from functools import partial
from types import CodeType, FunctionType
from typing import Any, TypeAlias

import numpy as np

from skembft._data.retrieval_data import RetrievalData
from skembft._finetuner.trainer import Settings
from skembft._models.params import described
from skembft._utils.types import Items

Identity: TypeAlias = dict[str, Any]  # JSON values by readable names

# parameters that say where and how often to save, or how fast, not what is trained
_NOT_TRAINING = {
    "encode_batch_tokens",
    "model_output_path",
    "save_checkpoints",
    "checkpoint_save_steps",
    "checkpoint_save_total_limit",
    "resume_from_checkpoint",
    "warm_start",
}


def identity_of(
    estimator: Settings,
    model_fingerprint: str,
    data: RetrievalData,
    held_out: RetrievalData | None,
    n_processes: int,
) -> Identity:
    """What determines the result of a fit, as JSON values by readable names."""
    identity = {
        name: _readable(value)
        for name, value in estimator.get_params(deep=False).items()
        if name not in _NOT_TRAINING
    }
    identity["model_params"] = described(estimator.model_params)
    identity["weights of the model"] = model_fingerprint
    # each has its own random numbers, and its share of the batches
    identity["number of processes"] = n_processes
    for prefix, part in (("", data), ("validation ", held_out)):
        if part is not None:
            identity.update({f"{prefix}{k}": v for k, v in _digests(part).items()})
    return identity


def _readable(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): _readable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    named = value if hasattr(value, "__qualname__") else type(value)
    name = f"{named.__module__}.{named.__qualname__}"
    if isinstance(value, partial):
        return [name, *map(_readable, (value.func, value.args, value.keywords))]
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array {value.shape} {hash_of(value.tobytes())[:12]}"
    if isinstance(value, FunctionType):  # it may close over values
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        bound = (value.__defaults__, value.__kwdefaults__, *cells)
        return [f"{name} {_hash_code(value.__code__)}", *map(_readable, bound)]
    return name


def _hash_code(code: CodeType) -> str:
    """Hash of what a function does, the same in every process."""
    inner = [
        _hash_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts
    ]
    return hash_of(code.co_code, *inner, repr(code.co_names))[:12]


def _digests(data: RetrievalData) -> dict[str, str]:
    def of_texts(texts: Items) -> str:
        digest = hash_all(text.encode() for text in texts)
        return f"{len(texts)} texts, {digest[:12]}"

    relevance = data.judged
    arrays = [
        data.row_query,
        data.example_row,
        data.example_document,
        data.example_grade,
        data.pool,
        data.corpus,
        relevance.positive.indices,
        relevance.positive.data,
        relevance.negative.indices,
    ]
    if data.weights is not None:
        arrays.append(data.weights)
    judgements = hash_all(np.ascontiguousarray(a).tobytes() for a in arrays)
    return {
        "queries": of_texts(data.queries),
        "documents": of_texts(data.documents),
        "relevance": f"{len(data.example_row)} judgements, {judgements[:12]}",
    }


def hash_of(*parts: str | bytes) -> str:
    return hash_all(parts)


def hash_all(parts: Iterable[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
