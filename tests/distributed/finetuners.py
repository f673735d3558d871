"""The finetuners of these tests, quick to fit."""

import pytest

from skembft import AdapterFinetuner, CorpusFinetuner, EmbeddingFinetuner

OPTIONS = {
    EmbeddingFinetuner: {"epochs": 4, "learning_rate": 0.3, "batch_size": 32},
    AdapterFinetuner: {"epochs": 4, "batch_size": 32, "negatives": "random"},
    CorpusFinetuner: {},
}
each = pytest.mark.parametrize("cls", list(OPTIONS))
trained = pytest.mark.parametrize("cls", [EmbeddingFinetuner, AdapterFinetuner])


def make(cls, model, **options):
    """A finetuner that validates once an epoch, by a quarter of the queries."""
    defaults = {"validation_fraction": 0.25, "random_state": 0, **OPTIONS[cls]}
    if cls is EmbeddingFinetuner:
        defaults["evaluation_steps"] = 0
    return cls(model, **{**defaults, **options})


def shared(pairs):
    """Three queries in a row for every document: some tell where others move it."""
    asked, documents = [], []
    for query, document in zip(*pairs, strict=True):
        words = query.split()
        asked += [query, " ".join(words[::-1]), " ".join(words[1:])]
        documents += 3 * [document]
    return asked[:80], documents[:80]
