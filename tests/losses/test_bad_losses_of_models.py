"""Losses of EmbeddingFinetuner: what they refuse."""

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer import losses
from sklearn.utils._param_validation import InvalidParameterError

from skembft import AdapterFinetuner
from skembft._losses.table import VECTOR_LOSSES
from tests.losses.training import TRAINS_ON, N, documents, finetuner, mnrl, triplets

# of small batches, whose documents conflict
pytestmark = pytest.mark.filterwarnings("ignore:Documents, or relevant ones")
MISSING = "/no/such/model"  # loading it would be an OSError


# ---- errors before anything is loaded


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("cached_gist", "Unknown loss 'cached_gist'. Did you mean 'cached_gist_embed'"),
        ("MSELoss", "Unknown loss 'MSELoss'.*'mse'"),
        (losses.TripletDistanceMetric, "Unknown loss 'TripletDistanceMetric'"),
        (losses.TripletLoss(None), "instance of TripletLoss.*pass the class"),
    ],
)
def test_unknown_losses(loss, message):
    with pytest.raises(InvalidParameterError, match=message):
        finetuner(MISSING, loss).fit(["a", "b"], ["c", "d"])


@pytest.mark.parametrize(
    "loss", sorted(set(TRAINS_ON) - set(VECTOR_LOSSES)) + [losses.MegaBatchMarginLoss]
)
def test_adapters_refuse_losses_of_the_whole_model(loss):
    with pytest.raises(
        InvalidParameterError, match="a loss of EmbeddingFinetuner only.*'triplet'"
    ):
        AdapterFinetuner(MISSING, loss=loss).fit(["a", "b"], ["c", "d"])


@pytest.mark.parametrize(
    ("loss", "params", "message"),
    [
        ("cosent", {"scael": 1}, "'scael' is not among .*Did you mean 'scale'"),
        ("cached_gist_embed", {"guid": "x"}, "Did you mean 'guide'"),
        ("matryoshka", {"dims": [8]}, "'dims' .*Valid names: .*'matryoshka_dims'"),
        ("multiple_negatives_symmetric_ranking", {"directions": ()}, "'directions' is"),
        ("softmax", {"num_labels": 3}, "'num_labels' is not among"),
        ("mse", {"projection_dim": 3}, "'projection_dim' is not among"),
        ("angle", {"scale": "20"}, "scale of the loss 'angle' must be a finite number"),
        ("cosent", {"scale": True}, "must be a finite number, got True"),
        ("cosent", {"scale": np.nan}, "must be a finite number, got nan"),
        ("cosent", {"scale": 0}, "must be more than 0, got 0"),
        ("gist_embed", {"temperature": -1.0}, "temperature .* must be more than 0"),
        (
            "cached_multiple_negatives_ranking",
            {"mini_batch_size": 2.5},
            "mini_batch_size of the loss .* must be a whole number, got 2.5",
        ),
        ("mega_batch_margin", {"mini_batch_size": 0}, "must be more than 0, got 0"),
        (
            "mega_batch_margin",
            {"mini_batch_num_tokens": "many"},
            "must be a whole number or None, got 'many'",
        ),
        ("contrastive", {"size_average": 1}, "must be True or False, got 1"),
        (
            "embed_distill",
            {"distance_metric": "dot"},
            "must be 'mse' or 'l2' or 'cosine', got 'dot'",
        ),
        (
            "cached_gist_embed",
            {"margin_strategy": "both"},
            "must be 'absolute' or 'relative', got 'both'",
        ),
        (
            "multiple_negatives_ranking",
            {"directions": ("doc_to_query",)},
            "'query_to_doc' direction is required",
        ),
        (
            "distill_kl_div",
            {"temperature": np.inf},
            "temperature .* must be a finite number",
        ),
        ("gist_embed", {"guide": 3}, "guide .* must be a str or None, got 3"),
        (
            "adaptive_layer",
            {"layer_weighting": "square"},
            "must be 'uniform' or 'log' or 'linear'",
        ),
        ("matryoshka", {"loss": "tripplet"}, "Unknown loss 'tripplet'"),
        ("matryoshka", {"loss": mnrl}, "given by name or class, got .*a callable"),
        ("matryoshka", {"loss_params": 3}, "loss_params of .* must be a dict or None"),
        ("matryoshka", {"loss_params": {"margin": 1}}, "'margin' is not among"),
        (
            "matryoshka2d",
            {"loss": "triplet", "loss_params": {"triplet_margin": "wide"}},
            "triplet_margin of the loss 'triplet' must be a finite number",
        ),
        ("matryoshka", {"matryoshka_dims": [16, 0]}, "positive whole numbers, got"),
        ("matryoshka", {"matryoshka_dims": []}, "positive whole numbers, got"),
        ("matryoshka", {"matryoshka_dims": 8}, "positive whole numbers, got 8"),
        ("matryoshka", {"loss": "softmax"}, "'matryoshka' cannot wrap 'softmax'"),
        (
            "matryoshka",
            {"loss": losses.GlobalOrthogonalRegularizationLoss},
            "cannot wrap 'global_orthogonal_regularization'",
        ),
        ("matryoshka", {"loss": "contrastive_tension"}, "cannot wrap"),
        ("matryoshka", {"loss": "matryoshka2d"}, "cannot wrap 'matryoshka2d'"),
        ("matryoshka2d", {"loss": "matryoshka"}, "cannot wrap 'matryoshka'"),
        (
            "adaptive_layer",
            {"loss": "cached_gist_embed"},
            "cannot wrap 'cached_gist_embed'. Did you mean 'gist_embed'",
        ),
        (
            "adaptive_layer",
            {"loss": "matryoshka", "loss_params": {"loss": "mega_batch_margin"}},
            "'adaptive_layer' cannot wrap 'mega_batch_margin'",
        ),
    ],
)
def test_wrong_arguments(loss, params, message):
    estimator = finetuner(MISSING, loss, loss_params=params)
    with pytest.raises(InvalidParameterError, match=message):
        estimator.fit(["a", "b"], ["c", "d"])


@pytest.mark.parametrize(
    "loss",
    [
        "multiple_negatives_ranking",
        "cached_multiple_negatives_symmetric_ranking",
        "gist_embed",
        "mega_batch_margin",
        "cosent",
        "angle",
        "online_contrastive",
        "global_orthogonal_regularization",
        "batch_hard_triplet",
        "contrastive_tension_in_batch_negatives",
        "matryoshka",
    ],
)
def test_a_batch_of_one_leaves_nothing_to_compare(loss):
    with pytest.raises(InvalidParameterError, match="batch_size=1 leaves no"):
        finetuner(MISSING, loss, batch_size=1).fit(["a", "b"], ["c", "d"])


def test_a_batch_of_one_with_negatives_of_its_own(bert_model, texts):
    rows, _ = triplets(*texts)
    for loss in ("cached_multiple_negatives_ranking", "gist_embed", "matryoshka"):
        assert finetuner(bert_model, loss, batch_size=1).fit(rows).n_iter_ == N
    with pytest.raises(InvalidParameterError, match="leaves nothing to compare"):
        finetuner(MISSING, "mega_batch_margin", batch_size=1).fit(rows)
    estimator = finetuner(MISSING, "mega_batch_margin", batch_size=1)
    with pytest.raises(InvalidParameterError, match="leaves nothing to compare"):
        estimator.set_params(negatives="random").fit(rows)


@pytest.mark.parametrize("loss", ["softmax", "cosent", "angle"])
def test_labels_that_are_all_the_same(loss):
    message = f"loss='{loss}' learns from labels that differ, and all 2 are 1"
    with pytest.raises(ValueError, match=message):
        finetuner(MISSING, loss).fit([("a", "c"), ("b", "d")], [1.0, 1.0])


def test_classes_need_two():
    with pytest.raises(ValueError, match="there is one class only"):
        finetuner(MISSING, "batch_all_triplet").fit(["a", "b"], [["c", "d"], ["d"]])


def test_teacher_scores_cannot_be_made_for_a_wrapper_either():
    params = {"loss": "margin_mse"}
    with pytest.raises(ValueError, match="'margin_mse' learns from teacher scores"):
        finetuner(MISSING, "matryoshka", loss_params=params).fit(["a", "b"], ["c", "d"])


# ---- errors once the model is loaded, and before it is trained


@pytest.mark.parametrize(
    "loss",
    [
        "cached_multiple_negatives_ranking",
        "cached_multiple_negatives_symmetric_ranking",
        "cached_gist_embed",
        "mega_batch_margin",
        "gist_embed",
        "matryoshka2d",
        "adaptive_layer",
        "denoising_auto_encoder",
    ],
)
def test_models_that_a_loss_cannot_train(static_model, texts, loss):
    message = (
        f"loss='{loss}' cannot be built for this model: .*(Static|Token|Transformer)"
    )
    with pytest.raises(ValueError, match=message):
        finetuner(static_model, loss).fit(*documents(*texts))


def test_a_margin_of_the_batch_without_a_transformer(static_model, texts):
    params = {"use_mini_batched_version": False}
    fitted = finetuner(static_model, "mega_batch_margin", loss_params=params)
    assert fitted.fit(*documents(*texts)).history_[1]["loss"] > 0


@pytest.mark.parametrize(
    ("loss", "params", "error", "message"),
    [
        ("gist_embed", {"guide": MISSING}, OSError, f"Could not load .*'{MISSING}'"),
        (
            "matryoshka",
            {"matryoshka_dims": [64, 32]},
            ValueError,
            "cannot exceed the model's embedding dimension of 32",
        ),
        (
            "denoising_auto_encoder",
            {"tie_encoder_decoder": False},
            ValueError,
            "Must indicate the decoder_name_or_path",
        ),
        (
            "denoising_auto_encoder",
            {"tie_encoder_decoder": False, "decoder_name_or_path": MISSING},
            OSError,
            f"decoder of the loss cannot be loaded: .*{MISSING}",
        ),
        (
            "softmax",
            {"concatenation_sent_rep": False, "concatenation_sent_difference": False},
            ValueError,
            "At least one of concatenation_sent_rep",
        ),
    ],
)
def test_arguments_that_need_the_model(bert_model, texts, loss, params, error, message):
    with pytest.raises(error, match=message):
        finetuner(bert_model, loss, loss_params=params).fit(*documents(*texts))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: torch.nn.Linear(2, 2), "loss made a Linear; .*'TripletLoss'"),
        (
            lambda m: losses.MatryoshkaLoss(m, torch.nn.Linear(2, 2), [8]),
            "loss made a Linear",
        ),
        (
            lambda m: losses.MatryoshkaLoss(
                m, losses.GlobalOrthogonalRegularizationLoss(m), [8]
            ),
            "'matryoshka' cannot wrap 'global_orthogonal_regularization'",
        ),
        (lambda m: losses.SoftmaxLoss(m, 32, 1), "num_labels=1, but y has 2 different"),
        (losses.MarginMSELoss.__call__, "missing 1 required positional"),
        (lambda m: losses.MarginMSELoss(m), "learns from teacher scores"),
    ],
)
def test_callables_whose_loss_cannot_be_fed(bert_model, texts, make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        finetuner(bert_model, make).fit(*documents(*texts))


def test_a_batch_of_one_for_a_callable(bert_model, texts):
    with pytest.raises(ValueError, match="batch_size=1 leaves no negatives"):
        finetuner(bert_model, mnrl, batch_size=1).fit(*documents(*texts))


@pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")
def test_what_is_held_out_can_leave_nothing(bert_model):
    """The only two graded documents may be those of the held-out query."""
    X, y = ["red1", "red2"], [{"old1": 2, "old2": 1}, {"old1": 1}]
    estimator = finetuner(bert_model, "margin_mse", validation_fraction=0.5)
    outcomes = []
    for seed in range(6):
        try:
            outcomes.append(estimator.set_params(random_state=seed).fit(X, y).n_iter_)
        except ValueError as error:
            assert "learns from teacher scores" in str(error)
            outcomes.append("refused")
    assert set(outcomes) == {"refused", 1}
