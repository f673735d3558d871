"""joblib and pickle: a fresh process, no torch inside, a changed model is noticed."""

import io
import json
import pickle
import shutil
import zipfile

import joblib
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sklearn.frozen import FrozenEstimator

import skembft
from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft._utils.estimators import thawed

pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")

LOAD = """
import sys, json, joblib, numpy as np
queries, documents = json.load(open(sys.argv[1]))
for path in sys.argv[2:]:
    estimator = joblib.load(path)
    np.savez(path + ".npz", queries=estimator.transform(queries),
             documents=estimator.transform_documents(documents),
             score=estimator.score(queries, documents))
"""


def test_round_trip_in_a_fresh_process(bert_model, pairs, tmp_path, run_fresh):
    queries, documents = pairs
    rng = np.random.RandomState(0)
    vectors = PrecomputedEncoder(
        (queries, rng.normal(size=(40, 8))), (documents, rng.normal(size=(40, 8)))
    )
    adapter = AdapterFinetuner(bert_model, epochs=2, random_state=0)
    saved = {
        "adapter": AdapterFinetuner(
            bert_model, side="both", adapter_params={"bias": True}, learning_rate=1e-2
        ),
        "vectors that travel with it": AdapterFinetuner(vectors, epochs=2),
        "embedding": EmbeddingFinetuner(
            bert_model, query_prompt="red1 ", max_seq_length=6, truncate_dim=8, epochs=1
        ),
        "corpus": CorpusFinetuner(bert_model, gamma=0.3, validation_fraction=None),
        "stack": CorpusFinetuner(adapter, gamma=0.3, validation_fraction=None),
    }
    for name, estimator in saved.items():
        joblib.dump(estimator.fit(queries, documents), tmp_path / name)
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    paths = [str(tmp_path / name) for name in ("pairs.json", *saved)]
    run_fresh(LOAD, *paths)
    for name, estimator in saved.items():
        loaded = np.load(tmp_path / f"{name}.npz")
        close = {"rtol": 0, "atol": 0 if "vectors" in name else 1e-6, "err_msg": name}
        found = estimator.transform(queries)
        np.testing.assert_allclose(loaded["queries"], found, **close)
        found = estimator.transform_documents(documents)
        np.testing.assert_allclose(loaded["documents"], found, **close)
        assert loaded["score"] == pytest.approx(estimator.score(queries, documents))


@pytest.mark.parametrize("cls", [AdapterFinetuner, EmbeddingFinetuner])
def test_a_pickle_holds_no_torch_object(bert_model, pairs, cls):
    estimator = cls(bert_model, epochs=1, random_state=0).fit(*pairs)
    dumped = pickle.dumps(estimator)
    modules = set()

    class Recording(pickle.Unpickler):
        def find_class(self, module, name):
            modules.add(module.partition(".")[0])
            return super().find_class(module, name)

    Recording(io.BytesIO(dumped)).load()
    assert "skembft" in modules
    assert modules <= {"skembft", "numpy", "builtins", "_codecs", "copyreg"}
    if cls is AdapterFinetuner:
        assert len(dumped) < 32 * 32 * 4 + 8_000  # the layer, not the model


def test_an_adapter_refuses_another_model(bert_model, static_model, pairs, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(bert_model, path)
    estimator = AdapterFinetuner(str(path), epochs=1, random_state=0).fit(*pairs)
    dumped = pickle.dumps(estimator)
    np.testing.assert_array_equal(
        pickle.loads(dumped).transform(pairs[0]), estimator.transform(pairs[0])
    )
    model = SentenceTransformer(str(path), device="cpu")
    next(model.parameters()).data += 0.01
    model.save_pretrained(str(path), create_model_card=False)
    with pytest.raises(ValueError, match="is not the one this AdapterFinetuner was"):
        pickle.loads(dumped).transform(pairs[0])
    shutil.rmtree(path)
    with pytest.raises(OSError, match="Could not load the model"):
        pickle.loads(dumped).transform(pairs[0])


@pytest.mark.parametrize("way", ["pickle", "directory"])
def test_fitted_on_a_device_that_is_not_here(bert_model, pairs, tmp_path, way):
    """As if fitted on another machine: what is left of it is the name of the device."""
    encoder = SentenceEncoder(bert_model, cache_dir=str(tmp_path / "store"))
    for estimator in (
        EmbeddingFinetuner(bert_model, epochs=1),
        AdapterFinetuner(encoder, epochs=2),
        AdapterFinetuner(FrozenEstimator(encoder), epochs=2),
        CorpusFinetuner(encoder, gamma=0.3, validation_fraction=None),
    ):
        expected = estimator.fit(*pairs).transform(pairs[0])
        owner = thawed(getattr(estimator, "encoder_", estimator))
        owner.set_params(device="cuda:63")
        if way == "pickle":
            estimator = pickle.loads(pickle.dumps(estimator))
        else:
            estimator.save_pretrained(tmp_path / "saved")
            estimator = skembft.load(tmp_path / "saved")
        new = f"{pairs[0][0]} red1"  # not in the store
        np.testing.assert_allclose(estimator.transform(pairs[0]), expected, atol=1e-6)
        assert estimator.transform([new]).shape == (1, 32)
    with pytest.raises(ValueError, match="'cuda:63' is not available"):
        SentenceEncoder(bert_model, device="cuda:63").transform(["another"])
    for params in (None, {"fp16": True}):
        finetuner = EmbeddingFinetuner(bert_model, trainer_params=params)
        for device in ("cuda:63", "no such"):
            with pytest.raises(ValueError, match=f"'{device}' is not available"):
                finetuner.set_params(device=device).fit(*pairs)


def test_another_version_warns(pairs):
    X = np.random.RandomState(0).normal(size=(20, 4))
    estimator = AdapterFinetuner(None, epochs=1).fit(X, X[::-1])
    state = estimator.__getstate__()
    state["_skembft_version"] = "0.0.1"
    again = AdapterFinetuner()
    with pytest.warns(UserWarning, match="saved by skembft 0.0.1"):
        again.__setstate__(state)
    np.testing.assert_array_equal(again.transform(X), estimator.transform(X))


@pytest.mark.parametrize(
    "name", ["../outside.txt", "/tmp/outside.txt", "pytorch_model.bin", "code.py"]
)
def test_a_tampered_model_is_refused(bert_model, pairs, tmp_path, name):
    estimator = EmbeddingFinetuner(bert_model, epochs=1, random_state=0).fit(*pairs)
    state = estimator.__getstate__()
    assert b".bin" not in state["model_"]
    buffer = io.BytesIO(state["model_"])
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(name, "x")
    with pytest.raises(ValueError, match="it was tampered with"):
        EmbeddingFinetuner().__setstate__({**state, "model_": buffer.getvalue()})
    with pytest.raises(ValueError, match="in the pickle is damaged"):
        half = state["model_"][: len(state["model_"]) // 2]
        EmbeddingFinetuner().__setstate__({**state, "model_": half})


def test_skops_loads_adapters_with_our_types_only(static_model, pairs):
    skops = pytest.importorskip("skops.io")
    rng = np.random.RandomState(0)
    queries, documents = pairs
    vectors = PrecomputedEncoder(
        (queries, rng.normal(size=(40, 8))), (documents, rng.normal(size=(40, 8)))
    )
    for estimator in (
        AdapterFinetuner(static_model, epochs=2),
        AdapterFinetuner(vectors, epochs=2),
        CorpusFinetuner(static_model, gamma=0.2, validation_fraction=None),
    ):
        estimator.fit(*pairs)
        dumped = skops.dumps(estimator)
        types = skops.get_untrusted_types(data=dumped)
        assert all(name.startswith("skembft.") for name in types)
        loaded = skops.loads(dumped, trusted=types)
        np.testing.assert_array_equal(
            loaded.transform(queries), estimator.transform(queries)
        )
        assert loaded.history_ == estimator.history_


def test_dump_keeps_mode_link_and_suffix(tmp_path):
    path, link = tmp_path / "value.joblib.gz", tmp_path / "latest"
    skembft.dump([0] * 10_000, path)
    assert path.read_bytes()[:2] == b"\x1f\x8b"  # gzip, as joblib takes from the name
    path.chmod(0o600)
    link.symlink_to(path)
    skembft.dump([1], link)
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o600
    assert joblib.load(path) == [1]
    for bad, error in (("", ValueError), (tmp_path / "no" / "x", FileNotFoundError)):
        with pytest.raises(error, match="path is empty|There is no directory"):
            skembft.dump([1], bad)
    with pytest.raises(IsADirectoryError, match="is a directory; pass a file"):
        skembft.dump([1], tmp_path)


def test_dump_replaces_whole_files(pairs, tmp_path):
    path = tmp_path / "value.joblib"
    skembft.dump([1, 2], path)
    with pytest.raises(pickle.PicklingError):
        skembft.dump([1, lambda: None], path)
    assert joblib.load(path) == [1, 2]
    assert list(tmp_path.iterdir()) == [path]
