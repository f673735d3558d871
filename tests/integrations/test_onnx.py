"""Adapters as ONNX files."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.exceptions import NotFittedError

from skembft import AdapterFinetuner
from skembft.integrations import to_onnx
from tests.integrations.adapters import DIM, LAYERS, Halver, fit

# toy data: training need not help
pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")

ONNX_LAYERS = {
    **LAYERS,
    "mlp gelu": {"adapter": "mlp", "adapter_params": {"activation": "gelu"}},
    "mlp silu": {"adapter": "mlp", "adapter_params": {"activation": "silu"}},
    "both": {"side": "both"},
    "separate": {"side": "separate", "adapter_params": {"bias": True}},
    "output_dim": {"side": "both", "adapter_params": {"output_dim": 3}},
}


@pytest.mark.parametrize("layer", ONNX_LAYERS)
def test_onnx(vectors, tmp_path, layer):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    adapter = fit(vectors, **ONNX_LAYERS[layer])
    rows = np.vstack([vectors[0], vectors[0] * 1e-4, vectors[1] * 1e30, 0 * vectors[0]])
    roles = {"query": adapter.transform, "document": adapter.transform_documents}
    for role in adapter.weights_:
        path = tmp_path / f"{role}.onnx"
        to_onnx(adapter, path, role=role)
        session = onnxruntime.InferenceSession(path)
        [taken], [given] = session.get_inputs(), session.get_outputs()
        assert (taken.name, given.name) == ("embedding", "adapted_embedding")
        assert taken.shape == ["n", DIM] and given.shape == [
            "n",
            adapter.embedding_dim_,
        ]
        for part in (rows, rows[:1], rows[:0]):
            found = session.run(None, {"embedding": part})[0]
            if len(part):
                assert_allclose(found, roles[role](part), atol=1e-6)
            assert found.shape == (len(part), adapter.embedding_dim_)
    written = {path.stem for path in tmp_path.iterdir()}
    assert written == set(adapter.weights_)


def test_what_onnx_cannot_express(vectors, tmp_path):
    path = tmp_path / "adapter.onnx"
    with pytest.raises(ValueError, match="has no layer: with side='query'"):
        to_onnx(fit(vectors), path, role="document")
    with pytest.raises(ValueError, match="Did you mean 'query'"):
        to_onnx(fit(vectors), path, role="queries")
    with pytest.raises(ValueError, match="Halver, a module of your own"):
        to_onnx(fit(vectors, adapter=Halver), path)
    with pytest.raises(NotFittedError):
        to_onnx(AdapterFinetuner(None), path)
    assert not path.exists()
