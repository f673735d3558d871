"""Texts and vectors for the forms of data."""

import numpy as np
import pytest

from tests.data.forms import N


@pytest.fixture(scope="module")
def texts(pairs):
    queries, documents = pairs
    assert len(set(documents[:N])) == N
    return queries[:N], documents[:N]


@pytest.fixture(scope="module")
def vectors():
    """Queries that are rotated documents, and classes of documents."""
    rng = np.random.RandomState(0)
    X = rng.standard_normal((40, 6))
    return X, X @ np.linalg.qr(rng.standard_normal((6, 6)))[0], rng.randint(4, size=40)
