"""Losses of EmbeddingFinetuner: what one or the other does and needs."""

import re

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sklearn.utils._param_validation import InvalidParameterError

from tests.embedding.bare_trainer import assert_equal_weights
from tests.losses.training import N, documents, finetuner, first_loss, mnrl, tuples

# of small batches, whose documents conflict
pytestmark = pytest.mark.filterwarnings("ignore:Documents, or relevant ones")


def test_one_negative_a_row_where_the_loss_takes_one(bert_model, texts, encoded_rows):
    """A row with three negatives makes three with one; the class would refuse it."""
    rows, _ = tuples(*texts)
    several = finetuner(bert_model, "gist_embed", batch_size=4).fit(rows)
    assert encoded_rows[rows[0][0]] == 3
    cached = finetuner(bert_model, "cached_gist_embed", batch_size=4).fit(rows)
    assert several.n_iter_ > cached.n_iter_


def test_margins_fit_unit_vectors(static_model, texts):
    """A negative whose vector is the positive's costs the margin."""
    q, d, _ = texts
    rows = [(q[i], d[i], d[i].replace(" ", "  ")) for i in range(N)]
    found = first_loss(static_model, "triplet", data=(rows, None))
    assert found == pytest.approx(0.3, abs=1e-6)


def test_documents_are_damaged_and_rebuilt(bert_model, texts, encoded_rows):
    """Of documents and corpus about 60 % of the words go, at least one stays."""
    q, d, e = texts
    corpus = [" ".join([text] * 30) for text in e]
    fitted = finetuner(
        bert_model, "denoising_auto_encoder", batch_size=4, max_seq_length=32
    ).fit(q, d, corpus=corpus)
    assert fitted.n_iter_ == 4
    assert not set(encoded_rows) & set(q)
    assert set(d + corpus) <= set(encoded_rows)
    damaged = encoded_rows - type(encoded_rows)(d + corpus)
    assert damaged.total() == 16 and all(damaged)
    kept = [len(text.split()) for text in damaged if len(text.split()) > 3]
    assert len(kept) == len(corpus)
    assert np.mean(kept) / 90 == pytest.approx(0.4, abs=0.05)


def test_documents_without_a_relevant_one_can_be_rebuilt(bert_model, texts):
    q, d, _ = texts
    y = [{text: 0} for text in d]
    for loss in ("denoising_auto_encoder", "contrastive_tension_in_batch_negatives"):
        assert finetuner(bert_model, loss, batch_size=4).fit(q, y).n_iter_ == 2


def test_a_decoder_changes_neither_weights_nor_what_is_trained(bert_model, pairs):
    """It is tied to the model: present values stay, and frozen layers frozen."""
    estimator = finetuner(bert_model, epochs=3, warm_start=True).fit(*pairs)
    before = estimator.transform(pairs[0])
    base = SentenceTransformer(bert_model, device="cpu").state_dict()
    estimator.set_params(loss="denoising_auto_encoder", learning_rate=1e-9, epochs=1)
    estimator.fit(*pairs)
    np.testing.assert_allclose(estimator.transform(pairs[0]), before, atol=1e-5)
    top = finetuner(bert_model, "denoising_auto_encoder", trainable=1).fit(*pairs)
    changed = {
        name
        for name, tensor in top.model_.state_dict().items()
        if not torch.equal(tensor, base[name])
    }
    assert changed and all(re.search(r"layer\.1\.|pooler", name) for name in changed)


@pytest.mark.parametrize("loss", ["softmax", "denoising_auto_encoder"])
def test_layers_of_the_loss_are_drawn_from_random_state(bert_model, pairs, loss):
    fitted = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(len(fitted))  # which must not matter
            fitted.append(finetuner(bert_model, loss, random_state=seed).fit(*pairs))
    first, again, other = fitted
    assert_equal_weights(first.model_, again.model_)
    assert first.history_ == again.history_
    assert first.history_[1]["loss"] != other.history_[1]["loss"]


@pytest.mark.parametrize("loss", ["adaptive_layer", "matryoshka2d"])
def test_losses_that_read_every_layer(bert_model, pairs, loss):
    """Batches are not split by length for them, nor lower layers computed once."""
    queries, documents = pairs
    skewed = [d if i % 8 else " ".join([d] * 10) for i, d in enumerate(documents)]
    sorted_, whole = (
        finetuner(bert_model, loss, batch_size=40, sort_by_length=sort, trainable=1)
        for sort in (True, False)
    )
    sorted_.fit(queries, skewed)
    assert_equal_weights(sorted_.model_, whole.fit(queries, skewed).model_)


def test_matryoshka_makes_the_first_dimensions_good(bert_model, pairs):
    """Default dimensions: all 32, and one half."""
    options = {"epochs": 6, "learning_rate": 3e-3, "batch_size": 20}
    plain = finetuner(bert_model, **options).fit(*pairs)
    nested = finetuner(bert_model, "matryoshka", **options).fit(*pairs)
    explicit = finetuner(
        bert_model,
        "matryoshka",
        loss_params={"loss": "multiple_negatives_ranking", "matryoshka_dims": [16, 32]},
        **options,
    ).fit(*pairs)
    assert_equal_weights(nested.model_, explicit.model_)

    def first_half(fitted):
        return finetuner_score(fitted, pairs, dim=16)

    assert first_half(nested) > first_half(plain)


def finetuner_score(fitted, pairs, dim):
    """Mean margin of the right document, in standard deviations of all, at `dim`."""
    queries, documents = (fitted.model_.encode(t, truncate_dim=dim) for t in pairs)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, documents)]
    similarity = unit[0] @ unit[1].T
    right = similarity.diagonal().mean()
    return (right - similarity.mean()) / similarity.std()


@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        (384, [384, 192, 96]),
        (768, [768, 384, 192, 96]),
        (1024, [1024, 512, 256, 128, 64]),
        (32, [32, 16]),
        (1, [1]),
    ],
)
def test_default_dimensions_of_matryoshka(dim, expected):
    from skembft._embedding.losses import halved_dims

    assert halved_dims(dim) == expected


def test_truncated_vectors(bert_model, pairs):
    """Heads and targets have the width that a loss gets, matryoshka that of use."""
    for loss in ("softmax", "mse", "matryoshka"):
        fitted = finetuner(bert_model, loss, truncate_dim=8).fit(*pairs)
        assert fitted.transform(pairs[0]).shape == (40, 8)
    with pytest.raises(ValueError, match="around 'mse' does not go with truncate_dim"):
        finetuner(
            bert_model, "matryoshka", loss_params={"loss": "mse"}, truncate_dim=8
        ).fit(*pairs)


def test_names_classes_and_callables_are_equal(bert_model, pairs):
    def make(model):
        return losses.MatryoshkaLoss(model, losses.AnglELoss(model), [32, 16])

    by_name, by_class, by_callable = (
        finetuner(bert_model, loss, loss_params=params).fit(*pairs)
        for loss, params in (
            ("matryoshka", {"loss": "angle"}),
            (losses.MatryoshkaLoss, {"loss": losses.AnglELoss}),
            (make, None),
        )
    )
    assert_equal_weights(by_name.model_, by_class.model_)
    assert_equal_weights(by_name.model_, by_callable.model_)


def test_a_subclass_is_used_as_it_is(bert_model, texts):
    class Halved(losses.BatchHardTripletLoss):
        def __init__(self, model, **kwargs):
            super().__init__(model, **kwargs)

        def forward(self, features, labels):
            return super().forward(features, labels) / 2

    data = documents(*texts)
    whole = first_loss(bert_model, "batch_hard_triplet", data=data)
    half = first_loss(bert_model, Halved, loss_params={"margin": 0.3}, data=data)
    assert half == pytest.approx(whole / 2)


def test_a_subclass_may_need_the_model(bert_model, texts):
    class Scaled(losses.CoSENTLoss):
        def __init__(self, model):
            super().__init__(model, scale=model.get_embedding_dimension())

    data = documents(*texts)
    found = first_loss(bert_model, Scaled, data=data)
    assert found == first_loss(
        bert_model, "cosent", loss_params={"scale": 32.0}, data=data
    )


def test_negatives_of_all_processes_where_several_train(bert_model, monkeypatch):
    from skembft._embedding.losses import build

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    model = SentenceTransformer(bert_model, device="cpu")

    def gathers(world_size, **params):
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world_size)
        estimator = finetuner(bert_model, **params)
        loss, spec = build(estimator, model, None)
        assert spec.in_batch
        return loss

    for loss in ("multiple_negatives_ranking", "cached_multiple_negatives_ranking"):
        assert gathers(2, loss=loss).gather_across_devices
        assert not gathers(1, loss=loss).gather_across_devices
    assert gathers(2, loss="matryoshka").loss.gather_across_devices


@pytest.mark.parametrize(
    ("loss", "params", "message"),
    [
        ("softmax", None, "'softmax' is trained by one process only"),
        (losses.ContrastiveTensionLoss, None, "by one process only"),
        ("contrastive_tension_in_batch_negatives", None, "by one process only"),
        ("denoising_auto_encoder", None, "by one process only"),
        ("adaptive_layer", {"loss": "softmax"}, "'softmax' is trained by one process"),
        ("gist_embed", None, "contrast_anchors=True.*: set it to False"),
        ("cached_gist_embed", {"contrast_anchors": True}, "contrast_anchors=True"),
        (mnrl, None, "gather_across_devices=False.*: set it to True"),
        (
            "matryoshka",
            {"loss_params": {"gather_across_devices": False}},
            "gather_across_devices=False",
        ),
    ],
)
def test_losses_that_several_processes_cannot_share(
    bert_model, texts, monkeypatch, loss, params, message
):
    monkeypatch.setattr("skembft._embedding.losses.is_distributed", lambda: True)
    model = finetuner(bert_model, loss, loss_params=params)
    with pytest.raises(InvalidParameterError, match=message):
        model.fit(*documents(*texts))
