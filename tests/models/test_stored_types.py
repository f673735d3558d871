"""Weights are float32 in use and in training, whatever type they are stored in."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Pooling,
    Router,
    WordEmbeddings,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import (
    WhitespaceTokenizer,
)

import skembft
from skembft import AdapterFinetuner, EmbeddingFinetuner, SentenceEncoder
from skembft.datasets import load_docstrings
from skembft.metrics import RetrievalScorer
from tests.conftest import WORDS

HALF = [torch.bfloat16, torch.float16]
OPTIONS = {"epochs": 2, "learning_rate": 1e-3, "random_state": 0, "device": "cpu"}
KINDS = ["transformer", "static", "words", "routes"]


@pytest.fixture
def stored(bert_model, static_model, tmp_path):
    """Makes directories of the same rounded weights, in a type and in float32."""

    def modules(kind):
        if kind == "static":
            return list(SentenceTransformer(static_model, device="cpu"))
        torch.manual_seed(0)
        if kind == "words":
            vectors = np.random.RandomState(0).normal(size=(len(WORDS), 16))
            words = WordEmbeddings(
                WhitespaceTokenizer(WORDS), vectors, update_embeddings=True
            )
            return [words, Pooling(16), Dense(16, 8)]
        transformer = [*SentenceTransformer(bert_model, device="cpu"), Dense(32, 16)]
        if kind == "transformer":
            return transformer
        static = list(SentenceTransformer(static_model, device="cpu"))
        return [
            Router.for_query_document(
                query_modules=static, document_modules=transformer
            )
        ]

    def make(kind, dtype):
        paths = str(tmp_path / kind / "half"), str(tmp_path / kind / "float32")
        model = SentenceTransformer(modules=modules(kind), device="cpu").to(dtype)
        model.save_pretrained(paths[0], create_model_card=False)
        model.float().save_pretrained(paths[1], create_model_card=False)
        return paths

    return make


def types_in(directory):
    """Types of the weights that a directory holds."""
    found = set()
    for path in Path(directory).rglob("*.safetensors"):
        if path.name == "skembft.safetensors":
            continue
        with safe_open(path, "np") as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}
    return found


def same(finetuner, other, pairs):
    vectors = finetuner.transform(pairs[0]), finetuner.transform_documents(pairs[1])
    others = other.transform(pairs[0]), other.transform_documents(pairs[1])
    return all(map(np.array_equal, vectors, others))


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_encoders_compute_in_float32(stored, pairs, kind, dtype):
    half, full = stored(kind, dtype)
    assert types_in(half) == {"BF16" if dtype == torch.bfloat16 else "F16"}
    encoder = SentenceEncoder(half, device="cpu")
    assert same(encoder, SentenceEncoder(full, device="cpu"), pairs)
    lengths = np.linalg.norm(encoder.transform(pairs[0]), axis=1)
    assert np.abs(lengths - 1).max() < 1e-6


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_training_is_that_of_float32(stored, pairs, tmp_path, kind, dtype):
    """Bit for bit; and what is written, in any way, is float32."""
    half, full = stored(kind, dtype)
    output = tmp_path / "output"
    finetuner = EmbeddingFinetuner(half, model_output_path=output, **OPTIONS)
    finetuner.fit(*pairs)
    assert {p.dtype for p in finetuner.model_.parameters()} == {torch.float32}
    assert same(finetuner, EmbeddingFinetuner(full, **OPTIONS).fit(*pairs), pairs)
    assert same(finetuner, pickle.loads(pickle.dumps(finetuner)), pairs)
    finetuner.save_pretrained(tmp_path / "saved")
    assert same(finetuner, skembft.load(tmp_path / "saved"), pairs)
    for directory in (output, tmp_path / "saved"):
        assert types_in(directory) == {"F32"}
        plain = SentenceTransformer(str(directory), device="cpu")
        vectors = plain.encode_query(pairs[0], normalize_embeddings=True)
        assert np.abs(vectors - finetuner.transform(pairs[0])).max() < 1e-6


@pytest.mark.parametrize("options", [{"trainable": 1}, {"trainable": "lora"}], ids=str)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_training_in_part(stored, pairs, dtype, options):
    half, full = stored("transformer", dtype)
    options = {**OPTIONS, **options, "warm_start": True}
    first, second = (
        EmbeddingFinetuner(path, **options).fit(*pairs).fit(*pairs)
        for path in (half, full)
    )
    assert {p.dtype for p in first.model_.parameters()} == {torch.float32}
    assert same(first, second, pairs)
    assert (
        np.abs(
            pickle.loads(pickle.dumps(first)).transform(pairs[0])
            - first.transform(pairs[0])
        ).max()
        < 1e-5
    )


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_on_request(stored, pairs, monkeypatch, kind, dtype):
    """With precision="auto" both stored types compute as float32's copy does."""
    from skembft._models import precision

    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    half, full = stored(kind, dtype)
    auto = {"precision": "auto", "device": "cpu"}
    first = SentenceEncoder(half, **auto)
    assert same(first, SentenceEncoder(full, **auto), pairs)
    lengths = np.linalg.norm(first.transform(pairs[0]), axis=1)
    assert np.abs(lengths - 1).max() < 1e-6
    options = {**OPTIONS, **auto}
    finetuner = EmbeddingFinetuner(half, **options).fit(*pairs)
    assert same(finetuner, EmbeddingFinetuner(full, **options).fit(*pairs), pairs)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("kind", ["transformer", "static", "words"])
def test_an_exported_adapter_gives_the_same_vectors(
    stored, pairs, tmp_path, kind, dtype
):
    """What was stored in half is not copied: plain loading would compute in it."""
    half, _ = stored(kind, dtype)
    adapter = AdapterFinetuner(SentenceEncoder(half, device="cpu"), epochs=1)
    adapter.fit(*pairs).save_pretrained(tmp_path / "saved")
    assert types_in(tmp_path / "saved") == {"F32"}
    plain = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    for vectors, expected in (
        (plain.encode_query(pairs[0]), adapter.transform(pairs[0])),
        (plain.encode_document(pairs[1]), adapter.transform_documents(pairs[1])),
    ):
        assert np.abs(vectors - expected).max() < 1e-6
    assert same(adapter, skembft.load(tmp_path / "saved"), pairs)


def test_an_exported_encoder_that_its_config_makes_half(bert_model, pairs, tmp_path):
    """Weights in float32 are loaded in the type that the transformer's config says."""
    model = SentenceTransformer(bert_model, device="cpu")
    model.save_pretrained(str(tmp_path / "base"), create_model_card=False)
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": "bfloat16"}))
    adapter = AdapterFinetuner(str(tmp_path / "base"), epochs=1).fit(*pairs)
    adapter.save_pretrained(tmp_path / "saved")
    vectors = SentenceTransformer(str(tmp_path / "saved")).encode_query(pairs[0])
    assert np.abs(vectors - adapter.transform(pairs[0])).max() < 1e-6


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_resumed_fits(stored, pairs, tmp_path, dtype):
    half, _ = stored("transformer", dtype)
    options = {
        **OPTIONS,
        "model_output_path": tmp_path / "output",
        "save_checkpoints": True,
        "checkpoint_save_steps": 3,
    }
    whole = EmbeddingFinetuner(half, **options).fit(*pairs)
    resumed = EmbeddingFinetuner(half, resume_from_checkpoint=True, **options)
    assert same(whole, resumed.fit(*pairs), pairs)
    assert types_in(tmp_path / "output" / "checkpoints") == {"F32"}


@pytest.mark.slow
def test_training_helps_a_real_model_in_any_type(minilm, tmp_path):
    """One epoch on 160 pairs gains as much in every type as in float32."""
    data = load_docstrings()
    order = np.random.RandomState(0).permutation(len(data.queries))[:400]
    queries, documents = (
        [values[i] for i in order] for values in (data.queries, data.relevant)
    )
    score = RetrievalScorer("ndcg@10", corpus=documents)
    gains = {}
    for dtype in (torch.float32, *HALF):
        path = str(tmp_path / str(dtype))
        model = SentenceTransformer(minilm, device="cpu").to(dtype)
        model.save_pretrained(path, create_model_card=False)
        options = {"max_seq_length": 48, "device": "cpu"}
        finetuner = EmbeddingFinetuner(
            path, epochs=1, batch_size=16, evaluation_steps=0, random_state=0, **options
        ).fit(queries[:160], documents[:160])
        before, after = (
            score(model, queries[300:], documents[300:])
            for model in (SentenceEncoder(path, **options), finetuner)
        )
        gains[dtype] = after - before
    assert gains[torch.float32] > 0.01
    for dtype in HALF:
        assert gains[dtype] == pytest.approx(gains[torch.float32], abs=0.005)
