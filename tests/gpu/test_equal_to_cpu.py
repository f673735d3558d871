"""What a GPU computes is what the CPU computes: run by ``make gpu``.

Weights differ by rounding only where nothing is drawn on the device: the model has no
dropout, and the batches, negatives and starts of every fit are drawn on the CPU.
"""

import pickle

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import skembft
from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    SentenceEncoder,
)

pytestmark = pytest.mark.gpu

TOLERANCE = 1e-3  # of the numbers of unit vectors after a fit in float32
OPTIONS = {"epochs": 2, "learning_rate": 1e-4, "random_state": 0}


@pytest.fixture(scope="module")
def model(no_dropout):
    return no_dropout


def assert_equal(found, expected):
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_encoders(model, pairs, device, precision):
    on_gpu = SentenceEncoder(model, device=device, precision=precision)
    on_gpu.clear()
    vectors = on_gpu.transform_documents(pairs[1])
    on_cpu = SentenceEncoder(model, device="cpu", max_store_bytes=0)
    on_cpu.clear()
    cosines = (vectors * on_cpu.transform_documents(pairs[1])).sum(axis=1)
    assert cosines.min() > (0.9995 if precision == "auto" else 1 - 1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "multiple_negatives_ranking"},
        {"loss": "cached_multiple_negatives_ranking", "batch_size": 40},
        {"loss": "triplet", "negatives": "hard"},
        {"loss": "cosent"},
        {"loss": "matryoshka", "loss_params": {"matryoshka_dims": [32, 8]}},
        {"trainable": 1},
        {"trainable": "lora"},
        {"activation_checkpointing": True, "gradient_accumulation_steps": 2},
        {"refit": True, "validation_fraction": 0.3, "layer_decay": 0.5},
        {"side": "query", "negatives": "corpus"},
        {"side": "query", "loss": "cosent", "trainable": 1},
        {
            "side": "query",
            "negatives": "hard",
            "loss_params": {
                "directions": [
                    *("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
                ],
                "hardness_mode": "hard_negatives",
                "hardness_strength": 2.0,
            },
        },
    ],
    ids=str,
)
def test_fits_of_models(model, pairs, device, options):
    if options.get("trainable") == "lora":
        pytest.importorskip("peft")
    data = {} if "refit" in options else {"X_val": pairs[0], "y_val": pairs[1]}
    fits = [
        EmbeddingFinetuner(model, device=place, **OPTIONS, **options).fit(
            *pairs, **data
        )
        for place in (device, "cpu")
    ]
    found, expected = fits
    assert found.model_.device.type == torch.device(device).type
    losses = [[entry["loss"] for entry in fit.history_[1:]] for fit in fits]
    np.testing.assert_allclose(*losses, rtol=TOLERANCE)
    for texts in pairs:
        assert_equal(found.transform(texts), expected.transform(texts))


@pytest.mark.parametrize(
    "options",
    [{"adapter": "linear"}, {"adapter": "mlp", "side": "both"}],
    ids=str,
)
def test_adapters_and_documents(model, pairs, device, options):
    """The encoder computes on the device, the rest on the CPU."""
    results = []
    for place in (device, "cpu"):
        encoder = SentenceEncoder(model, device=place)
        encoder.clear()
        adapter = AdapterFinetuner(encoder, random_state=0, **options)
        stacked = CorpusFinetuner(adapter.fit(*pairs), gamma=0.1).fit(*pairs)
        results.append((adapter.transform(pairs[0]), stacked.transform(pairs[0])))
    for found, expected in zip(*results, strict=True):
        assert_equal(found, expected)


def test_checkpoints_and_what_is_kept(model, pairs, real, tmp_path):
    options = {**OPTIONS, "device": real, "save_checkpoints": True}
    options.update(checkpoint_save_steps=3, checkpoint_save_total_limit=1)
    whole = EmbeddingFinetuner(model, model_output_path=tmp_path, **options).fit(*pairs)
    # from the 6th of 8 steps
    again = EmbeddingFinetuner(
        model, model_output_path=tmp_path, resume_from_checkpoint=True, **options
    ).fit(*pairs)
    expected = whole.transform(pairs[0])
    assert_equal(again.transform(pairs[0]), expected)
    plain = SentenceTransformer(str(tmp_path), device="cpu")
    assert_equal(plain.encode_query(pairs[0]), expected)
    assert_equal(pickle.loads(pickle.dumps(whole)).transform(pairs[0]), expected)
    whole.save_pretrained(tmp_path / "saved")
    assert_equal(skembft.load(tmp_path / "saved").transform(pairs[0]), expected)


def test_random_states_of_a_resumed_fit(bert_model, pairs, real, tmp_path):
    """With dropout, drawn on the device."""
    options = {**OPTIONS, "device": real, "model_output_path": tmp_path}
    options.update(save_checkpoints=True, checkpoint_save_steps=3)
    whole = EmbeddingFinetuner(bert_model, **options).fit(*pairs)
    again = EmbeddingFinetuner(bert_model, resume_from_checkpoint=True, **options)
    assert_equal(again.fit(*pairs).transform(pairs[0]), whole.transform(pairs[0]))
