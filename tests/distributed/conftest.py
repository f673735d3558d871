"""What searches on all engines are given."""

import pytest


@pytest.fixture(scope="module")
def data(pairs):
    """Queries and documents; two queries share a document, and many words."""
    queries, documents = pairs
    return queries, [*documents[:20], *documents[:20]]
