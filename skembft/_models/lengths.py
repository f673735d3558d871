"""How many tokens of a text a model reads."""

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

# tables of absolute positions, as transformers' models name them
_POSITIONS = ("position_embeddings", "wpe")


def length_limit(model: SentenceTransformer) -> float:
    """Tokens that the model reads at most: the smallest of its limits, or infinity."""
    # StaticEmbedding calls a bare tokenizer, with what its file says of truncation
    truncation = getattr(getattr(model[0], "tokenizer", None), "truncation", None)
    baked = truncation["max_length"] if isinstance(truncation, dict) else np.inf
    return min(model.max_seq_length or np.inf, baked, _n_positions(model))


def set_max_seq_length(model: SentenceTransformer, max_seq_length: int) -> None:
    """Cut texts to so many tokens, or raise a ValueError if the model has no places."""
    if max_seq_length > _n_positions(model):
        raise ValueError(
            f"max_seq_length={max_seq_length}, but the model has positions for "
            f"{_n_positions(model)} tokens: pass at most so many."
        )
    model.max_seq_length = max_seq_length


def _n_positions(model: SentenceTransformer) -> float:
    for name, module in model[0].named_modules():
        if name.endswith(_POSITIONS) and isinstance(module, torch.nn.Embedding):
            # RoBERTa and its kin count from behind the place of the padding
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - first
    return np.inf
