"""SentenceEncoder and PrecomputedEncoder: plain Sentence Transformers as the oracle."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from skembft import PrecomputedEncoder, SentenceEncoder


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
    from skembft import _encoders

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
    sizes = [s.size for key, s in _encoders._stores.items() if "big1 " in key]
    assert sizes and max(sizes) <= 10


def test_batches_hold_a_budget_of_tokens():
    from skembft._models import token_batches

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


def test_precision_auto_is_float32_without_bf16(bert_model, texts, monkeypatch):
    """And bfloat16 where the device has it: here the autocast is only observed."""
    import torch

    from skembft import _models

    monkeypatch.setattr(_models, "has_bf16", lambda device: False)
    plain = SentenceEncoder(bert_model).transform(texts)
    auto = SentenceEncoder(bert_model, precision="auto").transform(texts)
    np.testing.assert_array_equal(plain, auto)
    seen = []
    monkeypatch.setattr(_models, "has_bf16", lambda device: True)
    forward = SentenceTransformer.forward

    def watched(self, *args, **kwargs):
        seen.append(torch.is_autocast_enabled("cpu"))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "forward", watched)
    encoder = SentenceEncoder(bert_model, precision="auto", device="cpu")
    vectors = encoder.transform(texts)
    assert seen and all(seen)
    assert vectors.dtype == np.float32
    assert (vectors * plain).sum(axis=1).min() > 0.999
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
