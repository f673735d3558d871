"""Uses that are rare, each of which once went wrong without a word."""

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.utils._param_validation import InvalidParameterError

import skembft
from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
)
from skembft.datasets import load_docstrings

pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")


class HalfLayer(torch.nn.Module):
    """A user's adapter with weights, and what it knows of itself, in bfloat16."""

    def __init__(self, dim):
        super().__init__()
        self.linear = torch.nn.Linear(dim, dim).to(torch.bfloat16)
        torch.nn.init.eye_(self.linear.weight)
        self.register_buffer("scale", torch.tensor(2.0, dtype=torch.bfloat16))

    def forward(self, x):
        return self.linear(x.to(torch.bfloat16)) * self.scale


class Layer(torch.nn.Module):
    """A user's adapter that starts anywhere."""

    def __init__(self, dim):
        super().__init__()
        self.linear = torch.nn.Linear(dim, dim)

    def forward(self, x):
        return self.linear(x)


@pytest.fixture(scope="module")
def alike():
    """Queries that find their documents as they are."""
    rng = np.random.RandomState(0)
    documents = rng.normal(size=(600, 8)).astype(np.float32)
    return documents + 0.3 * rng.normal(size=documents.shape).astype("f"), documents


# ---- warm starts


@pytest.mark.parametrize("refit", [True, False])
def test_a_warm_start_from_the_untouched_model_by_a_module(alike, refit):
    queries, documents = alike
    adapter = AdapterFinetuner(
        None, adapter=Layer, warm_start=True, epochs=2, random_state=0, refit=refit
    ).fit(queries[:200], documents[:200])
    assert adapter.best_step_ == 0
    score = adapter.score(queries[400:], documents[400:])
    adapter.fit(queries[200:400], documents[200:400])
    assert adapter.base_score_ > 0.9
    assert adapter.score(queries[400:], documents[400:]) > score - 0.02


@pytest.mark.parametrize("second", ["no validation", "X_val", "no refit"])
def test_a_warm_start_goes_on_from_the_weights_that_are_used(rotated, second):
    """Those from before the refit are for a fit that refits, too."""
    queries, documents = rotated
    adapter = AdapterFinetuner(
        None,
        warm_start=True,
        validation_fraction=0.3,
        epochs=3,
        learning_rate=1e-2,
        negatives="batch",
        random_state=0,
    ).fit(queries[:120], documents[:120])
    assert adapter.best_step_
    used = adapter.weights_["query"]["weight"].copy()
    data = {}
    adapter.set_params(learning_rate=1e-12, weight_decay=0.0, epochs=1)
    if second == "X_val":
        data = {"X_val": queries[200:], "y_val": documents[200:]}
    elif second == "no refit":
        adapter.set_params(refit=False)
    else:
        adapter.set_params(validation_fraction=None)
    adapter.fit(queries[120:200], documents[120:200], **data)
    assert np.abs(adapter.weights_["query"]["weight"] - used).max() < 1e-6
    # and nothing that these have seen can validate what comes next
    adapter.set_params(validation_fraction=0.3, refit=False)
    with pytest.raises(ValueError, match="have trained on every query"):
        adapter.fit(queries[:120], documents[:120])


def test_a_loaded_adapter_is_not_validated_by_what_it_was_refitted_on(
    static_model, pairs, tmp_path
):
    adapter = AdapterFinetuner(
        static_model, warm_start=True, validation_fraction=0.3, epochs=3,
        learning_rate=0.05, negatives="batch", random_state=0,
    ).fit(*pairs)  # fmt: skip
    adapter.save_pretrained(tmp_path / "saved")
    loaded = skembft.load(tmp_path / "saved")
    with pytest.raises(ValueError, match="have trained on every query"):
        loaded.fit(*pairs)
    adapter.fit(*pairs)  # which has the weights from before the refit


def test_a_warm_start_with_vectors_of_another_width(alike):
    queries, documents = alike
    options = {"warm_start": True, "validation_fraction": None, "epochs": 1}
    for adapter in "linear", "low_rank", "mlp":
        finetuner = AdapterFinetuner(None, adapter=adapter, **options)
        finetuner.fit(queries, documents)
        before = finetuner.transform(queries[:2])
        with pytest.raises(ValueError, match="16 features.* is expecting 8"):
            finetuner.fit(np.c_[queries, queries], np.c_[documents, documents])
        np.testing.assert_array_equal(finetuner.transform(queries[:2]), before)
        ids = [f"t{i}" for i in range(600)]
        narrow = PrecomputedEncoder((ids, queries), (ids, documents))
        wide = PrecomputedEncoder((ids, np.c_[queries, queries]))
        finetuner = AdapterFinetuner(narrow, adapter=adapter, **options).fit(ids, ids)
        with pytest.raises(ValueError, match="takes vectors of 8 dim.* these have 16"):
            finetuner.set_params(encoder=wide).fit(ids, ids)


# ---- encoders


class Counts:
    """An encoder of the user's, which takes a list of str."""

    def transform(self, X):
        assert isinstance(X, list) and all(isinstance(x, str) for x in X)
        return np.array([[len(x), x.count("a") + 1.0, x.count("b") + 0.5] for x in X])

    transform_documents = transform


@pytest.mark.parametrize("cls", [AdapterFinetuner, CorpusFinetuner])
def test_an_encoder_of_the_users_gets_a_list_of_str(cls):
    queries = [f"a{'b' * i}" for i in range(6)]
    documents = [f"aa{'b' * i}c" for i in range(6)]
    options = {"epochs": 1} if cls is AdapterFinetuner else {"gamma": 0.1}
    finetuner = cls(Counts(), validation_fraction=None, **options)
    finetuner.fit(queries, documents)
    expected = finetuner.transform(queries)
    for of in (
        lambda: pd.Series(queries),
        lambda: list(zip(queries, documents, strict=True)),
        lambda: tuple(queries),
        lambda: np.array(queries),
    ):
        np.testing.assert_array_equal(finetuner.transform(of()), expected)
        found, _ = finetuner.retrieve(of(), pd.Series(documents), k=2)
        assert found.shape == (6, 2)
    ours = finetuner.transform_documents(documents)
    theirs = finetuner.transform_documents(tuple(documents))
    np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(TypeError, match="None"):
        finetuner.transform(["a", None])


def test_the_random_state_of_a_stack_is_that_of_all_of_it(rotated):
    queries, documents = rotated
    ids = [f"t{i}" for i in range(240)]
    index = PrecomputedEncoder((ids, queries), (ids, documents))

    def moved(outer, inner=None):
        adapter = AdapterFinetuner(
            index, epochs=1, validation_fraction=None, random_state=inner
        )
        stack = CorpusFinetuner(adapter, validation_fraction=0.2, random_state=outer)
        return stack.fit(ids, ids)

    first, again, other = moved(0), moved(0), moved(1)
    np.testing.assert_array_equal(first.transform(ids), again.transform(ids))
    assert first.history_ == again.history_
    assert not np.array_equal(first.transform(ids), other.transform(ids))
    assert first.encoder.random_state is None
    assert moved(0, inner=5).encoder_.random_state == 5


# ---- what is told and kept


@pytest.mark.parametrize("interpolation", [1.0, 0.5])
def test_steps_taken_are_all_steps(rotated, interpolation, any_gain):
    queries, documents = rotated
    adapter = AdapterFinetuner(
        None, validation_fraction=0.3, refit=False, epochs=12, n_iter_no_change=None,
        learning_rate=0.1, negatives="batch", batch_size=32, random_state=0,
        interpolation=interpolation,
    ).fit(queries, documents)  # fmt: skip
    assert 0 < adapter.best_step_ < adapter.n_iter_
    assert adapter.n_iter_ == 12 * 6


def test_what_was_set_after_the_fit_is_not_what_was_fitted(
    static_model, pairs, tmp_path
):
    moved = CorpusFinetuner(
        static_model, method="nudge_m", gamma=0.7, validation_fraction=None
    ).fit(*pairs)
    moved.set_params(method="nudge_n").save_pretrained(tmp_path / "moved")
    loaded = skembft.load(tmp_path / "moved")
    assert loaded.similarity_ == moved.similarity_ == "dot"
    np.testing.assert_array_equal(loaded.retrieve(*pairs)[0], moved.retrieve(*pairs)[0])
    for fitted, later in ((None, 5), (5, None)):
        finetuner = EmbeddingFinetuner(static_model, epochs=1, truncate_dim=fitted)
        finetuner.fit(*pairs).set_params(truncate_dim=later)
        path = tmp_path / f"truncated {fitted}"
        finetuner.save_pretrained(path)
        loaded = skembft.load(path)
        expected = finetuner.transform(pairs[0])
        np.testing.assert_allclose(loaded.transform(pairs[0]), expected, atol=1e-6)
        assert loaded.embedding_dim_ == finetuner.embedding_dim_ == expected.shape[1]


def test_no_copy_of_the_own_document_is_retrieved():
    encoder = PrecomputedEncoder({"a": [1, 0.0], "b": [0.6, 0.8]})
    adapter = AdapterFinetuner(
        encoder, validation_fraction=None, epochs=1, exclude_self=True
    ).fit(["a"], ["b"], corpus=["a"])
    found, scores = adapter.retrieve(["a"], ["a", "b", "a"], k=3)
    assert found.tolist() == [[1, -1, -1]] and np.isneginf(scores[0, 1:]).all()


def test_a_warm_start_of_weights_in_read_only_memory(tmp_path, recwarn):
    queries, documents = np.random.RandomState(0).normal(size=(2, 40, 6))
    for params in ({}, {"adapter": "mlp"}, {"adapter": Layer, "side": "both"}):
        adapter = AdapterFinetuner(None, warm_start=True, epochs=2, **params)
        adapter.fit(queries, documents)
        joblib.dump(adapter, tmp_path / "adapter.joblib")
        loaded = joblib.load(tmp_path / "adapter.joblib", mmap_mode="r")
        loaded.set_params(validation_fraction=None).fit(queries, documents)
    assert not [w for w in recwarn if "not writable" in str(w.message)]


@pytest.mark.parametrize("method", ["nudge_n", "nudge_m"])
def test_a_gamma_that_overflows_is_refused(method):
    index = PrecomputedEncoder({"q": [1.0, 0.0]}, {"a": [0.0, 1.0]})
    options = {"method": method, "validation_fraction": None}
    with pytest.raises(InvalidParameterError, match="gamma"):
        CorpusFinetuner(index, gamma=1e39, **options).fit(["q"], ["a"])
    moved = CorpusFinetuner(index, gamma=1e18, **options).fit(["q"], ["a"])
    assert np.isfinite(moved.transform_documents(["a"])).all()
    assert moved.score(["q"], ["a"]) == 1


@pytest.mark.parametrize("side", ["query", "both"])
def test_a_module_in_bfloat16(tmp_path, side):
    queries, documents = np.random.RandomState(0).normal(size=(2, 60, 6))
    adapter = AdapterFinetuner(None, adapter=HalfLayer, side=side, epochs=3)
    adapter.fit(queries, documents)
    vectors = adapter.transform(queries)
    assert vectors.dtype == np.float32 and np.isfinite(vectors).all()
    joblib.dump(adapter, tmp_path / "adapter.joblib")
    again = joblib.load(tmp_path / "adapter.joblib")
    np.testing.assert_array_equal(again.transform(queries), vectors)


def test_messages_name_what_is_missing(static_model, tmp_path):
    adapter = AdapterFinetuner(static_model)
    queries, documents = ["red1", "old2"], ["wet1", "shy2"]
    with pytest.raises(ValueError, match="requires y to be.*: y_val holds.* in X_val"):
        adapter.fit(queries, documents, X_val=queries)
    with pytest.raises(TypeError, match=r"a dict.*list\(corpus\.values\(\)\)"):
        adapter.fit(queries, documents, corpus={"a": "wet1", "b": "shy2"})
    with pytest.raises(TypeError, match="data.queries, with data.relevant as y"):
        adapter.fit(load_docstrings())
    long = "word " * 1000
    with pytest.raises(ValueError, match="must be finite, got nan: fill it in") as e:
        adapter.fit(queries, [{long: np.nan}, "shy2"])
    assert len(str(e.value)) < 200
    joblib.dump(adapter, tmp_path / "x.joblib")
    with pytest.raises(NotADirectoryError, match="is a file.*joblib.load"):
        skembft.load(tmp_path / "x.joblib")
    with pytest.raises(FileNotFoundError, match="There is no directory"):
        skembft.load(tmp_path / "nothing")
    with pytest.raises(OSError, match=r"\w\. Check the spelling"):
        AdapterFinetuner(str(tmp_path / "nothing")).fit(queries, documents)


@pytest.mark.parametrize("container", [list, tuple, np.array])
def test_queries_and_documents_in_one_list(static_model, container):
    queries = [f"red{i}" for i in range(12)]
    documents = [f"wet{i}" for i in range(12)]
    adapter = AdapterFinetuner(static_model, epochs=1, validation_fraction=None)
    with pytest.warns(UserWarning, match=r"2 rows and 12 columns.*pass these apart"):
        adapter.fit(container([queries, documents]))


@pytest.mark.parametrize("cls", [AdapterFinetuner, EmbeddingFinetuner])
@pytest.mark.parametrize("scale", [1, 5])
def test_labels_that_no_cosine_can_be(static_model, cls, scale, recwarn):
    rows = [(f"red{i}", f"wet{i % 4}") for i in range(12)]
    options = {"loss": "cosine_similarity", "epochs": 1, "validation_fraction": None}
    labels = [scale * (i % 3) / 2 for i in range(12)]
    cls(static_model, **options).fit(rows, labels)
    told = [w for w in recwarn if "brings cosines to the labels" in str(w.message)]
    assert bool(told) == (scale > 1)
