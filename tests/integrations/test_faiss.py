"""Adapters before an index of FAISS."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.integrations.adapters import DIM, LAYERS, fit, unit

# toy data: training need not help
pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")


def test_faiss_pre_transform(vectors):
    """The recipe of docs/integrations.md: an index that exists is searched as it is."""
    faiss = pytest.importorskip("faiss")
    queries, documents = vectors
    documents = np.ascontiguousarray(unit(documents))
    index = faiss.IndexFlatIP(DIM)
    index.add(documents)
    for settings in (LAYERS["linear"], LAYERS["linear with bias"], LAYERS["low_rank"]):
        adapter = fit(vectors, **settings)
        weights = adapter.weights_["query"]
        layer = faiss.LinearTransform(DIM, DIM, "bias" in weights)
        faiss.copy_array_to_vector(weights["weight"].ravel(), layer.A)
        if "bias" in weights:
            faiss.copy_array_to_vector(weights["bias"], layer.b)
        layer.is_trained = True
        adapted = faiss.IndexPreTransform(faiss.NormalizationTransform(DIM), index)
        adapted.prepend_transform(layer)
        adapted.prepend_transform(faiss.NormalizationTransform(DIM))
        scores, found = adapted.search(queries, 5)
        expected, expected_scores = adapter.retrieve(queries, documents, k=5)
        assert_array_equal(found, expected)
        assert_allclose(scores, expected_scores, atol=1e-6)
