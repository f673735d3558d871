"""Vectors to fit adapters on."""

import numpy as np
import pytest

from tests.integrations.adapters import DIM


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(40, DIM)).astype(np.float32)
    return X, (X @ rng.normal(size=(DIM, DIM))).astype(np.float32)
