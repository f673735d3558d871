"""LlamaIndex's adapter folders, out and in."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

from skembft import (
    AdapterFinetuner,
    APIEncoder,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.integrations import load_llama_index_adapter, save_llama_index_adapter
from tests.integrations.adapters import DIM, LAYERS, Halver, fit, unit

# toy data: training need not help
pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")


def theirs(path, x):
    """LlamaIndex's `forward`, in numpy."""
    config = json.loads((path / "config.json").read_text())
    state = torch.load(path / "pytorch_model.bin", weights_only=True)
    w = {name: tensor.numpy().astype(np.float64) for name, tensor in state.items()}
    if "hidden_features" not in config:
        return x @ w["linear.weight"].T + w.get("linear.bias", 0)
    assert config["activation_fn_str"] == "relu" and config["add_residual"]
    hidden = np.maximum(x @ w["linear1.weight"].T + w["linear1.bias"], 0)
    return x + w["residual_weight"] * (
        hidden @ w["linear2.weight"].T + w["linear2.bias"]
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_llama_index_folder(vectors, tmp_path, layer):
    adapter = fit(vectors, **LAYERS[layer])
    changed = adapter.transform(vectors[0])
    assert np.abs(changed - unit(vectors[0])).max() > 1e-3
    path = tmp_path / "new" / "folder"
    save_llama_index_adapter(adapter, path)
    assert sorted(p.name for p in path.iterdir()) == [
        "config.json",
        "pytorch_model.bin",
    ]
    assert_allclose(unit(theirs(path, unit(vectors[0]))), changed, atol=1e-6)

    loaded = load_llama_index_adapter(path, None)
    assert_allclose(loaded.transform(vectors[0]), changed, atol=1e-6)
    assert_array_equal(loaded.transform_documents(vectors[1]), vectors[1])
    assert loaded.score(*vectors) == adapter.score(*vectors)
    assert len(loaded.history_) == loaded.n_iter_ == 0
    dumped = pickle.loads(pickle.dumps(loaded))
    assert_array_equal(dumped.transform(vectors[0]), loaded.transform(vectors[0]))


def test_llama_index_folder_of_a_search_and_of_untouched_vectors(vectors, tmp_path):
    search = GridSearchCV(
        AdapterFinetuner(None, epochs=2, random_state=0), {"batch_size": [8, 16]}, cv=2
    ).fit(*vectors)
    save_llama_index_adapter(search, tmp_path)
    found = load_llama_index_adapter(tmp_path, None).transform(vectors[0])
    assert_array_equal(found, search.transform(vectors[0]))

    untouched = fit(vectors, adapter=Halver)
    untouched.weights_ = {"query": {}}  # as validation leaves them
    save_llama_index_adapter(untouched, tmp_path)
    found = load_llama_index_adapter(tmp_path, None).transform(vectors[0])
    assert_allclose(found, untouched.transform(vectors[0]), atol=1e-6)


def test_residual_weight_of_two_layers_is_folded(vectors, tmp_path):
    save_llama_index_adapter(fit(vectors, **LAYERS["mlp"]), tmp_path)
    file = tmp_path / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    torch.save({**state, "residual_weight": torch.tensor([-0.7])}, file)
    expected = unit(theirs(tmp_path, unit(vectors[0])))
    loaded = load_llama_index_adapter(tmp_path, None)
    assert_allclose(loaded.transform(vectors[0]), expected, atol=1e-6)


def test_loaded_adapter_goes_on_learning(vectors, tmp_path):
    for settings in (LAYERS["linear with bias"], LAYERS["mlp"]):
        save_llama_index_adapter(fit(vectors, **settings), tmp_path)
        loaded = load_llama_index_adapter(tmp_path, None)
        start = loaded.transform(vectors[0])
        loaded.set_params(
            warm_start=True, epochs=1, learning_rate=1e-6, validation_fraction=None
        )
        loaded.fit(*vectors)
        assert_allclose(loaded.transform(vectors[0]), start, atol=1e-3)
        assert loaded.n_iter_ > 0 and (loaded.transform(vectors[0]) != start).any()


def test_loaded_adapter_over_encoders(static_model, bert_model, pairs, tmp_path):
    adapter = AdapterFinetuner(static_model, epochs=3, random_state=0).fit(*pairs)
    save_llama_index_adapter(adapter, tmp_path)
    encoder = SentenceEncoder(static_model)
    encoders = [
        static_model,
        encoder,
        APIEncoder(encoder.transform, model_name=static_model),
        PrecomputedEncoder((pairs[0], encoder.transform(pairs[0]))),
        FrozenEstimator(encoder),
    ]
    for given in encoders:
        loaded = load_llama_index_adapter(tmp_path, given)
        assert loaded.encoder is given
        expected = adapter.transform(pairs[0])
        assert_allclose(loaded.transform(pairs[0]), expected, atol=1e-6)
    wide = EmbeddingFinetuner(bert_model, epochs=1).fit(*pairs)
    index = PrecomputedEncoder({"a": [1.0, 0.0]})
    for wrong in (bert_model, index, FrozenEstimator(index), FrozenEstimator(wide)):
        with pytest.raises(ValueError, match="is for vectors of 16 dimensions, and"):
            load_llama_index_adapter(tmp_path, wrong)
    with pytest.raises(ValueError, match=r"FrozenEstimator\(finetuner\)"):
        load_llama_index_adapter(tmp_path, adapter)
    with pytest.raises(ValueError, match="without transform"):
        load_llama_index_adapter(tmp_path, object())
    with pytest.raises(OSError, match="no-such-model"):
        load_llama_index_adapter(tmp_path, str(tmp_path / "no-such-model"))


def test_what_llama_index_has_no_adapter_for(vectors, tmp_path):
    path = tmp_path / "out"
    cases = [
        ({"side": "both"}, "queries only"),
        ({"side": "separate"}, "queries only"),
        ({"side": "both", "adapter_params": {"output_dim": 4}}, "queries only"),
        ({"adapter": "mlp", "adapter_params": {"activation": "gelu"}}, "'gelu'"),
        ({"adapter": Halver}, "Halver, a module of your own"),
    ]
    for settings, message in cases:
        with pytest.raises(ValueError, match=message):
            save_llama_index_adapter(fit(vectors, **settings), path)
    with pytest.raises(NotFittedError):
        save_llama_index_adapter(AdapterFinetuner(None), path)
    with pytest.raises(TypeError, match="AdapterFinetuner, got PrecomputedEncoder"):
        save_llama_index_adapter(PrecomputedEncoder({"a": [1.0]}), path)
    assert not path.exists()


def test_llama_index_folder_is_not_left_half_written(vectors, tmp_path, monkeypatch):
    old = fit(vectors)
    save_llama_index_adapter(old, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(source, target):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            save_llama_index_adapter(fit(vectors, epochs=1), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "a file").touch()
    with pytest.raises(OSError):
        save_llama_index_adapter(old, tmp_path / "a file")


@pytest.mark.parametrize("config", ['{"model_type": "bert"}', "[1]", "not JSON"])
def test_a_model_is_no_llama_index_folder(vectors, tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    with pytest.raises(FileExistsError, match="config.json is not of an adapter of Ll"):
        save_llama_index_adapter(fit(vectors, epochs=1), tmp_path)
    assert (tmp_path / "pytorch_model.bin").read_bytes() == b"weights"


CONFIG = {"in_features": DIM, "out_features": DIM, "bias": False}
TWO_LAYER = {
    **CONFIG,
    "hidden_features": 5,
    "activation_fn_str": "relu",
    "add_residual": True,
}


@pytest.mark.parametrize(
    "config, message",
    [
        ("{", "is not JSON"),
        (b"\xff", "is not JSON"),
        ([], "is not of LlamaIndex's LinearLayer"),
        ({}, "is not of LlamaIndex's LinearLayer"),
        ({**CONFIG, "class": "os.system"}, "is not of LlamaIndex's LinearLayer"),
        ({**CONFIG, "in_features": "8"}, "'in_features' must be a whole number"),
        ({**CONFIG, "in_features": True}, "'in_features' must be a whole number"),
        ({**CONFIG, "out_features": 0}, "'out_features' must be a whole number"),
        ({**CONFIG, "bias": 0}, "'bias' must be a bool, got 0"),
        ({**CONFIG, "out_features": 4}, "8 dimensions to 4"),
        ({**CONFIG, "bias": True}, "must hold floating-point tensors"),
        ({**CONFIG, "in_features": 9, "out_features": 9}, "must hold floating-point"),
        (TWO_LAYER, "must hold floating-point"),
        ({**TWO_LAYER, "activation_fn_str": "tanh"}, "'tanh' with True"),
        ({**TWO_LAYER, "add_residual": False}, "'relu' with False"),
    ],
)
def test_tampered_config(vectors, tmp_path, config, message):
    save_llama_index_adapter(fit(vectors, epochs=1), tmp_path)
    content = config if isinstance(config, str | bytes) else json.dumps(config)
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_llama_index_adapter(tmp_path, None)


class Evil:
    """Makes a file when it is unpickled by anything that executes pickles."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_weights_with_code_execute_nothing(vectors, tmp_path):
    save_llama_index_adapter(fit(vectors, epochs=1), tmp_path)
    file, made = tmp_path / "pytorch_model.bin", tmp_path / "made"
    state = torch.load(file, weights_only=True)
    pickle.loads(pickle.dumps(Evil(made)))
    assert made.exists(), "the trap works"
    made.unlink()
    torch.save({**state, "more": Evil(made)}, file)
    with pytest.raises(ValueError, match="nothing in it was executed"):
        load_llama_index_adapter(tmp_path, None)
    file.write_bytes(pickle.dumps(Evil(made), protocol=2))
    with pytest.raises(ValueError, match="nothing in it was executed"):
        load_llama_index_adapter(tmp_path, None)
    assert not made.exists()


def test_damaged_weights(vectors, tmp_path):
    save_llama_index_adapter(fit(vectors, epochs=1), tmp_path)
    file = tmp_path / "pytorch_model.bin"
    whole = file.read_bytes()
    for content in (b"", b"no weights", whole[:200], whole[:-50]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            load_llama_index_adapter(tmp_path, None)
    weight = torch.eye(DIM)
    wrong = [
        {},
        [weight],
        weight,
        {"linear.weight": weight, "linear.bias": weight[0]},
        {"linear.weight": weight.int()},
        {"linear.weight": weight.tolist()},
        {"linear.weight": weight[:4]},
        {"weight": weight},
    ]
    for state in wrong:
        torch.save(state, file)
        with pytest.raises(ValueError, match="must hold floating-point tensors"):
            load_llama_index_adapter(tmp_path, None)
    torch.save({"linear.weight": weight / 0}, file)
    with pytest.raises(ValueError, match="'linear.weight' contains NaN or infinity"):
        load_llama_index_adapter(tmp_path, None)
    torch.save({"linear.weight": weight.half()}, file)
    assert load_llama_index_adapter(tmp_path, None).embedding_dim_ == DIM
    file.unlink()
    with pytest.raises(FileNotFoundError):
        load_llama_index_adapter(tmp_path, None)
    with pytest.raises(FileNotFoundError):
        load_llama_index_adapter(tmp_path / "nowhere", None)
