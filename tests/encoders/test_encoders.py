"""SentenceEncoder and PrecomputedEncoder: plain Sentence Transformers as the oracle."""

import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router, StaticEmbedding
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold

from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)


@pytest.fixture
def texts():
    rng = np.random.RandomState(1)
    return [" ".join(f"red{w}" for w in rng.randint(12, size=n)) for n in range(1, 40)]


def test_vectors_equal_plain_encode(bert_model, texts):
    model = SentenceTransformer(bert_model, device="cpu")
    for normalize in (True, False):
        encoder = SentenceEncoder(bert_model, normalize=normalize, device="cpu")
        expected = model.encode(texts, normalize_embeddings=normalize)
        np.testing.assert_allclose(encoder.transform(texts), expected, atol=1e-6)
        vectors = encoder.transform_documents(texts)
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
        assert vectors.dtype == np.float32


def test_prompts_length_and_dimension(bert_model, texts, tmp_path):
    model = SentenceTransformer(bert_model, device="cpu")
    model.prompts = {"query": "old1 ", "document": "wet1 wet2 "}
    model.save_pretrained(str(tmp_path), create_model_card=False)
    own = SentenceEncoder(str(tmp_path))
    np.testing.assert_allclose(
        own.transform(texts), _unit(model.encode_query(texts)), atol=1e-6
    )
    np.testing.assert_allclose(
        own.transform_documents(texts), _unit(model.encode_document(texts)), atol=1e-6
    )
    given = SentenceEncoder(str(tmp_path), query_prompt="", document_prompt="red1 ")
    np.testing.assert_allclose(
        given.transform(texts), _unit(model.encode(texts)), atol=1e-6
    )
    np.testing.assert_allclose(
        given.transform_documents(texts),
        _unit(model.encode(texts, prompt="red1 ")),
        atol=1e-6,
    )
    short = SentenceEncoder(bert_model, max_seq_length=5, truncate_dim=7)
    model = SentenceTransformer(bert_model, device="cpu", truncate_dim=7)
    model.max_seq_length = 5
    np.testing.assert_allclose(
        short.transform(texts),
        model.encode(texts, normalize_embeddings=True),
        atol=1e-6,
    )
    assert short.fit().get_feature_names_out().tolist()[-1] == "sentenceencoder6"


def _unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_each_text_once_also_by_threads_and_clones(bert_model, texts, encoded_rows):
    prompt = "shy1 "  # a store of its own

    def run(_):
        encoder = SentenceEncoder(bert_model, query_prompt=prompt)
        return encoder.transform(texts * 2)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(4)))
    assert all(np.array_equal(results[0], r) for r in results)
    assert encoded_rows == dict.fromkeys(texts, 1)
    encoder = SentenceEncoder(bert_model, query_prompt=prompt)
    encoder.clear()
    encoder.warm(texts)
    assert set(encoded_rows.values()) == {2 + 1}  # again as queries, once as documents


def test_the_store_is_bounded(bert_model, texts):
    from skembft.encoders import _store

    encoder = SentenceEncoder(
        bert_model, query_prompt="big1 ", max_store_bytes=10 * 32 * 4
    )
    first = encoder.transform(texts)
    np.testing.assert_allclose(encoder.transform(texts[::-1]), first[::-1], atol=1e-6)
    np.testing.assert_allclose(
        encoder.transform(texts[5:9] + texts[30:]),
        first[[*range(5, 9), *range(30, 39)]],
        atol=1e-6,
    )
    sizes = [s.memory.size for key, s in _store._stores.items() if "big1 " in key]
    assert sizes and max(sizes) <= 10


def test_batches_hold_a_budget_of_tokens():
    from skembft._models.encoding import token_batches

    lengths = np.random.RandomState(0).randint(1, 300, size=500)
    batches = list(token_batches(lengths, 2048))
    assert sorted(np.concatenate(batches)) == list(range(500))
    for batch in batches:
        assert lengths[batch].max() * len(batch) <= 2048
    padded = sum(lengths[b].max() * len(b) for b in batches)
    assert padded < 1.05 * lengths.sum()
    assert [len(b) for b in token_batches(np.array([5000, 1]), 2048)] == [1, 1]


def test_a_model_saved_again_at_the_same_place_is_loaded_again(tmp_path, static_model):
    model = SentenceTransformer(static_model, device="cpu")
    model.save_pretrained(str(tmp_path), create_model_card=False)
    first = SentenceEncoder(str(tmp_path), normalize=False).transform(["red1"])
    for parameter in model.parameters():
        parameter.data *= 2
    model.save_pretrained(str(tmp_path), create_model_card=False)
    second = SentenceEncoder(str(tmp_path), normalize=False).transform(["red1"])
    np.testing.assert_allclose(second, 2 * first, rtol=1e-5)


def test_empty_input_and_feature_names(static_model):
    encoder = SentenceEncoder(static_model)
    assert encoder.transform_documents([]).shape == (0, 16)
    assert len(encoder.get_feature_names_out()) == 16
    with pytest.raises(ValueError, match="X is empty"):
        encoder.transform([])


@pytest.mark.parametrize("module", ["known", "unknown", "imprecise"])
def test_precision_auto_is_float32_without_bf16(
    bert_model, texts, monkeypatch, forget, module
):
    """And bfloat16 where the device has it; by autocast where a copy is not as good."""
    import torch

    from skembft._models import precision

    forget()
    if module == "unknown":
        monkeypatch.setattr(precision, "_BF16_MODULES", ())
    if module == "imprecise":
        monkeypatch.setattr(precision, "_LEAST_COSINE", 1.5)
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    plain = SentenceEncoder(bert_model).transform(texts)
    auto = SentenceEncoder(bert_model, precision="auto").transform(texts)
    np.testing.assert_array_equal(plain, auto)
    seen = []
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    forward = SentenceTransformer.forward

    def watched(self, *args, **kwargs):
        autocast = torch.is_autocast_enabled("cpu")
        seen.append((next(self.parameters()).dtype, autocast))
        return forward(self, *args, **kwargs)

    encoder = SentenceEncoder(bert_model, precision="auto", device="cpu")
    encoder.transform(["red1"])
    monkeypatch.setattr(SentenceTransformer, "forward", watched)
    vectors = encoder.transform(texts)
    expected = (torch.float32, True)
    assert set(seen) == {(torch.bfloat16, False) if module == "known" else expected}
    assert vectors.dtype == np.float32
    assert (vectors * plain).sum(axis=1).min() > 0.9995
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    encoder.clear()


def test_precomputed_forms_are_equal():
    matrix = np.arange(6, dtype=np.float64).reshape(3, 2)
    by_id = dict(zip(["a", "b", 3], matrix, strict=True))
    for vectors in (by_id, (["a", "b", 3], matrix), (("a", "b", 3), matrix.tolist())):
        encoder = PrecomputedEncoder(vectors)
        np.testing.assert_array_equal(encoder.transform([3, "a"]), matrix[[2, 0]])
        np.testing.assert_array_equal(
            encoder.transform_documents(["b"]), encoder.transform(["b"])
        )
    only = PrecomputedEncoder(documents=by_id)
    np.testing.assert_array_equal(only.transform(["a"]), matrix[:1])


# ---- the store on disk


@pytest.fixture
def forget():
    """Empties this process's memory of vectors and models, as a new process has it."""

    def forget():
        from skembft._models import loading
        from skembft.encoders import _store

        _store._stores.clear()
        loading._loaded.clear()

    return forget


def copy_of(model, path):
    shutil.copytree(model, path)
    return str(path)


def key_of(encoder):
    return encoder._store_key("query"), encoder._fingerprint()


def test_cache_dir_serves_texts_without_the_model(
    bert_model, texts, tmp_path, encoded_rows, forget, monkeypatch
):
    forget()
    encoder = SentenceEncoder(bert_model, cache_dir=tmp_path / "new" / "folder")
    expected = encoder.transform(texts)
    assert encoded_rows == dict.fromkeys(texts, 1)
    forget()
    monkeypatch.setattr("skembft._models.loading.load_model", None)
    again = SentenceEncoder(bert_model, cache_dir=str(tmp_path / "new" / "folder"))
    np.testing.assert_array_equal(again.transform(texts[::-1]), expected[::-1])
    # this model has no prompts: documents are the same texts
    np.testing.assert_array_equal(again.transform_documents(texts), expected)
    frame = clone(again).set_output(transform="pandas").transform(texts)
    assert frame.shape == expected.shape
    assert again.transform_documents([]).shape == (0, 32)
    assert encoded_rows == dict.fromkeys(texts, 1)


WARM = """
import pickle, sys
encoder, texts, expected = pickle.load(open(sys.argv[1], "rb"))
assert (encoder.transform(texts) == expected).all()
assert encoder._fingerprint() and len(encoder.get_feature_names_out()) == 32
encoder.warm(texts)
heavy = {"torch", "transformers", "sentence_transformers"} & set(sys.modules)
assert not heavy, heavy
"""


def test_a_new_process_imports_no_torch_for_texts_on_disk(bert_model, texts, tmp_path):
    encoder = SentenceEncoder(bert_model, cache_dir=tmp_path, query_prompt="")
    job = encoder, texts, encoder.warm(texts).transform(texts)
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    subprocess.run([sys.executable, "-c", WARM, str(tmp_path / "job")], check=True)


def test_workers_load_no_model_once_warm(bert_model, pairs, tmp_path):
    """GridSearchCV with two processes; each fit and score asks whether one was."""
    queries, documents = pairs
    encoder = SentenceEncoder(bert_model, cache_dir=tmp_path).warm(queries + documents)

    def scores(estimator, X, y):
        import sys

        loaded = "sentence_transformers" in sys.modules
        return {"ndcg": estimator.score(X, y), "loaded": loaded}

    get_reusable_executor().shutdown(wait=True)  # workers of other tests
    search = GridSearchCV(
        AdapterFinetuner(encoder, epochs=1, negatives="random", random_state=0),
        {"side": ["query", "both"]},
        scoring=scores,
        refit="ndcg",
        cv=KFold(2),
        n_jobs=2,
        error_score="raise",
    )
    search.fit(queries, documents)
    assert np.isfinite(search.cv_results_["mean_test_ndcg"]).all()
    assert not search.cv_results_["mean_test_loaded"].any()


def test_clear_forgets_memory_and_disk(
    bert_model, texts, tmp_path, encoded_rows, forget
):
    forget()
    encoder = SentenceEncoder(bert_model, cache_dir=tmp_path).warm(texts)
    other = SentenceEncoder(bert_model, cache_dir=tmp_path, normalize=False)
    other.warm(texts)
    assert clone(encoder).clear() is not encoder
    encoder.warm(texts)
    other.warm(texts)
    assert set(encoded_rows.values()) == {3}


def test_a_cache_dir_that_is_a_file(static_model, tmp_path, encoded_rows):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cache_dir=.*file' cannot be used"):
        SentenceEncoder(static_model, cache_dir=tmp_path / "file").transform(["red1"])
    assert not encoded_rows


# ---- what vectors depend on


@pytest.mark.parametrize(
    "options",
    [
        {"query_prompt": "old1 "},
        {"max_seq_length": 7},
        {"truncate_dim": 4},
        {"normalize": False},
    ],
    ids=lambda options: next(iter(options)),
)
def test_settings_have_vectors_of_their_own(bert_model, options):
    plain = key_of(SentenceEncoder(bert_model))
    changed = key_of(SentenceEncoder(bert_model, **options))
    assert plain[0] != changed[0] and plain[1] != changed[1]


def test_bf16_and_backends_have_vectors_of_their_own(bert_model, monkeypatch):
    from skembft._models import precision

    plain = SentenceEncoder(bert_model)._store_key("query")
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    auto = SentenceEncoder(bert_model, precision="auto")._store_key("query")
    onnx = SentenceEncoder(bert_model, backend="onnx")._store_key("query")
    assert len({plain, auto, onnx}) == 3
    assert SentenceEncoder(bert_model)._store_key("query") == plain
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    assert SentenceEncoder(bert_model, precision="auto")._store_key("query") == plain


def test_a_copy_of_a_model_shares_its_vectors(
    bert_model, texts, tmp_path, encoded_rows, forget
):
    forget()
    copied = copy_of(bert_model, tmp_path / "copy")
    Path(copied, "README.md").write_text("# a card")
    Path(copied, ".gitattributes").write_text("*")
    Path(copied, "checkpoint-1").mkdir()
    Path(copied, "checkpoint-1", "optimizer.pt").write_text("large")
    cache = tmp_path / "cache"
    SentenceEncoder(bert_model, cache_dir=cache).transform(texts)
    forget()
    SentenceEncoder(copied, cache_dir=cache).transform(texts)
    assert encoded_rows == dict.fromkeys(texts, 1)
    assert key_of(SentenceEncoder(copied)) == key_of(SentenceEncoder(bert_model))


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


CHANGES = {
    "weights": lambda root: flip_a_bit(root / "model.safetensors"),
    "tokenizer": lambda root: edit_json(root / "tokenizer.json", truncation=None),
    "length": lambda root: edit_json(
        root / "sentence_bert_config.json", max_seq_length=9
    ),
    "pooling": lambda root: edit_json(
        root / "1_Pooling" / "config.json", pooling_mode="cls"
    ),
    "prompt": lambda root: edit_json(
        root / "config_sentence_transformers.json", prompts={"query": "old1 "}
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_files_have_vectors_of_their_own(bert_model, tmp_path, change):
    changed = copy_of(bert_model, tmp_path / "copy")
    CHANGES[change](Path(changed))
    plain = key_of(SentenceEncoder(bert_model))
    assert all(
        a != b for a, b in zip(plain, key_of(SentenceEncoder(changed)), strict=True)
    )


def test_prompts_are_those_that_sentence_transformers_reads(bert_model, tmp_path):
    model = SentenceTransformer(bert_model, device="cpu")
    for prompts in ({}, {"query": "q: "}, {"query": "q: ", "document": "d: "}):
        model.prompts = prompts
        path = str(tmp_path / str(len(prompts)))
        model.save_pretrained(path, create_model_card=False)
        loaded = SentenceTransformer(path, device="cpu")
        encoder = SentenceEncoder(path)
        for role in ("query", "document"):
            assert encoder._prompt(encoder._files(), role) == loaded.prompts[role]


def test_routes_keep_queries_and_documents_apart(static_model, tmp_path, encoded_rows):
    def module(scale):
        module = SentenceTransformer(static_model, device="cpu")[0]
        for parameter in module.parameters():
            parameter.data *= scale
        assert isinstance(module, StaticEmbedding)
        return module

    router = Router.for_query_document([module(1)], [module(-1)])
    model = SentenceTransformer(modules=[router], device="cpu")
    path = str(tmp_path / "router")
    model.save_pretrained(path, create_model_card=False)
    encoder = SentenceEncoder(path, normalize=False, cache_dir=tmp_path / "cache")
    for _ in range(2):
        queries = encoder.transform(["red1", "red2"])
        documents = encoder.transform_documents(["red1", "red2"])
    np.testing.assert_allclose(queries, -documents, atol=1e-6)
    assert encoded_rows == {"red1": 2, "red2": 2}
    before = encoder._fingerprint()
    for weights in Path(path).rglob("*.safetensors"):
        flip_a_bit(weights)
        before, changed = encoder._fingerprint(), before
        assert before != changed


@pytest.mark.parametrize("name", ["query_length", "query_expansion"])
def test_lengths_for_queries_keep_them_apart(bert_model, tmp_path, name):
    path = copy_of(bert_model, tmp_path / "copy")
    encoder = SentenceEncoder(path)
    assert encoder._store_key("query") == encoder._store_key("document")
    edit_json(Path(path, "sentence_bert_config.json"), **{name: 5})
    assert encoder._store_key("query") != encoder._store_key("document")


# ---- names on the hub


@pytest.fixture
def hub(bert_model, tmp_path, monkeypatch):
    """A local cache of the hub with the model "owner/tiny"; returns its snapshot."""
    revision = "0123456789" * 4
    repository = tmp_path / "hub" / "models--owner--tiny"
    snapshot = repository / "snapshots" / revision
    copy_of(bert_model, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "hub"))
    return snapshot


def test_a_name_on_the_hub_is_known_by_its_cached_files(
    hub, bert_model, texts, forget, monkeypatch, tmp_path
):
    expected = SentenceEncoder(bert_model).transform(texts)
    assert key_of(SentenceEncoder("owner/tiny")) == key_of(SentenceEncoder(bert_model))
    forget()
    named = SentenceEncoder("owner/tiny", cache_dir=tmp_path / "cache")
    np.testing.assert_allclose(named.transform(texts), expected, atol=1e-6)
    forget()
    monkeypatch.setattr("skembft._models.loading.load_model", None)
    np.testing.assert_allclose(named.transform(texts), expected, atol=1e-6)


def test_what_the_cache_does_not_tell_is_loaded_first(hub, bert_model, texts, forget):
    """It may exist on the hub: loading decides, once, and is then believed."""
    (hub / "config_sentence_transformers.json").unlink()
    expected = SentenceEncoder(bert_model).transform(texts)
    forget()
    vectors = SentenceEncoder("owner/tiny").transform(texts)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_an_unfinished_download_is_no_model(hub):
    (hub / "model.safetensors").unlink()
    for name in ("owner/tiny", "owner/other", "no-such-name", "a/b/c"):
        with pytest.raises(OSError, match=f"Could not load the model '{name}'"):
            SentenceEncoder(name)._fingerprint()


@pytest.mark.parametrize("shape", [(3, 4), (4,)])
def test_an_encoder_of_ones_own_that_returns_something_else(shape):
    class Broken:
        def transform(self, X):
            return np.ones((len(X), 4))

        def transform_documents(self, D):
            return np.ones(shape)

    for finetuner in (AdapterFinetuner(Broken()), CorpusFinetuner(Broken())):
        with pytest.raises(ValueError, match="it must give a vector for each"):
            finetuner.fit(["a", "b", "c", "d"], ["e", "f", "g", "h"])


# ---- memory of a GPU


@pytest.fixture
def small_gpu(monkeypatch):
    """Runs out of memory above 20 tokens a batch; sizes of all batches that it took."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Transformer

    sizes, forward = [], Transformer.forward

    def limited(self, features, **kwargs):
        sizes.append(features["input_ids"].numel())
        if sizes[-1] > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, features, **kwargs)

    monkeypatch.setattr(Transformer, "forward", limited)
    return sizes


def test_batches_are_halved_until_they_fit(bert_model, pairs, small_gpu):
    queries = [*pairs[0], "red0 " * 18]
    options = {"device": "cpu", "max_store_bytes": 0}
    fine = SentenceEncoder(bert_model, encode_batch_tokens=20, **options)
    expected = fine.transform(queries)
    assert max(small_gpu) <= 20
    small_gpu.clear()
    vectors = SentenceEncoder(bert_model, **options).transform(queries)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    too_large = [size for size in small_gpu if size > 20]
    assert too_large == small_gpu[: len(too_large)] == sorted(too_large, reverse=True)
    assert 2 <= len(too_large) <= 5  # halves of 173, once


def test_a_text_that_does_not_fit(bert_model, small_gpu):
    import torch

    encoder = SentenceEncoder(bert_model, device="cpu")
    with pytest.raises(torch.OutOfMemoryError):
        encoder.transform(["red0 " * 25, "red1"])


def test_tokens_of_a_batch(bert_model, pairs, small_gpu):
    """They are no part of what names vectors, nor of what is trained."""
    from skembft import EmbeddingFinetuner
    from skembft._embedding.identity import _NOT_TRAINING

    first = SentenceEncoder(bert_model, device="cpu", encode_batch_tokens=8)
    vectors = first.transform(pairs[0])
    assert max(small_gpu) <= 8
    small_gpu.clear()
    second = SentenceEncoder(bert_model, device="cpu")
    assert np.array_equal(second.transform(pairs[0]), vectors)
    assert not small_gpu and first._fingerprint() == second._fingerprint()
    finetuner = EmbeddingFinetuner(
        bert_model, epochs=1, encode_batch_tokens=8, batch_size=2, device="cpu"
    )
    finetuner.fit(*pairs, X_val=pairs[0], y_val=pairs[1]).transform(pairs[0])
    assert max(small_gpu) <= 16 and "encode_batch_tokens" in _NOT_TRAINING
    for bad in (0, None, "many", 2.5):
        with pytest.raises(ValueError, match="'encode_batch_tokens' parameter"):
            SentenceEncoder(bert_model, encode_batch_tokens=bad).transform(["a"])
        with pytest.raises(ValueError, match="'encode_batch_tokens' parameter"):
            EmbeddingFinetuner(bert_model, encode_batch_tokens=bad).fit(*pairs)
