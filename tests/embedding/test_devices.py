"""Where a fit computes, shown without a GPU: by a CUDA that must not be started up."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sentence_transformers import SentenceTransformerTrainingArguments

from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    SentenceEncoder,
)
from skembft._embedding.hf_trainer import FinetuningArguments
from skembft._models.random_state import isolated_rng


@pytest.fixture
def started(monkeypatch):
    """What starts CUDA up, on a machine that says it has two GPUs."""
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: calls.append("init"))
    monkeypatch.setattr(torch.cuda, "set_device", lambda d: calls.append(str(d)))
    # a step of any optimizer asks the device that is not there: from torch 2.14, and
    # before where torch was built with CUDA
    for kind in ("accelerator_graph", "cuda_graph"):
        check = f"_{kind}_capture_health_check"
        optimizer = torch.optim.Optimizer
        monkeypatch.setattr(optimizer, check, lambda self: None, raising=False)
    return calls


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_the_device_that_trains(tmp_path, started, device):
    theirs = SentenceTransformerTrainingArguments(str(tmp_path))
    assert str(theirs.device) == "cuda:0" and started == ["cuda:0"]
    started.clear()
    ours = FinetuningArguments(str(tmp_path), model_device=device)
    assert str(ours.device) == str(Accelerator().device) == device
    assert ours.n_gpu == 1 and not started


def test_nothing_starts_cuda_up_for_a_cpu(
    bert_model, static_model, pairs, started, tmp_path
):
    """A context takes memory of a GPU that others use, and forbids to fork."""
    finetuner = EmbeddingFinetuner(
        bert_model,
        epochs=1,
        precision="auto",
        model_output_path=tmp_path,
        save_checkpoints=True,
        checkpoint_save_steps=2,
        random_state=0,
        device="cpu",
    ).fit(*pairs)
    finetuner.set_params(resume_from_checkpoint=True).fit(*pairs)
    encoder = SentenceEncoder(static_model, device="cpu", precision="auto")
    for frozen in (AdapterFinetuner(encoder), CorpusFinetuner(encoder)):
        frozen.fit(*pairs, X_val=pairs[0], y_val=pairs[1]).score(*pairs)
    assert not started


def test_random_states_of_gpus_that_are_started_up(started, monkeypatch):
    """And only of those: what starts within has the state that it would have had."""
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    torch.manual_seed(5)
    with isolated_rng():
        torch.manual_seed(7)
    assert seeds == [5, 7, 5] and not started
    state = [torch.arange(3)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", state.copy)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda s: state.append(s))
    with isolated_rng():
        pass
    assert state[1] == state[:1] and len(seeds) == 3


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "no such"])
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_devices_that_are_not_there(bert_model, pairs, device, precision):
    options = {"device": device, "precision": precision}
    with pytest.raises(ValueError, match="is not available on this machine"):
        EmbeddingFinetuner(bert_model, **options).fit(*pairs)
    with pytest.raises(ValueError, match="is not available on this machine"):
        SentenceEncoder(bert_model, **options).transform(["a text that is new"])


def test_bfloat16_is_asked_of_the_device_itself(monkeypatch):
    """A machine may have an older GPU beside a newer one."""
    from contextlib import contextmanager

    from skembft._models import precision

    now = []

    @contextmanager
    def device(device):
        now.append(device.index)
        yield
        now.pop()

    def is_bf16_supported(including_emulation):
        assert not including_emulation
        return now == [1]

    monkeypatch.setattr(precision, "is_available", lambda device: True)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert precision.resolve_precision("auto", "cuda:1") == "bf16"
    assert precision.resolve_precision("auto", "cuda:0") == "float32"
    assert precision.resolve_precision("float32", "cuda:1") == "float32"


@pytest.fixture
def another_default():
    """The user's own default device, on which nothing can be computed."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize(
    "options",
    [
        {"sort_by_length": False},
        {"trainable": 1, "negatives": "hard"},
        {
            "side": "query",
            "negatives": "corpus",
            "loss_params": {"directions": ["query_to_doc", "doc_to_doc"]},
        },
    ],
)
def test_a_default_device_of_the_users_changes_nothing_of_models(
    bert_model, pairs, another_default, options
):
    finetuner = EmbeddingFinetuner(
        bert_model, epochs=1, random_state=0, device="cpu", **options
    )
    data = {"X_val": pairs[0], "y_val": pairs[1]}
    vectors = finetuner.fit(*pairs, **data).transform(pairs[0])
    torch.set_default_device(None)
    assert np.array_equal(finetuner.fit(*pairs, **data).transform(pairs[0]), vectors)


class Module(torch.nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.inner = torch.nn.Linear(dim, dim)

    def forward(self, x):
        return x + self.inner(x)


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "closed_form"},
        {"adapter_params": {"output_dim": 8, "bias": True}, "side": "both"},
        {"adapter": "low_rank", "warm_start": True},
        {"adapter": "mlp", "loss": "triplet", "negatives": "hard"},
        {"adapter": Module},
    ],
    ids=str,
)
def test_a_default_device_of_the_users_changes_nothing_of_adapters(
    static_model, pairs, another_default, options
):
    encoder = SentenceEncoder(static_model, device="cpu", max_store_bytes=0)
    data = {"X_val": pairs[0], "y_val": pairs[1]}
    results = []
    for _ in range(2):
        finetuner = AdapterFinetuner(encoder, epochs=2, random_state=0, **options)
        finetuner.fit(*pairs, **data).fit(*pairs, **data)
        retrieved = finetuner.retrieve(pairs[0], pairs[1], k=5)
        results.append((finetuner.transform(pairs[0]), *retrieved))
        torch.set_default_device(None)
    for found, expected in zip(*results, strict=True):
        assert np.array_equal(found, expected)


def test_a_default_device_of_the_users_changes_nothing_of_documents(
    static_model, pairs, another_default
):
    finetuner = CorpusFinetuner(SentenceEncoder(static_model, device="cpu"))
    data = {"X_val": pairs[0], "y_val": pairs[1]}
    score = finetuner.fit(*pairs, **data).score(*pairs)
    torch.set_default_device(None)
    assert finetuner.fit(*pairs, **data).score(*pairs) == score
