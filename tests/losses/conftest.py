"""Texts for the forms of data."""

import pytest

from tests.losses.training import N


@pytest.fixture(scope="module")
def texts(pairs):
    queries, documents = pairs
    return queries[:N], documents[:N], documents[N : 2 * N]
