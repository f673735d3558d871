"""What tests of bad input share: estimators that fail if they load a model."""

import pytest

from skembft import (
    AdapterFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)

MISSING = "no/such-model"  # whoever tries to load it raises an OSError
CLASSES = [AdapterFinetuner, EmbeddingFinetuner]
ALL = [*CLASSES, SentenceEncoder]
both = pytest.mark.parametrize("cls", CLASSES)
INDEX = PrecomputedEncoder({name: [1.0, i] for i, name in enumerate("abcde")})
ESTIMATORS = {
    "adapter": lambda: AdapterFinetuner(MISSING),
    "model": lambda: EmbeddingFinetuner(MISSING),
    "ids": lambda: AdapterFinetuner(INDEX),
}
estimators = pytest.mark.parametrize("estimator", ESTIMATORS)


def cases(table):
    return pytest.mark.parametrize("case", table)


def made(value):
    """A generator can be looked at once only: the tables hold how to make it."""
    return value() if callable(value) else value
