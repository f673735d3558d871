"""Gradients of embedding tables that are added up in place, against PyTorch's own."""

import pytest
import torch
from torch import nn

from skembft import EmbeddingFinetuner
from skembft._embedding.speed import table_gradients
from skembft._embedding.speed.table_gradients import gradients_in_place

OPTIONS = {"epochs": 1, "random_state": 0, "device": "cpu"}


class TwoColumns(nn.Module):
    """Looks two columns of tokens up; in the wide one all tokens come many times."""

    def __init__(self, padding_idx=None, **options):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 8, padding_idx=padding_idx, **options)

    def forward(self, first, second):
        first, second = self.table(first), self.table(second)
        return (first.sin().sum(1) * second.cos().sum(1)).sum()


class TwoBags(nn.Module):
    """Looks the texts of both columns up as bags, the first of which is empty."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.EmbeddingBag(50, 8, **options)

    def forward(self, first, second):
        offsets = torch.tensor([0, 0, 13, 40])
        first, second = (self.table(x.flatten(), offsets) for x in (first, second))
        return (first.sin() * second.cos()).sum()


def columns():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 12, (40, n), generator=generator) for n in (5, 70)]


def gradient(model, n_passes=1):
    for _ in range(n_passes):
        model(*columns()).backward()
    return model.table.weight.grad


@pytest.mark.parametrize("padding_idx", [None, 0, 3])
def test_the_gradient_is_the_same_to_the_last_bit(padding_idx):
    model = TwoColumns(padding_idx)
    expected = gradient(TwoColumns(padding_idx))
    with gradients_in_place(model):
        assert torch.equal(gradient(model), expected)
    assert expected[1].any() and not expected[12:].any()


def test_the_gradient_of_bags_is_the_same_to_the_last_bit(added):
    model, expected = TwoBags(), gradient(TwoBags())
    with gradients_in_place(model):
        assert torch.equal(model(*columns()), TwoBags()(*columns()))
        assert torch.equal(gradient(model), expected)
    assert expected[1].any() and not expected[12:].any()
    assert len(added) == 2


def test_bags_of_nothing():
    model, plain = TwoBags(), TwoBags()
    nothing, offsets = torch.tensor([], dtype=torch.long), torch.tensor([0, 0])
    with gradients_in_place(model):
        for each in (model, plain):
            each.table(nothing, offsets).sum().backward()
    assert torch.equal(model.table.weight.grad, plain.table.weight.grad)


def test_bags_called_in_other_ways(added):
    model, plain = nn.EmbeddingBag(9, 3), nn.EmbeddingBag(9, 3)
    plain.load_state_dict(model.state_dict())
    with gradients_in_place(model):
        for each in (model, plain):
            each(torch.tensor([[0, 1], [2, 1]])).square().sum().backward()
    assert torch.equal(model.weight.grad, plain.weight.grad)
    assert not added


def test_a_second_pass_adds_to_the_first():
    model = TwoColumns()
    with gradients_in_place(model):
        added = gradient(model, n_passes=2)
    assert torch.allclose(added, gradient(TwoColumns(), n_passes=2), rtol=1e-5)


def test_it_adds_to_the_gradient_of_another_use():
    """As of a decoder that shares the table."""
    model, plain = TwoColumns(), TwoColumns()
    with gradients_in_place(model):
        for each in (model, plain):
            (each(*columns()) + (each.table.weight**2).sum()).backward()
    assert torch.allclose(model.table.weight.grad, plain.table.weight.grad, rtol=1e-5)


def test_memory_is_used_again_and_starts_from_zero():
    model = TwoColumns()
    with gradients_in_place(model):
        first = gradient(model)
        address, first = first.data_ptr(), first.clone()
        model.table.weight.grad.fill_(torch.nan)  # as of a step that diverged
        model.zero_grad()
        assert model.table.weight.grad is None
        second = gradient(model)
    assert second.data_ptr() == address
    assert torch.equal(second, first)


@pytest.mark.parametrize(
    "kind, options",
    [
        (TwoColumns, {"sparse": True}),
        (TwoColumns, {"scale_grad_by_freq": True}),
        (TwoColumns, {"max_norm": 1.0}),
        (TwoBags, {"sparse": True}),
        (TwoBags, {"mode": "sum"}),
        (TwoBags, {"padding_idx": 3}),
        (TwoBags, {"include_last_offset": True}),
    ],
)
def test_other_kinds_of_tables_are_left_alone(kind, options, added):
    model, plain = kind(**options), kind(**options)
    with gradients_in_place(model):
        got, expected = gradient(model), gradient(plain)
    assert torch.equal(got.to_dense(), expected.to_dense())
    assert not added


def test_frozen_tables_are_left_alone_and_nothing_stays_behind(added):
    model = TwoColumns()
    with gradients_in_place(model.requires_grad_(False)):
        assert "forward" not in vars(model.table)
    with gradients_in_place(model.requires_grad_(True)):
        assert "forward" in vars(model.table)
        with torch.no_grad():
            model(*columns())
    assert "forward" not in vars(model.table)
    gradient(model)
    assert not added


@pytest.mark.parametrize("model", ["bert_model", "static_model"])
def test_a_fit_uses_it_and_leaves_it(model, pairs, added, request):
    model = request.getfixturevalue(model)
    fitted = EmbeddingFinetuner(model, **OPTIONS).fit(*pairs)
    assert added
    kinds = (nn.Embedding, nn.EmbeddingBag)
    tables = [m for m in fitted.model_.modules() if isinstance(m, kinds)]
    assert tables
    assert not any("forward" in vars(table) for table in tables)


def test_a_fit_with_frozen_tables_does_not(bert_model, pairs, added):
    EmbeddingFinetuner(bert_model, trainable=1, **OPTIONS).fit(*pairs)
    assert not added


@pytest.fixture
def added(monkeypatch):
    """The tables that gradients were added to."""
    tables = []
    real = table_gradients._Table.add_gradient

    def recording(table, *args):
        tables.append(table)
        return real(table, *args)

    monkeypatch.setattr(table_gradients._Table, "add_gradient", recording)
    return tables
