"""Time and memory of a GPU, beside bare Sentence Transformers: run by ``make gpu``.

Numbers are printed; a test fails only where they are far from what they should be.
"""

import time

import numpy as np
import pytest
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from skembft import EmbeddingFinetuner, SentenceEncoder

pytestmark = pytest.mark.gpu


def measured(function):
    """Seconds that a call takes, and its peak of memory in GB."""
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, torch.cuda.max_memory_allocated() / 1e9


@pytest.fixture(scope="module")
def texts(pairs):
    rng = np.random.RandomState(0)
    words = " ".join(pairs[1]).split()
    return [
        " ".join([*rng.choice(words, rng.randint(4, 120)), f"number {i}"])
        for i in range(20_000)
    ]


@pytest.fixture
def limited_memory(cuda):
    """1 GB of the GPU."""
    total = torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.set_per_process_memory_fraction(2**30 / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_encoding(cuda, minilm, texts, capsys):
    bare = SentenceTransformer(minilm, device=cuda)
    ours = SentenceEncoder(minilm, device=cuda, max_store_bytes=0)
    ours.transform(texts[:1000])
    theirs = measured(lambda: bare.encode(texts, batch_size=128))
    own = measured(lambda: ours.transform(texts))
    with capsys.disabled():
        print(f"\nencoding, (s, GB): bare {theirs}, SentenceEncoder {own}")
    assert own[0] < 1.2 * theirs[0]


def test_encoding_in_little_memory(cuda, minilm, texts, limited_memory):
    few = texts[:4000]
    encoder = SentenceEncoder(minilm, device=cuda, encode_batch_tokens=2**20)
    vectors = encoder.transform(few)
    assert np.isfinite(vectors).all() and len(vectors) == len(few)


def bare_fit(path, queries, documents, device, folder):
    from datasets import Dataset

    model = SentenceTransformer(path, device=device)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=64,
            num_train_epochs=1,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"anchor": queries, "positive": documents}),
        loss=MultipleNegativesRankingLoss(model),
    )
    trainer.train()


def test_training(cuda, minilm, texts, capsys, tmp_path):
    queries, documents = texts[:3200], texts[3200:6400]
    options = {"epochs": 1, "batch_size": 64, "random_state": 0, "device": cuda}
    ours = EmbeddingFinetuner(minilm, **options)
    ours.fit(queries[:128], documents[:128])
    theirs = measured(lambda: bare_fit(minilm, queries, documents, cuda, tmp_path))
    own = measured(lambda: ours.fit(queries, documents))
    with capsys.disabled():
        print(f"\ntraining, (s, GB): bare {theirs}, EmbeddingFinetuner {own}")
    assert own[0] < 1.2 * theirs[0] and own[1] < 1.2 * theirs[1]


# of Qwen3-Embedding-0.6B; and small ones, with which the test itself is tried
SHAPE = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
HEADS = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
FEW_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}


@pytest.fixture
def decoder(bert_model, real, tmp_path):
    """Directory of a random decoder, with the words of the tests for its tokens."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

    large = real.startswith("cuda")
    sizes = {**SHAPE, **HEADS} if large else {**SMALL, **FEW_HEADS}
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151_936 if large else 100, max_position_embeddings=512, **sizes
    )
    Qwen3Model(config).to(torch.bfloat16).save_pretrained(tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(bert_model)
    tokenizer.model_max_length = 256
    tokenizer.save_pretrained(tmp_path / "hf")
    transformer = Transformer(str(tmp_path / "hf"))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    model.save_pretrained(str(tmp_path / "st"), create_model_card=False)
    return str(tmp_path / "st")


def test_a_decoder_with_lora_in_bfloat16(decoder, pairs, device, capsys):
    pytest.importorskip("peft")
    finetuner = EmbeddingFinetuner(
        decoder,
        trainable="lora",
        precision="auto",
        model_params={"model_kwargs": {"dtype": "bfloat16"}},
        batch_size=8,
        epochs=1,
        learning_rate=1e-4,
        random_state=0,
        device=device,
    )
    data = {"X_val": pairs[0], "y_val": pairs[1]}
    if device.startswith("cuda"):
        cost = measured(lambda: finetuner.fit(*pairs, **data))
        with capsys.disabled():
            print(f"\nLoRA of 0.6 billion weights in bfloat16, (s, GB): {cost}")
        assert cost[1] < 8  # of which 1.2 are the weights
    else:
        finetuner.fit(*pairs, **data)
    assert np.isfinite([entry["loss"] for entry in finetuner.history_[1:]]).all()
    assert np.isfinite(finetuner.transform(pairs[0])).all()
