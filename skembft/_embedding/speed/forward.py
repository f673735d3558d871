"""Forward passes of training that compute hardly any padding. Import it lazily."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from skembft._utils.types import Ints

# tensors of a batch, and settings, by name
Features: TypeAlias = dict[str, Any]
Chunk: TypeAlias = tuple[Ints, slice]  # rows and columns

# splitting a batch must save this share of its tokens, and this many
_MIN_SHARE, _MIN_TOKENS = 0.25, 512
# what another forward pass costs, in tokens: launching it, and less parallel work
_PASS_TOKENS = {"cpu": 64, "cuda": 4096}


@contextmanager
def length_sorted(model: nn.Module) -> Iterator[None]:
    """Let a model embed batches in chunks of texts of about equal length.

    In training mode only, and only where that saves much. Embeddings come in the order
    of the batch, so losses and gradients are the same, but for rounding and for which
    numbers dropout draws. A batch that is not worth it takes the model's own way.
    """
    plain = model.forward

    def forward(features: Features, **kwargs: Any) -> Features:
        chunks = split_by_length(features) if model.training else None
        if chunks is None:
            return plain(features, **kwargs)
        parts = [plain(take(features, *chunk), **kwargs) for chunk in chunks]
        order = np.argsort(np.concatenate([rows for rows, _ in chunks]))
        embeddings = torch.cat([part["sentence_embedding"] for part in parts])
        index = move(torch.from_numpy(order), embeddings.device)
        return {**features, "sentence_embedding": embeddings[index]}

    with replaced_forward(model, forward):
        yield


def keep_on_host(moved: Tensor, original: Tensor) -> Tensor:
    """Let `on_host` give what a tensor of a batch was before it was moved."""
    if moved is not original:
        moved.__dict__["on_host"] = original
    return moved


def on_host(tensor: Tensor) -> Tensor:
    """A tensor on the CPU; the CPU waits for a GPU only where it was not kept."""
    return tensor.__dict__.get("on_host", tensor).cpu()


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without waiting for it."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@contextmanager
def replaced_forward(model: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a model's `forward` be another function, and then what it was."""
    before = model.__dict__.get("forward")
    model.forward = forward
    try:
        yield
    finally:
        if before is None:
            del model.forward  # the class's own is found again
        else:
            model.forward = before


def split_by_length(features: Features) -> list[Chunk] | None:
    """Return the (rows, columns) of chunks, or None where one pass is best."""
    mask = features.get("attention_mask")
    if mask is None or mask.ndim != 2 or "cu_seq_lens_q" in features:
        return None
    n_rows, width = mask.shape
    if n_rows * width < _MIN_TOKENS:
        return None
    kept = on_host(mask)
    columns = _filled_columns(kept)
    if columns is None:
        return None
    lengths = kept.sum(dim=1).numpy()
    order = np.argsort(lengths, kind="stable")
    chunks = _cheapest_chunks(lengths[order], _PASS_TOKENS.get(mask.device.type, 4096))
    cost = sum(len(rows) * lengths[order[rows[-1]]] for rows in chunks)
    saved = n_rows * width - cost
    if len(chunks) == 1 or saved < max(_MIN_TOKENS, _MIN_SHARE * n_rows * width):
        return None
    return [(order[rows], columns(lengths[order[rows[-1]]])) for rows in chunks]


def _filled_columns(mask: Tensor) -> Callable[[int], slice] | None:
    """A function that gives the columns of a chunk by its length, or None."""
    width = mask.shape[1]
    if mask[:, 0].all():  # padding on the right
        return lambda length: slice(0, int(length))
    if mask[:, -1].all():
        return lambda length: slice(width - int(length), width)
    return None


def _cheapest_chunks(lengths: Ints, pass_tokens: int) -> list[Ints]:
    """Split rows sorted by length so that tokens and passes cost least.

    Cuts lie where lengths cross one of 16 steps, so that a few cuts are compared.
    """
    step = max(1, -(-int(lengths[-1]) // 16))
    cuts = np.flatnonzero(np.diff((lengths - 1) // step)) + 1
    edges = [0, *cuts.tolist(), len(lengths)]
    best = [(0, 0)]  # of the rows before every edge: cost, and the edge before
    for i in range(1, len(edges)):
        length = int(lengths[edges[i] - 1])
        best.append(
            min(
                (best[j][0] + (edges[i] - edges[j]) * length + pass_tokens, j)
                for j in range(i)
            )
        )
    chunks: list[Ints] = []
    end = len(edges) - 1
    while end:
        begin = best[end][1]
        chunks.append(np.arange(edges[begin], edges[end]))
        end = begin
    return chunks[::-1]


def take(features: Features, rows: Ints, columns: slice) -> Features:
    """Some rows of a batch of tokens, without the columns that they leave empty."""
    n_rows, width = features["attention_mask"].shape
    index = move(torch.from_numpy(rows), features["attention_mask"].device)
    out = {}
    for name, value in features.items():
        if isinstance(value, torch.Tensor) and value.shape[:1] == (n_rows,):
            value = value[index.to(value.device)]
            if value.ndim > 1 and value.shape[1] == width:
                value = value[:, columns]
        out[name] = value
    return out
