"""Losses that neither finetuner takes, and batches that leave no negatives."""

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer import losses
from sklearn.utils._param_validation import InvalidParameterError

from skembft import AdapterFinetuner, EmbeddingFinetuner
from tests.finetuner.bad_input import INDEX, MISSING, both


@both
@pytest.mark.parametrize(
    "loss, message",
    [
        ("tripplet", r"Unknown loss 'tripplet'\. Did you mean 'triplet'"),
        ("multiple_negative_ranking", "Did you mean 'multiple_negatives_ranking'"),
        ("TripletLoss", "Did you mean 'triplet'"),
        ("cosine", r"Unknown loss 'cosine'.*'cosine_similarity'"),
        ("xyz", "Unknown loss 'xyz'.*Valid names: 'multiple_negatives_ranking'"),
        (losses.SiameseDistanceMetric, "Unknown loss 'SiameseDistanceMetric'.*Valid"),
        (dict, "Unknown loss 'dict'.*Valid names"),
    ],
)
def test_unknown_losses(cls, loss, message):
    with pytest.raises(InvalidParameterError, match=message):
        cls(MISSING, loss=loss).fit(["a", "b"], ["c", "d"])


@both
@pytest.mark.parametrize(
    "loss, params, message",
    [
        ("multiple_negatives_ranking", {"sclae": 20}, "'sclae' .*Did you mean 'scale'"),
        (
            "multiple_negatives_ranking",
            {"margin": 1},
            "'margin' .*Valid names: 'scale'",
        ),
        ("triplet", {"margin": 1}, "'margin' .*Did you mean 'triplet_margin'"),
        ("triplet", {"scale": 20}, "'scale' is not among the loss_params .*'triplet'"),
        ("cosine_similarity", {"los_fct": None}, "Did you mean 'loss_fct'"),
        (losses.TripletLoss, {"margin": 1}, "Did you mean 'triplet_margin'"),
        ("triplet", {"model": None}, "'model' is not among"),
        ("triplet", {3: 1}, "3 is not among"),
    ],
)
def test_unknown_loss_params(cls, loss, params, message):
    estimator = cls(MISSING, loss=loss, loss_params=params)
    with pytest.raises(InvalidParameterError, match=message):
        estimator.fit(["a", "b"], ["c", "d"])


@pytest.mark.parametrize("scale", [0, -1, np.inf, np.nan, "20", None])
def test_wrong_scale(scale):
    estimator = AdapterFinetuner(MISSING, loss_params={"scale": scale})
    with pytest.raises(
        InvalidParameterError, match="scale .*must be a positive number"
    ):
        estimator.fit(["a", "b"], ["c", "d"])


def test_a_callable_loss_is_for_whole_models():
    with pytest.raises(InvalidParameterError, match="takes a loss by name or class"):
        AdapterFinetuner(MISSING, loss=lambda model: None).fit(["a"], ["b"])
    estimator = EmbeddingFinetuner(
        MISSING, loss=losses.TripletLoss.__call__, loss_params={"scale": 20}
    )
    with pytest.raises(
        InvalidParameterError, match="loss_params go with a loss by name"
    ):
        estimator.fit(["a", "b"], ["c", "d"])


def test_a_callable_that_makes_an_unknown_loss(static_model):
    estimator = EmbeddingFinetuner(
        static_model, loss=lambda model: torch.nn.Linear(2, 2), device="cpu"
    )
    with pytest.raises(ValueError, match="loss made a Linear; .*TripletLoss"):
        estimator.fit(["a", "b"], ["c", "d"])


def test_a_callable_loss_without_negatives(static_model):
    # what it needs is known once it is made
    estimator = EmbeddingFinetuner(
        static_model, loss=lambda model: losses.TripletLoss(model), device="cpu"
    )
    with pytest.raises(ValueError, match="Every document is relevant.*corpus="):
        estimator.fit(["red0", "red1"], ["old1", "old1"])


def test_a_batch_of_one_has_no_negatives():
    X, y = ["a", "b"], ["c", "d"]
    message = "batch_size=1 leaves no negatives in a batch: use a larger batch_size"
    with pytest.raises(InvalidParameterError, match=message):
        EmbeddingFinetuner(MISSING, batch_size=1).fit(X, y)
    message = "batch_size=1 leaves no negatives in a batch: use .*a larger batch_size"
    with pytest.raises(InvalidParameterError, match=message):
        AdapterFinetuner(MISSING, batch_size=1, negatives="batch").fit(X, y)
    with pytest.raises(InvalidParameterError, match=message):
        AdapterFinetuner(INDEX, batch_size=1, negatives="batch").fit(X, y)


@pytest.mark.parametrize(
    "params, rows",
    [
        ({"negatives": "random"}, [("red0", "red1"), ("old1", "old2")]),
        ({}, [("red0", "red1", "wet1"), ("old1", "old2", "wet2")]),
        ({"loss": "triplet"}, [("red0", "red1"), ("old1", "old2")]),
        ({"loss": "contrastive"}, [("red0", "red1"), ("old1", "old2")]),
    ],
)
def test_a_batch_of_one_with_other_negatives(static_model, params, rows):
    estimator = EmbeddingFinetuner(static_model, batch_size=1, device="cpu", **params)
    assert estimator.fit(rows).n_iter_ >= 4


@pytest.mark.parametrize(
    "params, rows",
    [
        ({"negatives": "corpus"}, [("a", "c"), ("b", "d")]),
        ({"negatives": "batch"}, [("a", "c", "e"), ("b", "d", "e")]),
        ({"negatives": "batch", "loss": "triplet"}, [("a", "c"), ("b", "d")]),
    ],
)
def test_adapter_with_a_batch_of_one(params, rows):
    estimator = AdapterFinetuner(
        INDEX, batch_size=1, epochs=1, validation_fraction=None, **params
    )
    assert estimator.fit(rows).history_[-1]["loss"] > 0
