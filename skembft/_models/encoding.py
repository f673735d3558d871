"""Encoding of texts, by a budget of tokens."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from threading import Lock, RLock
from typing import NotRequired, TypedDict, Unpack
from weakref import WeakKeyDictionary

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase

from skembft._models.devices import default_cpu
from skembft._models.loading import dimension_of, ends_in_normalize
from skembft._models.precision import Precision, resolve_precision
from skembft._utils.types import BatchTokens, Ints, Role, Vectors
from skembft._utils.vectors import unit_rows

# tokens of a batch, (on CPUs, on others): more outgrow a CPU's cache
_TOKENS = {"float32": (1024, 65536), "bf16": (3072, 131072)}


_CHARACTERS = 8  # more than nearly all tokens have on average, in any language


_PORTION = 32  # batches whose vectors are stored together


class EncodingSettings(TypedDict):
    """The arguments of `encode_portions` besides a model and its texts."""

    role: Role
    prompt: str
    normalize: bool
    precision: NotRequired[Precision]
    batch_tokens: NotRequired[BatchTokens]
    portion: NotRequired[int]


def encode(
    model: SentenceTransformer,
    texts: Sequence[str],
    **settings: Unpack[EncodingSettings],
) -> Vectors:
    """Encode distinct texts: float32 ndarray of shape (n, d); see `encode_portions`.

    One thread at a time with a model: tokenizers are not for several.
    """
    with _lock_of(model):
        out = np.empty((len(texts), dimension_of(model)), dtype=np.float32)
        for rows, vectors in encode_portions(model, texts, **settings):
            out[rows] = vectors
    return out


_locks: WeakKeyDictionary[SentenceTransformer, RLock] = WeakKeyDictionary()
_locks_lock = Lock()


def _lock_of(model: SentenceTransformer) -> RLock:
    with _locks_lock:
        return _locks.setdefault(model, RLock())


def encode_portions(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    role: Role,
    prompt: str,
    normalize: bool,
    precision: Precision = "float32",
    batch_tokens: BatchTokens = "auto",
    portion: int = _PORTION,
) -> Iterator[tuple[Ints, Vectors]]:
    """Encode distinct texts in order of their token length, by a budget of tokens.

    Batches hold texts of about equal length, so that hardly any padding is computed,
    and as many as fit the budget, `batch_tokens` or what suits the device, which is
    halved when the memory of a GPU runs out. Each goes through the model's own
    `encode_query` or `encode_document`: routes, prompts and truncation are Sentence
    Transformers' own.

    Yields
    ------
    rows : int ndarray of shape (m,)
        Which texts; those of `portion` batches.
    vectors : float32 ndarray of shape (m, d)
    """
    device = model.device
    run = model.encode_query if role == "query" else model.encode_document
    computed = resolve_precision(precision, device)
    bf16 = computed == "bf16"
    budget = batch_tokens
    if budget == "auto":
        budget = _TOKENS[computed][device.type != "cpu"]
    dtypes = {parameter.dtype for parameter in model.parameters()}
    cast = bf16 and torch.float32 in dtypes
    unit = normalize or ends_in_normalize(model)

    @default_cpu()
    def encode_batch(rows: Ints) -> Vectors:
        batch = [texts[i] for i in rows]
        if not (prompt or lengths[rows].any()) and not _adds_tokens(model):
            batch.append("a")  # no model takes a batch without a token
        vectors = run(
            batch,
            batch_size=len(batch),
            prompt=prompt,
            normalize_embeddings=normalize,
            show_progress_bar=False,
        )
        return np.asarray(vectors[: len(rows)], dtype=np.float32)

    lengths = token_lengths(model, texts)
    batches = _fitting_batches(lengths, budget, encode_batch)
    while True:
        with torch.autocast(device.type, torch.bfloat16) if cast else nullcontext():
            parts = list(islice(batches, portion))
        if not parts:
            return
        vectors: Vectors = np.concatenate([vectors for _, vectors in parts])
        # bfloat16 leaves lengths that are off by up to 0.4 %
        if unit and (bf16 or dtypes - {torch.float32}):
            vectors = unit_rows(vectors)
        yield np.concatenate([rows for rows, _ in parts]), vectors


def _fitting_batches(
    lengths: Ints, budget: int, encode_batch: Callable[[Ints], Vectors]
) -> Iterator[tuple[Ints, Vectors]]:
    """Yield batches and their vectors; by half of the budget where memory runs out."""
    batches = deque(token_batches(lengths, budget))
    while batches:
        try:
            vectors = encode_batch(batches[0])
        except torch.OutOfMemoryError:
            if len(batches[0]) == 1:
                raise
            vectors = None
        if vectors is not None:
            yield batches.popleft(), vectors
            continue
        # not in the handler, whose error holds on to what there is of the batch
        torch.cuda.empty_cache()
        longest = max(int(lengths[batches[0][0]]), 1)
        budget = min(budget, len(batches[0]) * longest) // 2
        rest = np.concatenate(batches)
        batches = deque(rest[i] for i in token_batches(lengths[rest], budget))


def _adds_tokens(model: SentenceTransformer) -> bool:
    """Whether a tokenizer makes tokens even of an empty text."""
    tokenizer = getattr(model[0], "tokenizer", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return True  # others do without
    return tokenizer.num_special_tokens_to_add() > 0


def token_lengths(model: SentenceTransformer, texts: Sequence[str]) -> Ints:
    """Number of tokens of every text, or of characters where there is no tokenizer."""
    tokenizer = getattr(model[0], "tokenizer", None)
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


def token_batches(lengths: Ints, budget: int) -> Iterator[Ints]:
    """Yield index arrays of similar lengths, longest first, within the budget."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // max(int(lengths[order[start]]), 1))
        yield order[start : start + size]
        start += size
