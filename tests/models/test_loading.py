"""Which models a process keeps, and how often their files are read."""

import shutil

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sklearn.model_selection import cross_val_score

from skembft import EmbeddingFinetuner, SentenceEncoder
from skembft._models import loading
from skembft.encoders import _store

OPTIONS = {"epochs": 1, "random_state": 0, "device": "cpu"}


@pytest.fixture
def loads(monkeypatch):
    """Counts the models that are read from files; none is kept before, nor vectors."""
    loads, load = [], loading.load_model
    loading._loaded.clear()
    _store._stores.clear()

    def counting(options, *args):
        loads.append(options)
        return load(options, *args)

    monkeypatch.setattr(loading, "load_model", counting)
    return loads


def test_lengths_do_not_multiply_models(bert_model, pairs, loads):
    texts = pairs[1][:4]
    whole = SentenceTransformer(bert_model, device="cpu")
    for length, dim in ((2, None), (None, 5), (4, 7), (None, None), (2, 5)):
        encoder = SentenceEncoder(
            bert_model, max_seq_length=length, truncate_dim=dim, max_store_bytes=0
        )
        whole.max_seq_length, whole.truncate_dim = length or 32, dim
        expected = whole.encode_document(texts, normalize_embeddings=True)
        np.testing.assert_allclose(
            encoder.transform_documents(texts), expected, atol=1e-6
        )
        finetuner = EmbeddingFinetuner(
            bert_model, max_seq_length=length, truncate_dim=dim, **OPTIONS
        ).fit(pairs[0][:4], texts)
        assert finetuner.model_.max_seq_length == (length or 32)
        assert finetuner.embedding_dim_ == (dim or 32)
    assert len(loads) == 1
    encoder.clear()
    assert not loading._loaded
    encoder.transform_documents(texts)
    assert len(loads) == 2


def test_models_are_kept_by_their_bytes(
    bert_model, static_model, tmp_path, loads, monkeypatch
):
    paths = [tmp_path / name for name in "abcdef"]
    for path in paths:
        shutil.copytree(static_model, path)
        (path / "modules.json").write_bytes(
            (path / "modules.json").read_bytes() + b" " * paths.index(path)
        )
        SentenceEncoder(path).transform(["red1"])
    assert len(loading._loaded) == 6  # more than four, as they are small
    monkeypatch.setattr(loading, "_MAX_BYTES", 2 * 65 * 16 * 4)
    SentenceEncoder(bert_model).transform(["red1"])
    assert [key[0].model_id for key in loading._loaded] == [bert_model]
    for path in paths:
        SentenceEncoder(path).transform(["old1"])
    kept = [key[0].model_id for key in loading._loaded]
    assert kept == [str(path) for path in paths[-2:]]


def test_a_large_model_is_there_once(bert_model, pairs, loads, monkeypatch):
    few = [values[:10] for values in pairs]
    expected = EmbeddingFinetuner(bert_model, **OPTIONS).fit(*few).transform(few[0])
    loading._loaded.clear()
    monkeypatch.setattr(loading, "_SMALL", 0)
    for _ in range(2):
        finetuner = EmbeddingFinetuner(bert_model, **OPTIONS).fit(*few)
        np.testing.assert_array_equal(finetuner.transform(few[0]), expected)
        assert not loading._loaded
    loads.clear()
    cross_val_score(EmbeddingFinetuner(bert_model, **OPTIONS), *few, cv=3)
    assert len(loads) == 1  # once in a search
    SentenceEncoder(bert_model).transform(few[0])
    finetuner = EmbeddingFinetuner(bert_model, **OPTIONS).fit(*few)
    assert len(loads) == 1  # which is copied, as it is there
