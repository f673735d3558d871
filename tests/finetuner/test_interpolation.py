"""(1 - α) untouched + α tuned weights, against numpy."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sklearn.utils._param_validation import InvalidParameterError

import skembft
from skembft import AdapterFinetuner, EmbeddingFinetuner
from skembft.exceptions import NoGainWarning

ALPHA = 0.3


def adapters(rotated, **params):
    """Fitted with interpolation=None and with ALPHA, without validation."""
    params = {"validation_fraction": None, "epochs": 5, "random_state": 0, **params}
    made = [AdapterFinetuner(None, interpolation=a, **params) for a in (None, ALPHA)]
    return [finetuner.fit(*rotated) for finetuner in made]


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"adapter_params": {"bias": True}},
        {"adapter": "low_rank"},
        {"solver": "closed_form"},
    ],
)
def test_a_matrix_goes_to_the_identity(rotated, params):
    whole, part = adapters(rotated, **params)
    expected = ALPHA * whole.weights_["query"]["weight"] + (1 - ALPHA) * np.eye(24)
    np.testing.assert_allclose(part.weights_["query"]["weight"], expected, atol=1e-6)
    if "bias" in whole.weights_["query"]:
        bias = ALPHA * whole.weights_["query"]["bias"]
        np.testing.assert_allclose(part.weights_["query"]["bias"], bias, atol=1e-7)
    assert (whole.interpolation_, part.interpolation_) == (1.0, ALPHA)


def test_a_perceptron_adds_less(rotated):
    whole, part = adapters(rotated, adapter="mlp")
    queries = unit(rotated[0])
    added = [_mlp(f.weights_["query"], queries) for f in (whole, part)]
    np.testing.assert_allclose(added[1], ALPHA * added[0], atol=1e-6)


def _mlp(weights, x):
    hidden = np.maximum(x @ weights["weight_1"].T + weights["bias_1"], 0)
    return hidden @ weights["weight_2"].T + weights["bias_2"]


@pytest.mark.parametrize("side", ["both", "separate"])
def test_documents_too(rotated, side):
    whole, part = adapters(rotated, side=side)
    for name in ("query", "document"):
        expected = ALPHA * whole.weights_[name]["weight"] + (1 - ALPHA) * np.eye(24)
        found = part.weights_[name]["weight"]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (part.weights_["query"] is part.weights_["document"]) == (side == "both")


def test_a_module_of_the_users_goes_to_where_it_started(rotated):
    torch = pytest.importorskip("torch")

    class Scaled(torch.nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(dim))
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

        def forward(self, x):
            if self.training:
                self.calls += 1
            return x * self.scale

    whole, part = adapters(rotated, adapter=Scaled)
    tuned = whole.weights_["query"]
    np.testing.assert_allclose(
        part.weights_["query"]["scale"], ALPHA * tuned["scale"] + 1 - ALPHA, atol=1e-6
    )
    assert part.weights_["query"]["calls"] == tuned["calls"] > 0


def test_a_warm_start_goes_to_where_it_began(rotated):
    queries, documents = rotated
    options = {"validation_fraction": None, "epochs": 3, "random_state": 0}
    first = AdapterFinetuner(None, **options).fit(queries, documents)
    start = first.weights_["query"]["weight"]
    both = []
    for alpha in (None, ALPHA):
        again = AdapterFinetuner(None, **options).fit(queries, documents)
        again.set_params(warm_start=True, interpolation=alpha).fit(queries, documents)
        both.append(again.weights_["query"]["weight"])
    expected = ALPHA * both[0] + (1 - ALPHA) * start
    np.testing.assert_allclose(both[1], expected, atol=1e-6)


def test_a_refit_takes_the_share_that_was_chosen(rotated):
    queries, documents = rotated
    finetuner = AdapterFinetuner(None, interpolation=0.5, epochs=20, random_state=0)
    finetuner.fit(queries, documents)
    plain = AdapterFinetuner(None, interpolation=None, epochs=20, random_state=0)
    plain.fit(queries, documents)
    assert finetuner.best_epoch_ == plain.best_epoch_ > 0
    expected = (plain.weights_["query"]["weight"] + np.eye(24)) / 2
    found = finetuner.weights_["query"]["weight"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    last = finetuner.history_[-1]
    assert last["interpolation"] == 0.5 and last["step"] == finetuner.best_step_
    assert last["ndcg@10"] == finetuner.validation_score_ != plain.validation_score_


@pytest.mark.parametrize(
    ("p_value", "auto", "whole"),
    [(0.04, 1.0, 1.0), (0.06, 0.7, 1.0), (0.29, 0.7, 1.0), (0.31, 0.5, 0.0)]
    + [(0.51, 0.0, 0.0), (1.0, 0.0, 0.0)],
)
@pytest.mark.parametrize("cls", [AdapterFinetuner, EmbeddingFinetuner])
def test_the_less_sure_a_gain_is_the_less_is_kept(
    cls, p_value, auto, whole, rotated, static_model, pairs, monkeypatch
):
    monkeypatch.setattr("skembft._finetuner.chance.Chance.p_value", p_value)
    monkeypatch.setattr("skembft._finetuner.monitor.Monitor._is_better", lambda _: True)
    options = {"epochs": 2, "random_state": 0, "validation_fraction": 0.25}
    if cls is AdapterFinetuner:
        model, data = None, rotated
    else:
        model, data = static_model, pairs
        options |= {"learning_rate": 0.05, "evaluation_steps": 0}
    for interpolation, expected in (("auto", auto), (None, whole), (0.9, 0.9 * whole)):
        finetuner = cls(model, interpolation=interpolation, **options).fit(*data)
        assert finetuner.interpolation_ == expected
        assert (finetuner.best_step_ > 0) == (expected > 0)
        asked = [entry.get("interpolation") for entry in finetuner.history_]
        wanted = [expected] if expected not in (0, 1) else []
        assert [share for share in asked if share] == wanted


def test_a_share_that_is_worse_than_nothing_is_not_kept(rotated, monkeypatch):
    """A sure gain of the whole, and a blend that ranks worse than the base."""
    monkeypatch.setattr("skembft._finetuner.chance.Chance.p_value", 0.2)
    blend = "skembft._adapter.training.AdapterTraining.blend"
    monkeypatch.setattr(
        blend,
        lambda self, state, share: {
            side: {name: -value for name, value in part.items()}
            for side, part in state.items()
        },
    )
    with pytest.warns(NoGainWarning):
        finetuner = AdapterFinetuner(None, epochs=5, random_state=0).fit(*rotated)
    assert finetuner.interpolation_ == 0 and finetuner.best_step_ == 0
    assert finetuner.validation_score_ == finetuner.base_score_


@pytest.mark.parametrize("value", [0, 0.0, 1.5, -0.1, "best"])
def test_bad_values(rotated, value):
    for cls in (AdapterFinetuner, EmbeddingFinetuner):
        with pytest.raises(InvalidParameterError, match="interpolation"):
            cls(interpolation=value).fit(["a"], ["b"])


@pytest.mark.parametrize("trainable", ["all", 1, "lora"])
def test_a_whole_model_goes_to_where_it_was(no_dropout, pairs, trainable, tmp_path):
    """By the weights of what is saved, read by plain Sentence Transformers."""
    options = {"epochs": 1, "learning_rate": 1e-2, "random_state": 0}
    saved = []
    for alpha in (None, ALPHA):
        finetuner = EmbeddingFinetuner(
            no_dropout, trainable=trainable, interpolation=alpha, **options
        ).fit(*pairs)
        saved.append(tmp_path / str(alpha))
        finetuner.save_pretrained(saved[-1])
        model = SentenceTransformer(str(saved[-1]), device="cpu")
        np.testing.assert_allclose(
            model.encode_query(pairs[0]), finetuner.transform(pairs[0]), atol=1e-6
        )
    before, whole, part = (_tensors(path) for path in (no_dropout, saved[0], saved[1]))
    moved = 0
    for name, tensor in whole.items():
        expected = ALPHA * tensor + (1 - ALPHA) * before[name]
        np.testing.assert_allclose(part[name], expected, atol=1e-6)
        moved += np.abs(tensor - before[name]).max() > 1e-4
    assert moved
    assert skembft.load(saved[1]).interpolation_ == ALPHA


def _tensors(path):
    model = SentenceTransformer(str(path), device="cpu")
    return {
        k: v.numpy() for k, v in model.state_dict().items() if v.is_floating_point()
    }
