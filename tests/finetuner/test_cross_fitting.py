"""validation_fraction="auto": of few queries each is held out once."""

import numpy as np
import pytest
import torch

from skembft import AdapterFinetuner, EmbeddingFinetuner, PrecomputedEncoder
from skembft._adapter.run import AdapterRun
from skembft._adapter.trainer import AdapterTrainer
from skembft.metrics import RetrievalScorer

N_FOLDS = 5
QUICK = {"epochs": 4, "random_state": 0, "n_iter_no_change": None}


class Scaled(torch.nn.Module):
    """A module of the user's that draws from torch's global random state."""

    def __init__(self, dim):
        super().__init__()
        self.linear = torch.nn.Linear(dim, dim)
        torch.nn.init.eye_(self.linear.weight)
        self.dropout = torch.nn.Dropout(0.1)

    def forward(self, x):
        return self.dropout(self.linear(x))


@pytest.fixture
def runs(monkeypatch):
    """What every adapter of a fit is trained on, in the order of their making."""
    made = []
    init = AdapterRun.__init__

    def watched(self, settings, loss_name, encoded, *args):
        made.append(encoded)
        init(self, settings, loss_name, encoded, *args)

    monkeypatch.setattr(AdapterRun, "__init__", watched)
    return made


def n_trained(runs):
    return [encoded.data.n_queries for encoded in runs]


def test_every_query_is_asked_once_by_an_adapter_that_has_not_seen_it(
    rotated, monkeypatch
):
    queries, documents = (vectors[:203] for vectors in rotated)
    seen = []
    scores = AdapterTrainer.scores

    def watched(self, prepared, metrics):
        pairs = zip(self.adapters, prepared.held_out, strict=True)
        seen.append([(run.encoded.queries, part.queries) for run, part in pairs])
        return scores(self, prepared, metrics)

    monkeypatch.setattr(AdapterTrainer, "scores", watched)
    AdapterFinetuner(None, negatives="batch", **QUICK).fit(queries, documents)
    for parts in seen:
        assert len(parts) == N_FOLDS
        for trained, held_out in parts:
            both = np.concatenate([trained, held_out])
            assert len(np.unique(both, axis=0)) == len(both) == len(queries)
        asked = np.concatenate([held_out for _, held_out in parts])
        assert len(np.unique(asked, axis=0)) == len(queries)


@pytest.mark.parametrize(
    "options",
    [
        # not "random", which draws other documents where they are numbered otherwise
        {"negatives": "batch", "batch_size": 16},
        {"negatives": "hard", "side": "separate"},
        {"adapter": "mlp", "negatives": "corpus", "warmup_ratio": 0.5},
        {"adapter": "low_rank", "side": "both", "negatives": "batch"},
        {"solver": "closed_form"},
    ],
    ids=str,
)
def test_it_is_the_mean_of_fits_that_know_nothing_of_each_other(
    rotated, options, monkeypatch
):
    """Each with its own held-out queries as X_val, and its own seed."""
    queries, documents = (vectors[:120] for vectors in rotated)
    options = {**QUICK, **options}
    seeds, folds = [], []
    init = AdapterRun.__init__
    split = AdapterTrainer.split

    def with_seed(self, settings, loss_name, encoded, negatives, rng, epochs):
        seeds.append(rng.get_state()[1][0])
        init(self, settings, loss_name, encoded, negatives, rng, epochs)

    def watched(self, prepared, splits):
        folds.extend(splits)
        return split(self, prepared, splits)

    with monkeypatch.context() as patch:
        patch.setattr(AdapterRun, "__init__", with_seed)
        patch.setattr(AdapterTrainer, "split", watched)
        finetuner = AdapterFinetuner(None, **options)
        finetuner.fit(queries, documents, corpus=documents)
    together = [entry["ndcg@10"] for entry in finetuner.history_]
    alone, sizes = [], []
    for seed, (train, held_out) in zip(seeds, folds, strict=False):
        one = AdapterFinetuner(
            None, **{**options, "random_state": int(seed), "interpolation": None}
        ).fit(
            queries[np.sort(train)],
            documents[np.sort(train)],
            corpus=documents,
            X_val=queries[held_out],
            y_val=documents[held_out],
            corpus_val=documents,
        )
        alone.append([entry["ndcg@10"] for entry in one.history_])
        sizes.append(len(held_out))
    expected = np.average(alone, axis=0, weights=sizes)
    np.testing.assert_allclose(together[: len(expected)], expected, atol=2e-3)
    np.testing.assert_allclose(together[:2], expected[:2], atol=1e-6)


def test_the_base_score_is_of_all_queries(rotated):
    queries, documents = rotated
    adapter = AdapterFinetuner(None, **QUICK).fit(queries, documents)
    untouched = PrecomputedEncoder(
        (list("q" + str(i) for i in range(240)), queries),
        (list("d" + str(i) for i in range(240)), documents),
    )
    names = [f"q{i}" for i in range(240)], [f"d{i}" for i in range(240)]
    expected = RetrievalScorer("ndcg@10")(untouched, *names)
    assert adapter.base_score_ == pytest.approx(expected, abs=1e-6)
    assert adapter.history_[0]["standard_error"] < 0.05


@pytest.mark.parametrize(
    ("options", "n_adapters"),
    [
        ({}, N_FOLDS),
        ({"refit": False}, 1),
        ({"warm_start": True}, 1),
        ({"evaluation_steps": 1}, 1),
        ({"validation_fraction": 0.3}, 1),
    ],
    ids=str,
)
def test_when(rotated, runs, options, n_adapters):
    options = {**QUICK, "negatives": "batch", **options}
    AdapterFinetuner(None, **options).fit(*rotated)
    refitted = options.get("refit", True)
    assert len(runs) == n_adapters + refitted
    if n_adapters == N_FOLDS:
        assert n_trained(runs) == [192] * N_FOLDS + [240]


@pytest.mark.parametrize(("n_queries", "n_adapters"), [(19, 1), (20, N_FOLDS)])
def test_few_queries_are_not_divided(rotated, runs, n_queries, n_adapters):
    queries, documents = (vectors[:n_queries] for vectors in rotated)
    AdapterFinetuner(None, negatives="batch", **QUICK).fit(queries, documents)
    assert len(runs) in (n_adapters, n_adapters + 1)


def test_many_queries_hold_out_a_tenth(rotated, runs, monkeypatch):
    monkeypatch.setattr(AdapterFinetuner, "_most_in_folds", 239)
    AdapterFinetuner(None, negatives="batch", **QUICK).fit(*rotated)
    assert n_trained(runs)[0] == 120  # half, as 300 are wanted


def test_an_encoder_that_learns_is_fitted_once(static_model, pairs, runs):
    encoder = EmbeddingFinetuner(static_model, epochs=1, validation_fraction=None)
    AdapterFinetuner(encoder, negatives="batch", **QUICK).fit(*pairs)
    assert len(runs) <= 2


@pytest.mark.parametrize("adapter", ["linear", "low_rank", "mlp", Scaled])
def test_every_adapter_learns(rotated, adapter):
    queries, documents = rotated
    finetuner = AdapterFinetuner(
        None, adapter=adapter, learning_rate=3e-3, epochs=30, random_state=0
    ).fit(queries[:200], documents[:200])
    assert finetuner.validation_score_ > finetuner.base_score_ + 0.05
    again = AdapterFinetuner(
        None, adapter=adapter, learning_rate=3e-3, epochs=30, random_state=0
    ).fit(queries[:200], documents[:200])
    np.testing.assert_array_equal(
        finetuner.transform(queries), again.transform(queries)
    )


def test_weights_grades_and_queries_without_an_answer(rotated):
    """What is weighed with 0 counts nowhere; a query without an answer trains."""
    queries, documents = rotated
    encoder = PrecomputedEncoder(
        ([f"q{i}" for i in range(240)], queries),
        ([f"d{i}" for i in range(240)], documents),
    )
    X = [f"q{i}" for i in range(240)]
    y = [{f"d{i}": 2, f"d{(i + 1) % 240}": 1} for i in range(240)]
    y[3] = {"d3": 0}
    weights = np.arange(240) % 4 / 2.0
    fitted = AdapterFinetuner(encoder, **QUICK).fit(X, y, weights)
    kept = np.flatnonzero(weights)
    rows = RetrievalScorer("ndcg@10", corpus=[f"d{i}" for i in range(240)])
    expected = rows(
        encoder,
        [X[i] for i in kept if i != 3],
        [y[i] for i in kept if i != 3],
        sample_weight=weights[[i for i in kept if i != 3]],
    )
    assert fitted.base_score_ == pytest.approx(expected, abs=1e-6)


def test_class_labels(rotated):
    X, _ = rotated
    labels = np.argmax(X[:, :4], axis=1)
    finetuner = AdapterFinetuner(None, side="both", **QUICK).fit(X, labels)
    assert finetuner.base_score_ is not None


def test_patience(rotated):
    """Over all queries three evaluations without gain are enough."""
    queries, documents = rotated
    options = {"learning_rate": 1e-12, "weight_decay": 0.0, "negatives": "batch"}
    with pytest.warns(UserWarning, match="did not help"):
        few = AdapterFinetuner(None, **options).fit(queries, documents)
    assert len(few.history_) == 1 + 3
    with pytest.warns(UserWarning, match="did not help"):
        one = AdapterFinetuner(None, validation_fraction=0.2, **options)
        one.fit(queries, documents)
    assert len(one.history_) == 1 + 20


@pytest.mark.parametrize("seed", range(4))
def test_weights_draw_more_batches_for_one_adapter_than_for_another(rotated, seed):
    """Which then ends some steps before it."""
    queries, documents = (vectors[:90] for vectors in rotated)
    weights = np.random.RandomState(seed).gamma(0.5, size=90)
    options = {"loss": "triplet", "batch_size": 2, "epochs": 6, "random_state": seed}
    adapter = AdapterFinetuner(None, n_iter_no_change=None, **options)
    adapter.fit(queries, documents, weights)
    assert adapter.n_iter_ > 6
    assert len(adapter.history_) >= 6
