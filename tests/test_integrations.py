"""Ways out of the library, and in: LlamaIndex, LangChain, ONNX, FAISS."""

import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from skembft import (
    AdapterFinetuner,
    APIEncoder,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.datasets import load_qa_dataset, save_qa_dataset
from skembft.integrations import (
    _embeddings,
    load_llama_index_adapter,
    save_llama_index_adapter,
    to_langchain,
    to_llama_index,
    to_onnx,
)

ROOT = Path(__file__).parents[1]
DIM = 8

# toy data: training need not help
pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")

LAYERS = {
    "linear": {},
    "linear with bias": {"adapter_params": {"bias": True}},
    "low_rank": {"adapter": "low_rank", "adapter_params": {"rank": 3}},
    "closed_form": {"solver": "closed_form"},
    "mlp": {"adapter": "mlp", "adapter_params": {"hidden_dim": 5}},
}


class Halver(torch.nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.full((dim,), 0.5))

    def forward(self, x):
        return self.factor * x


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(40, DIM)).astype(np.float32)
    return X, (X @ rng.normal(size=(DIM, DIM))).astype(np.float32)


def fit(vectors, **settings):
    settings = {"epochs": 3, "validation_fraction": None, **settings}
    return AdapterFinetuner(None, random_state=0, **settings).fit(*vectors)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# ---- LlamaIndex's adapter folders


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


def test_names_differ_with_the_vectors(bert_model, pairs):
    queries, documents = pairs
    settings = {"epochs": 1, "random_state": 0}
    rng = np.random.RandomState(0)
    indices = [
        PrecomputedEncoder((queries + documents, rng.normal(size=(80, 4))))
        for _ in range(2)
    ]
    finetuners = [
        EmbeddingFinetuner(bert_model, **settings),
        EmbeddingFinetuner(bert_model, truncate_dim=8, **settings),
        EmbeddingFinetuner(bert_model, document_prompt="old1 ", **settings),
        EmbeddingFinetuner(bert_model, max_seq_length=3, **settings),
        *(
            AdapterFinetuner(index, learning_rate=1e-300, **settings)
            for index in indices
        ),
        *indices,
    ]
    names = [
        _embeddings.TextEmbedder(f.fit(queries, documents)).name() for f in finetuners
    ]
    assert len(set(names)) == len(names)
    again = [
        _embeddings.TextEmbedder(pickle.loads(pickle.dumps(f))).name()
        for f in finetuners
    ]
    assert again == names


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


# ---- ONNX


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


# ---- FAISS


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


# ---- embedding objects


def test_optional_packages_are_named(vectors, tmp_path, monkeypatch):
    encoder = PrecomputedEncoder({"a": [1.0, 0.0]})
    cases = [
        ("llama_index.core.base.embeddings.base", to_llama_index, (encoder,)),
        ("langchain_core.embeddings", to_langchain, (encoder,)),
        ("onnx", to_onnx, (fit(vectors, epochs=1), tmp_path / "adapter.onnx")),
    ]
    _embeddings._llama_index_class.cache_clear()
    _embeddings._langchain_class.cache_clear()
    for module, function, arguments in cases:
        monkeypatch.setitem(sys.modules, module, None)
        extra = function.__name__.removeprefix("to_").replace("_", "-")
        with pytest.raises(ImportError, match=rf"pip install 'skembft\[{extra}\]'"):
            function(*arguments)


@pytest.mark.parametrize("function", [to_langchain, to_llama_index])
def test_what_is_no_embedding_object(vectors, function):
    with pytest.raises(NotFittedError):
        function(AdapterFinetuner("a-model"))
    with pytest.raises(NotFittedError):
        function(GridSearchCV(AdapterFinetuner("a-model"), {}))
    with pytest.raises(ValueError, match=r"takes vectors \(encoder=None\)"):
        function(fit(vectors))
    with pytest.raises(TypeError, match="StandardScaler has no transform_documents"):
        function(StandardScaler().fit(vectors[0]))


def test_ranked_by_inner_product_is_told(static_model, pairs):
    settings = {"gamma": 0.2, "validation_fraction": None}
    mover = CorpusFinetuner(static_model, method="nudge_m", **settings).fit(*pairs)
    for function in (to_langchain, to_llama_index):
        with pytest.warns(UserWarning, match="must be ranked by inner product"):
            with suppress(ImportError):  # the package need not be there
                function(mover)


# ---- the real peers, in their own environment


@pytest.fixture
def run_peer(environment, tmp_path):
    """Runs Python code where the peers are installed; returns what it printed."""
    python = environment("peers")

    def run(script, *arguments):
        done = subprocess.run(
            [
                python,
                "-W",
                "ignore",
                "-c",
                textwrap.dedent(script),
                *map(str, arguments),
            ],
            env={
                "PYTHONPATH": str(ROOT),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "CUDA_VISIBLE_DEVICES": "",
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


THEIR_ADAPTER = """
    import json, sys
    import numpy as np
    from llama_index.embeddings.adapter import AdapterEmbeddingModel
    from llama_index.embeddings.adapter.utils import TwoLayerNN
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    model, request, output = sys.argv[1:]
    request = json.loads(request)
    base = HuggingFaceEmbedding(model, device="cpu")
    vectors = {}
    for folder in request["folders"]:
        cls = TwoLayerNN if folder.endswith("mlp") else None
        adapted = AdapterEmbeddingModel(base, folder, adapter_cls=cls, device="cpu")
        found = [adapted.get_query_embedding(text) for text in request["queries"]]
        vectors[folder] = np.array(found)
    np.savez(output, **vectors)
"""


@pytest.mark.slow
def test_llama_index_loads_our_folders(bert_model, pairs, tmp_path, run_peer):
    expected = {}
    for layer, settings in LAYERS.items():
        folder = str(tmp_path / layer)
        adapter = AdapterFinetuner(bert_model, epochs=3, random_state=0, **settings)
        save_llama_index_adapter(adapter.fit(*pairs), folder)
        expected[folder] = adapter.transform(pairs[0])
    request = {"folders": list(expected), "queries": pairs[0]}
    output = tmp_path / "vectors.npz"
    run_peer(THEIR_ADAPTER, bert_model, json.dumps(request), output)
    for folder, vectors in np.load(output).items():
        assert_allclose(unit(vectors), expected[folder], atol=1e-6)


THEIR_ENGINES = """
    import sys
    import numpy as np
    from llama_index.embeddings.adapter.utils import TwoLayerNN
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding
    from llama_index.finetuning import (
        EmbeddingAdapterFinetuneEngine,
        EmbeddingQAFinetuneDataset,
        SentenceTransformersFinetuneEngine,
    )

    model, = sys.argv[1:]
    data = EmbeddingQAFinetuneDataset.from_json("ours.json")
    data.save_json("theirs.json")
    base = HuggingFaceEmbedding(model, device="cpu")
    queries = list(data.queries.values())
    vectors = {}

    def embed(name, embed_model):
        found = [embed_model.get_query_embedding(text) for text in queries]
        vectors[name] = np.array(found)

    two_layers = TwoLayerNN(32, 12, 32, bias=True, add_residual=True)
    for name, settings in {
        "linear": {"model_checkpoint_path": "steps", "checkpoint_save_steps": 3},
        "bias": {"bias": True},
        "mlp": {"adapter_model": two_layers},
    }.items():
        engine = EmbeddingAdapterFinetuneEngine(
            data, base, epochs=3, model_output_path=name, device="cpu",
            optimizer_params={"lr": 0.01}, show_progress_bar=False, **settings
        )
        engine.finetune()
        more = {"adapter_cls": TwoLayerNN} if name == "mlp" else {}
        embed(name, engine.get_finetuned_model(device="cpu", **more))

    engine = SentenceTransformersFinetuneEngine(
        data, model, "full", val_dataset=data, show_progress_bar=False, device="cpu"
    )
    engine.finetune()
    embed("full", engine.get_finetuned_model())
    np.savez("vectors.npz", **vectors)
"""


@pytest.mark.slow
def test_we_load_what_llama_index_wrote(bert_model, pairs, tmp_path, run_peer):
    queries, documents = pairs
    relevant = [[document] for document in documents]
    save_qa_dataset(tmp_path / "ours.json", queries, relevant, [*documents, "größer"])
    run_peer(THEIR_ENGINES, bert_model)
    vectors = dict(np.load(tmp_path / "vectors.npz"))

    ours, theirs = (
        load_qa_dataset(tmp_path / f"{name}.json") for name in ("ours", "theirs")
    )
    for name in ("queries", "relevant", "corpus", "query_ids", "corpus_ids"):
        assert theirs[name] == ours[name]
    assert theirs.queries == queries and theirs.relevant == relevant

    base = SentenceEncoder(bert_model).transform(queries)
    for name in ("linear", "bias", "mlp"):
        assert np.abs(unit(vectors[name]) - base).max() > 1e-3  # it has learned
        loaded = load_llama_index_adapter(tmp_path / name, bert_model)
        assert_allclose(loaded.transform(queries), unit(vectors[name]), atol=1e-6)
    step = load_llama_index_adapter(tmp_path / "steps" / "step_3", bert_model)
    assert np.abs(step.transform(queries) - base).max() > 1e-3

    full = SentenceEncoder(str(tmp_path / "full"))
    assert_allclose(full.transform(queries), vectors["full"], atol=1e-6)
    assert np.abs(vectors["full"] - base).max() > 1e-5


INSIDE_NEIGHBOURS = """
    import asyncio, json, pickle
    import joblib
    import numpy as np
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode
    from skembft.integrations import to_langchain, to_llama_index

    request = json.load(open("request.json"))
    queries, documents = request["queries"], request["documents"]
    names = set()
    for name in request["finetuners"]:
        finetuner = joblib.load(name)
        calls = []
        original = finetuner.transform_documents
        embed_model = to_llama_index(finetuner)
        names.add(embed_model.model_name)
        assert embed_model.model_name == to_llama_index(joblib.load(name)).model_name
        finetuner.transform_documents = lambda D: calls.append(len(D)) or original(D)
        found = embed_model.get_text_embedding_batch(documents)
        assert calls == [len(documents)], calls
        del finetuner.transform_documents
        again = pickle.loads(pickle.dumps(embed_model))
        assert again.to_dict() == embed_model.to_dict()
        single = [embed_model.get_query_embedding(text) for text in queries]

        async def ask():
            texts = await embed_model.aget_text_embedding_batch(documents)
            text = await embed_model.aget_text_embedding(documents[0])
            parts = [embed_model.aget_query_embedding(text) for text in queries]
            return texts, text, await asyncio.gather(*parts)

        texts, text, awaited = asyncio.run(ask())
        for same in (texts, again.get_text_embedding_batch(documents)):
            np.testing.assert_array_equal(same, found)
        np.testing.assert_allclose(text, found[0], atol=1e-6)
        np.testing.assert_allclose(awaited, single, atol=1e-6)
        nodes = [TextNode(text=text, id_=str(i)) for i, text in enumerate(documents)]
        index = VectorStoreIndex(nodes, embed_model=embed_model)
        retriever = index.as_retriever(similarity_top_k=3)
        hits = [retriever.retrieve(query) for query in queries]
        ids = [[int(hit.node.node_id) for hit in row] for row in hits]
        chain = to_langchain(finetuner)
        np.savez(
            f"{name}.npz",
            queries=single,
            documents=found,
            ids=ids,
            chain_queries=[chain.embed_query(text) for text in queries],
            chain_documents=chain.embed_documents(documents),
        )
    assert len(names) == len(request["finetuners"])
"""


@pytest.mark.slow
def test_every_estimator_inside_llama_index_and_langchain(
    bert_model, pairs, tmp_path, run_peer
):
    queries, documents = pairs
    corpus = list(dict.fromkeys(documents))
    settings = {"epochs": 2, "random_state": 0}
    finetuners = {
        "encoder": SentenceEncoder(bert_model),
        "adapter": AdapterFinetuner(bert_model, side="separate", **settings),
        "corpus": CorpusFinetuner(bert_model, gamma=0.2, validation_fraction=None),
        "full": EmbeddingFinetuner(bert_model, learning_rate=1e-3, **settings),
    }
    for name, finetuner in finetuners.items():
        joblib.dump(finetuner.fit(queries, documents), tmp_path / name)
    request = {"queries": queries, "documents": corpus, "finetuners": list(finetuners)}
    (tmp_path / "request.json").write_text(json.dumps(request))
    run_peer(INSIDE_NEIGHBOURS)
    for name, finetuner in finetuners.items():
        found = np.load(tmp_path / f"{name}.npz")
        given = finetuner.transform(queries), finetuner.transform_documents(corpus)
        for prefix in ("", "chain_"):
            assert_allclose(found[f"{prefix}queries"], given[0], atol=1e-6)
            assert_allclose(found[f"{prefix}documents"], given[1], atol=1e-6)
        best = np.argsort(-(given[0] @ given[1].T), axis=1, kind="stable")[:, :3]
        assert_array_equal(found["ids"], best)


THEIR_ARGUMENTS = """
    import inspect, json
    from llama_index.finetuning import (
        EmbeddingAdapterFinetuneEngine,
        SentenceTransformersFinetuneEngine,
        generate_qa_embedding_pairs,
    )
    from llama_index.finetuning.embeddings.adapter_utils import train_model

    def arguments(function):
        return list(inspect.signature(function).parameters)

    fixed = "model", "data_loader", "device", "epochs", "output_path", "warmup_steps"
    more = fixed + ("verbose", "checkpoint_path", "checkpoint_save_steps")
    adapter = EmbeddingAdapterFinetuneEngine
    print(json.dumps({
        "SentenceTransformersFinetuneEngine": arguments(
            SentenceTransformersFinetuneEngine
        ),
        "EmbeddingAdapterFinetuneEngine": [
            *arguments(adapter),
            *(name for name in arguments(train_model) if name not in more),
            *(n for n in arguments(adapter.from_model_path) if n.startswith("model_")),
        ],
        "generate_qa_embedding_pairs": arguments(generate_qa_embedding_pairs),
    }))
"""


@pytest.mark.slow
def test_migration_guide_has_every_argument(run_peer):
    told = json.loads(run_peer(THEIR_ARGUMENTS))
    guide = (ROOT / "docs" / "migrating_from_llama_index.md").read_text("utf-8")
    for name, arguments in told.items():
        section = guide.split(f"\n## {name} ")[1].split("\n## ")[0]
        cells = re.findall(r"^\| (.+?) \| ", section, flags=re.M)
        shown = set(re.findall(r"\w+", " ".join(cells)))
        assert len(arguments) > 5 and set(arguments) <= shown, name


STANDARD_TESTS = """
    import joblib
    from langchain_tests.integration_tests import EmbeddingsIntegrationTests
    from langchain_tests.unit_tests import EmbeddingsUnitTests
    from skembft.integrations import to_langchain

    class Ours:
        @property
        def embeddings_class(self):
            return to_langchain

        @property
        def embedding_model_params(self):
            return {"finetuner": joblib.load("adapter.joblib")}

    class TestUnit(Ours, EmbeddingsUnitTests):
        pass

    class TestIntegration(Ours, EmbeddingsIntegrationTests):
        pass
"""


@pytest.mark.slow
def test_langchain_standard_tests(bert_model, pairs, tmp_path, run_peer):
    adapter = AdapterFinetuner(bert_model, epochs=2, random_state=0).fit(*pairs)
    joblib.dump(adapter, tmp_path / "adapter.joblib")
    (tmp_path / "test_standard.py").write_text(textwrap.dedent(STANDARD_TESTS))
    pytest_here = """
        import pytest, sys
        sys.exit(pytest.main(["-q", "-rA", "-o", "asyncio_mode=auto", "."]))
    """
    told = run_peer(pytest_here)
    assert "passed" in told and "failed" not in told
    for name in ("test_embed_query", "test_embed_documents", "test_aembed_documents"):
        assert f"PASSED test_standard.py::TestIntegration::{name}" in told
