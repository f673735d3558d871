"""LoRA over weights in 4 bits (bitsandbytes, which computes them on a CPU too)."""

import pickle

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import skembft
from skembft import EmbeddingFinetuner, SentenceEncoder
from tests.conftest import write_bert

pytestmark = pytest.mark.slow

OPTIONS = {
    "trainable": "lora",
    "epochs": 3,
    "learning_rate": 1e-2,
    "random_state": 0,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def in_4_bits():
    pytest.importorskip("bitsandbytes", reason="make test-slow installs it")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
    )
    return {"model_kwargs": {"quantization_config": config}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random BERT as wide as a block of quantised weights."""
    return write_bert(tmp_path_factory.mktemp("wide"), width=128)


def test_low_rank_weights_are_not_rounded_away(model, in_4_bits, pairs, tmp_path):
    """Merged into 4 bits, vectors differed by 0.04."""
    finetuner = EmbeddingFinetuner(model, model_params=in_4_bits, **OPTIONS)
    vectors = finetuner.fit(*pairs).transform(pairs[0])
    names = {type(module).__name__ for module in finetuner.model_.modules()}
    assert "Linear4bit" in names
    before = SentenceEncoder(model, model_params=in_4_bits).transform(pairs[0])
    assert np.abs(vectors - before).max() > 0.05
    finetuner.save_pretrained(tmp_path / "saved")
    merged = EmbeddingFinetuner(
        model, model_params=in_4_bits, trainable_params={"merge": True}, **OPTIONS
    )
    for again in (
        pickle.loads(pickle.dumps(finetuner)),
        skembft.load(tmp_path / "saved"),
        merged.fit(*pairs),
    ):
        assert np.abs(again.transform(pairs[0]) - vectors).max() < 5e-4
    plain = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert np.abs(plain.encode_query(pairs[0]) - vectors).max() < 5e-4
    assert plain.dtype == torch.float32


def test_checkpoints_hold_the_low_rank_weights(model, in_4_bits, pairs, tmp_path):
    options = {
        **OPTIONS,
        "model_params": in_4_bits,
        "model_output_path": tmp_path / "output",
        "save_checkpoints": True,
        "checkpoint_save_steps": 3,
        "resume_from_checkpoint": True,
    }
    whole = EmbeddingFinetuner(model, **options).fit(*pairs)
    for path in (tmp_path / "output").glob("checkpoints/*/*/checkpoint-12/*"):
        if path.is_file():
            path.unlink()
    resumed = EmbeddingFinetuner(model, **options).fit(*pairs)
    np.testing.assert_array_equal(
        resumed.transform(pairs[0]), whole.transform(pairs[0])
    )
    # the low-rank weights over the same base in 4 bits, which are computed in bfloat16
    again = SentenceTransformer(
        str(tmp_path / "output"), device="cpu", **in_4_bits
    ).encode_query(pairs[0])
    assert np.abs(again - whole.transform(pairs[0])).max() < 2e-3


def test_what_cannot_be_is_refused(model, in_4_bits, pairs):
    finetuner = EmbeddingFinetuner(model, model_params=in_4_bits, device="cpu")
    with pytest.raises(ValueError, match="use trainable='lora'"):
        finetuner.fit(*pairs)
    finetuner.set_params(trainable="lora")
    finetuner.set_params(trainable_params={"use_dora": True, "merge": True})
    with pytest.raises(ValueError, match="use_dora cannot be folded into quantised"):
        finetuner.fit(*pairs)
