"""Dropout and attention of training in bfloat16 on a CPU, against PyTorch's own."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from skembft import EmbeddingFinetuner
from skembft._embedding.speed import dropout
from skembft._embedding.speed.dropout import attention, drop_out, fast_dropout
from skembft._models import precision

BF16 = torch.bfloat16


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [BF16, torch.float32])
def test_dropout_keeps_its_share_and_the_mean(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(1000, 333, dtype=dtype, requires_grad=True)
    out = drop_out(x, p)
    out.sum().backward()
    kept = out != 0
    assert out.dtype == dtype
    # 333,000 draws: five standard errors
    assert abs(kept.float().mean() - (1 - p)) < 5 * (p * (1 - p) / x.numel()) ** 0.5
    expected = torch.where(kept, 1 / (1 - p), 0.0)
    assert torch.allclose(out.float(), expected, rtol=1e-2)
    assert torch.equal(x.grad, out)  # of ones, what was multiplied
    # every 16 bits of the random numbers are used, and none twice
    share = kept.flatten()[:332_000].view(-1, 4).float()
    assert torch.allclose(share.mean(0), torch.tensor(1 - p), atol=0.01)
    assert np.abs(np.corrcoef(share.T.numpy()) - np.eye(4)).max() < 0.02


def test_dropout_follows_the_seed_and_never_repeats():
    x = torch.ones(7, 5, 3)
    torch.manual_seed(3)
    first, second = drop_out(x, 0.5), drop_out(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(drop_out(x, 0.5), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_attention_is_that_of_torch(kind, scale):
    """Values and gradients, within what bfloat16 rounds."""
    torch.manual_seed(0)
    tensors = [torch.randn(3, 2, 9, 8) for _ in range(3)]
    keep = torch.arange(9) < torch.tensor([9, 4, 1])[:, None, None, None]
    masks = {"none": None, "bool": keep}
    masks["float"] = torch.zeros(3, 1, 1, 9).masked_fill(~keep, -torch.inf)
    results = []
    for function, dtype in (
        (functional.scaled_dot_product_attention, torch.float32),
        (attention, BF16),
    ):
        inputs = [t.clone().to(dtype).requires_grad_() for t in tensors]
        out = function(*inputs, attn_mask=masks[kind], scale=scale)
        out.float().square().sum().backward()
        results.append([out, *(t.grad for t in inputs)])
    for expected, got in zip(*results, strict=True):
        assert got.dtype == BF16
        assert (got - expected).abs().max() < 0.02 * expected.abs().max()


def test_attention_without_a_key_is_finite():
    query = torch.randn(1, 1, 2, 4).to(BF16)
    nothing = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    assert torch.isfinite(attention(query, query, query, attn_mask=nothing)).all()


def test_attention_with_dropout_has_the_same_mean():
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 1, 6, 4).to(BF16) for _ in range(3))
    expected = attention(query, key, value)
    many = [attention(query, key, value, dropout_p=0.3) for _ in range(2000)]
    assert not torch.equal(many[0], many[1])
    mean = torch.stack(many).float().mean(0)
    assert torch.allclose(mean, expected.float(), atol=0.06)


def recorded(monkeypatch):
    """What the fast functions were called for."""
    calls = []
    for name in ("drop_out", "attention"):
        real = getattr(dropout, name)

        def recording(*args, real=real, name=name, **kwargs):
            calls.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(dropout, name, recording)
    return calls


def test_only_what_it_is_made_for_is_replaced(monkeypatch):
    calls = recorded(monkeypatch)
    x = torch.ones(1, 2, 4, 8)
    dropout, sdpa = functional.dropout, functional.scaled_dot_product_attention
    half = x.to(BF16)

    class Model(torch.nn.Module):
        def forward(self, function):
            return function()

    model = Model()
    model(lambda: torch.nn.Dropout(0.5)(x))  # not yet
    with fast_dropout(model):
        torch.nn.Dropout(0.5)(x)  # not the model's
        model(lambda: torch.nn.Dropout(0.5).eval()(x))
        for p in (0.0, 1.0, 1e-9):
            model(lambda p=p: dropout(x, p))
        model(lambda: dropout(x.clone(), 0.5, inplace=True))
        model(lambda: sdpa(x, x, x, dropout_p=0.5))  # float32
        model(lambda: sdpa(half, half, half))
        model(lambda: sdpa(half, half, half, dropout_p=1.0))
        model(lambda: sdpa(half, half, half, dropout_p=0.5, is_causal=True))
        model(lambda: sdpa(half, half, half, dropout_p=0.5, enable_gqa=True))
        assert not calls
        model(lambda: torch.nn.Dropout(0.5)(x))
        assert calls == ["drop_out"]
        model(lambda: sdpa(half, half, half, dropout_p=0.5, scale=1, is_causal=False))
    assert calls == ["drop_out", "attention", "drop_out"]


def test_training_in_bf16_uses_it_and_nothing_else_does(bert_model, pairs, monkeypatch):
    calls = recorded(monkeypatch)
    options = {"epochs": 1, "random_state": 0, "device": "cpu"}
    EmbeddingFinetuner(bert_model, precision="float32", **options).fit(*pairs)
    assert not calls
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    finetuner = EmbeddingFinetuner(
        bert_model, precision="auto", validation_fraction=0.2, **options
    )
    finetuner.fit(*pairs)
    assert set(calls) == {"drop_out", "attention"}
    calls.clear()
    finetuner.transform(pairs[0])
    torch.nn.Dropout(0.5)(torch.ones(3))
    assert not calls


def test_a_cached_loss_draws_the_same_numbers_again(bert_model, pairs, monkeypatch):
    """It computes every batch twice, and ends as the loss that does so once."""
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    calls = recorded(monkeypatch)

    def fit(**options):
        finetuner = EmbeddingFinetuner(
            bert_model,
            precision="auto",
            learning_rate=1e-3,
            random_state=0,
            device="cpu",
            **options,
        )
        return finetuner.fit(*pairs).transform(pairs[0])

    once = fit()
    n_once = len(calls)
    twice = fit(loss="cached_multiple_negatives_ranking")
    assert len(calls) == 3 * n_once
    assert np.abs(twice - once).max() < 1e-6
    monkeypatch.setattr(dropout, "drop_out", lambda x, p: x)
    assert np.abs(fit() - once).max() > 1e-2


def test_not_with_activation_checkpointing(bert_model, pairs, monkeypatch):
    """Layers are computed again outside of the model's forward."""
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    calls = recorded(monkeypatch)
    EmbeddingFinetuner(
        bert_model, precision="auto", activation_checkpointing=True, device="cpu"
    ).fit(*pairs)
    assert not calls
