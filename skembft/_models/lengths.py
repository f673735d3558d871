"""How many tokens of a text a model reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router

# tables of absolute positions, as transformers' models name them; other models compute
# positions (rotary, ALiBi, relative ones), of texts of any length
_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe")


def length_limit(model: SentenceTransformer) -> float:
    """Tokens that the model reads at most: the smallest of its limits, or infinity."""
    # StaticEmbedding calls a bare tokenizer, with what its file says of truncation
    truncation = getattr(getattr(model[0], "tokenizer", None), "truncation", None)
    baked = truncation["max_length"] if isinstance(truncation, dict) else np.inf
    positions = map(_n_positions, _inputs(model))
    return min(model.max_seq_length or np.inf, baked, *positions)


@contextmanager
def cut_to(model: SentenceTransformer, max_seq_length: int | None) -> Iterator[None]:
    """Cut texts to so many tokens until the end; None leaves it to the model."""
    before = [(module, module.max_seq_length) for module in _cutting(model)]
    try:
        if max_seq_length is not None:
            set_max_seq_length(model, max_seq_length)
        yield
    finally:
        for module, limit in before:  # those of routes may differ
            module.max_seq_length = limit


def set_max_seq_length(model: SentenceTransformer, max_seq_length: int) -> None:
    """Cut texts to so many tokens, or raise a ValueError if the model cannot."""
    n_positions = min(map(_n_positions, _inputs(model)))
    if max_seq_length > n_positions:
        raise ValueError(
            f"max_seq_length={max_seq_length}, but the model has positions for "
            f"{n_positions} tokens: pass at most so many."
        )
    modules = _cutting(model)
    if not modules:
        raise ValueError(
            f"max_seq_length={max_seq_length}, but a {type(model[0]).__name__} reads "
            "the whole of a text: pass None."
        )
    for module in modules:
        module.max_seq_length = max_seq_length


def limit_to_positions(model: SentenceTransformer) -> None:
    """Cut texts where the positions end, if the model's files say more.

    Sentence Transformers raises an IndexError at the first text that is longer. It
    takes the positions of RoBERTa and its kin for two more than there are.
    """
    for module in _cutting(model):
        n_positions = _n_positions(module)
        if (module.max_seq_length or np.inf) > n_positions:
            module.max_seq_length = int(n_positions)


def _inputs(model: SentenceTransformer) -> list[Any]:
    """The modules that read texts: the first of the model, or of every route."""
    if isinstance(model[0], Router):
        return [next(route.children()) for route in model[0].sub_modules.values()]
    return [model[0]]


def _cutting(model: SentenceTransformer) -> list[Any]:
    """Those of them that can be told where to cut; a StaticEmbedding cannot."""
    modules = []
    for module in _inputs(model):
        limit = getattr(type(module), "max_seq_length", None)
        fixed = isinstance(limit, property) and limit.fset is None
        if hasattr(module, "max_seq_length") and not fixed:
            modules.append(module)
    return modules


def _n_positions(module: torch.nn.Module) -> float:
    for name, table in module.named_modules():
        if name.endswith(_TABLES) and isinstance(table, torch.nn.Embedding):
            # RoBERTa and its kin count from behind the place of the padding
            first = 0 if table.padding_idx is None else table.padding_idx + 1
            first = getattr(table, "offset", first)  # BART, OPT
            config = getattr(module, "config", None)
            said = getattr(config, "max_position_embeddings", None) or np.inf
            return min(table.num_embeddings - first, said)
    return np.inf
