"""Negatives that validation chooses."""

import numpy as np
import pytest

import skembft
from skembft import AdapterFinetuner, PrecomputedEncoder
from skembft._adapter import trainer
from skembft.callbacks import EarlyStopping

CHOICES = ("random", "batch", "corpus")


@pytest.fixture(scope="module")
def problem():
    """Queries, documents and more documents, as vectors that a matrix brings closer."""
    rng = np.random.RandomState(0)
    documents = rng.normal(size=(300, 16))
    queries = documents[:200] @ rng.normal(0.1, 0.25, size=(16, 16)) + documents[:200]
    return queries, documents[:200], documents[200:]


def make(negatives, **params):
    params = {"epochs": 6, "batch_size": 40, "random_state": 0, **params}
    return AdapterFinetuner(None, negatives=negatives, **params)


def fit(problem, negatives="auto", **params):
    X, y, corpus = problem
    return make(negatives, **params).fit(X, y, corpus=corpus)


@pytest.mark.parametrize("params", [{}, {"adapter": "low_rank"}, {"adapter": "mlp"}])
def test_auto_is_what_the_chosen_negatives_are_alone(problem, params):
    auto = fit(problem, **params)
    alone = {name: fit(problem, name, **params) for name in CHOICES}
    scores = {name: a.validation_score_ for name, a in alone.items()}
    assert auto.negatives_ == max(scores, key=scores.get)
    chosen = alone[auto.negatives_]
    assert chosen.negatives_ == auto.negatives_
    assert auto.best_epoch_ == chosen.best_epoch_ > 0
    assert auto.validation_score_ == chosen.validation_score_
    for name, array in chosen.weights_["query"].items():
        np.testing.assert_array_equal(auto.weights_["query"][name], array)
    for name, single in alone.items():
        expected = [(e["epoch"], e["ndcg@10"], e["loss"]) for e in single.history_[1:]]
        found = [
            (e["epoch"], e["ndcg@10"], e["loss"])
            for e in auto.history_
            if e.get("negatives") == name
        ]
        assert found == expected
    steps = [entry["step"] for entry in auto.history_]
    assert steps == sorted(set(steps)) and auto.n_iter_ == steps[-1]


def test_one_kind_where_nothing_can_be_chosen(problem):
    """Without validation, by another loss, in closed form, with many queries."""
    for params in (
        {"validation_fraction": None},
        {"loss": "triplet"},
        {"solver": "closed_form"},
    ):
        finetuner = fit(problem, **params)
        assert finetuner.negatives_ == "random"
        assert not any("negatives" in entry for entry in finetuner.history_)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_MOST_COMPARED", 50)
        assert not any("negatives" in entry for entry in fit(problem).history_)


def compared(finetuner):
    return list(dict.fromkeys(e["negatives"] for e in finetuner.history_[1:]))


def test_what_cannot_be_is_not_tried(problem):
    assert compared(fit(problem)) == list(CHOICES)
    assert compared(fit(problem, batch_size=1, epochs=1)) == ["random", "corpus"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "MAX_CANDIDATES", 150)
        assert compared(fit(problem, epochs=1)) == ["random", "batch"]


def test_none_is_tried_after_a_perfect_one():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(200, 4))
    finetuner = make("auto", scoring="recall@60", learning_rate=0.05, epochs=30)
    finetuner.fit(X, X[:, ::-1])
    assert finetuner.base_score_ < 1
    assert finetuner.validation_score_ == 1 and compared(finetuner) == ["random"]


def test_an_adapter_of_the_users_starts_equally_each_time(problem):
    torch = pytest.importorskip("torch")

    class Turned(torch.nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.linear = torch.nn.Linear(dim, dim)

        def forward(self, x):
            return x + 0.1 * self.linear(x)

    auto = fit(problem, adapter=Turned)
    alone = fit(problem, auto.negatives_, adapter=Turned)
    for name, array in alone.weights_["query"].items():
        np.testing.assert_array_equal(auto.weights_["query"][name], array)


def test_early_stopping_counts_for_each(problem):
    """By the finetuner's validation, and by data of the callback's own."""
    X, y, corpus = problem
    for stopping in (
        EarlyStopping(n_iter_no_change=1, tol=2.0),
        EarlyStopping(X[150:], y[150:], n_iter_no_change=1, tol=2.0),
    ):
        finetuner = make("auto").set_callbacks(stopping).fit(X, y, corpus=corpus)
        epochs = [(e["negatives"], e["epoch"]) for e in finetuner.history_[1:]]
        assert [e for e in epochs if e[1] < 2] == [(name, 1.0) for name in CHOICES]
        assert len(epochs) <= 5  # with the shares of what was learnt


def test_all_are_drawn(problem):
    plt = pytest.importorskip("matplotlib.pyplot")
    finetuner = fit(problem)
    _, ax = plt.subplots()
    finetuner.history_.plot(ax=ax)
    labels = [line.get_label() for line in ax.lines]
    first, *others = [label for label in labels if label.startswith("validation")]
    assert first == f"validation ndcg@10, {finetuner.negatives_}"
    assert len(others) == 2
    scores = [
        e["ndcg@10"]
        for e in finetuner.history_
        if e.get("negatives") in (None, finetuner.negatives_)
    ]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), scores)
    plt.close(ax.figure)


def test_the_choice_is_saved(problem, static_model, pairs, tmp_path):
    encoder = skembft.SentenceEncoder(static_model)
    finetuner = make("auto").set_params(encoder=encoder).fit(*pairs)
    finetuner.save_pretrained(tmp_path / "model")
    again = skembft.load(tmp_path / "model")
    assert again.negatives_ == finetuner.negatives_
    assert again.interpolation_ == finetuner.interpolation_
    assert again.history_ == finetuner.history_


def test_ids_too(problem):
    X, y, corpus = problem
    documents = {f"d{i}": row for i, row in enumerate([*y, *corpus])}
    queries = {f"q{i}": row for i, row in enumerate(X)}
    names = list(queries), list(documents)[: len(X)]
    encoder = PrecomputedEncoder(queries, documents)
    finetuner = make("auto").set_params(encoder=encoder)
    finetuner.fit(*names, corpus=list(documents))
    assert compared(finetuner) == list(CHOICES)
