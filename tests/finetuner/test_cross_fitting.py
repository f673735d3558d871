"""validation_fraction="auto": of few queries each is held out once."""

import warnings

import numpy as np
import pytest
import torch

from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
)
from skembft._adapter.trainer import AdapterTrainer
from skembft._adapter.training import AdapterTraining
from skembft._finetuner import validation
from skembft.exceptions import NoGainWarning
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
    init = AdapterTraining.__init__

    def watched(self, settings, loss_name, encoded, *args):
        made.append(encoded)
        init(self, settings, loss_name, encoded, *args)

    monkeypatch.setattr(AdapterTraining, "__init__", watched)
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
    init = AdapterTraining.__init__
    split = AdapterTrainer.split

    def told(self, settings, loss_name, encoded, negatives, rng, epochs):
        seeds.append(rng.get_state()[1][0])
        init(self, settings, loss_name, encoded, negatives, rng, epochs)

    def with_seed(seed, self, settings, loss_name, encoded, negatives, rng, epochs):
        rng = np.random.RandomState(seed)
        init(self, settings, loss_name, encoded, negatives, rng, epochs)

    def watched(self, prepared, splits):
        folds.extend(splits)
        return split(self, prepared, splits)

    with monkeypatch.context() as patch:
        patch.setattr(AdapterTraining, "__init__", told)
        patch.setattr(AdapterTrainer, "split", watched)
        finetuner = AdapterFinetuner(None, **options)
        finetuner.fit(queries, documents, corpus=documents)
    together = [entry["ndcg@10"] for entry in finetuner.history_]
    alone, sizes = [], []
    for seed, (train, held_out) in zip(seeds, folds, strict=False):
        monkeypatch.setattr(
            AdapterTraining, "__init__", lambda *args, seed=seed: with_seed(seed, *args)
        )
        one = AdapterFinetuner(None, **{**options, "interpolation": None}).fit(
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


def test_an_encoder_that_learns_is_not_fitted_for_folds(
    static_model, pairs, runs, monkeypatch
):
    """But with and without what is held out, as ever."""
    fits = []
    fit = EmbeddingFinetuner.fit

    def counted(self, X, y, *args, **kwargs):
        fits.append(len(X))
        return fit(self, X, y, *args, **kwargs)

    monkeypatch.setattr(EmbeddingFinetuner, "fit", counted)
    encoder = EmbeddingFinetuner(static_model, epochs=1, validation_fraction=None)
    AdapterFinetuner(encoder, negatives="batch", **QUICK).fit(*pairs)
    assert len(runs) <= 2 and len(fits) == 2
    assert fits[0] < fits[1] == len(pairs[0])


@pytest.mark.parametrize("adapter", ["linear", "low_rank", "mlp", Scaled])
def test_every_adapter_learns(rotated, adapter):
    queries, documents = rotated
    finetuner, again = (
        AdapterFinetuner(
            None,
            adapter=adapter,
            negatives="batch",
            learning_rate=3e-3,
            epochs=30,
            random_state=0,
        ).fit(queries[:200], documents[:200])
        for _ in range(2)
    )
    assert finetuner.validation_score_ > finetuner.base_score_ + 0.05
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
    untouched = AdapterFinetuner(
        None, side="both", learning_rate=1e-12, validation_fraction=None, **QUICK
    ).fit(X, labels)
    expected = untouched.score(X, labels)  # every query finds all others of its class
    assert finetuner.base_score_ == pytest.approx(expected, abs=1e-6)


def test_patience(rotated):
    """Over all queries three evaluations without gain are enough, of enough steps."""
    queries, documents = rotated
    options = {"learning_rate": 1e-12, "weight_decay": 0.0, "negatives": "batch"}
    with pytest.warns(UserWarning, match="did not help"):
        few = AdapterFinetuner(None, batch_size=32, **options).fit(queries, documents)
    assert len(few.history_) == 1 + 3
    with pytest.warns(UserWarning, match="did not help"):
        steps = AdapterFinetuner(None, **options).fit(queries, documents)
    assert len(steps.history_) == 1 + 8  # of two steps each
    with pytest.warns(UserWarning, match="did not help"):
        one = AdapterFinetuner(None, validation_fraction=0.2, **options)
        one.fit(queries, documents)
    assert len(one.history_) == 1 + 20


@pytest.mark.parametrize("seed", range(4))
def test_weights_draw_more_batches_for_one_adapter_than_for_another(
    rotated, seed, monkeypatch
):
    """All are evaluated together, at the end of every epoch."""
    queries, documents = (vectors[:90] for vectors in rotated)
    weights = np.random.RandomState(seed).gamma(0.5, size=90)
    steps = []
    scores = AdapterTrainer.scores

    def watched(self, prepared, metrics):
        steps.append([adapter.step for adapter in self.adapters])
        return scores(self, prepared, metrics)

    monkeypatch.setattr(AdapterTrainer, "scores", watched)
    options = {"loss": "triplet", "batch_size": 2, "epochs": 6, "random_state": seed}
    adapter = AdapterFinetuner(
        None, n_iter_no_change=None, interpolation=None, **options
    )
    adapter.fit(queries, documents, weights)
    assert any(len(set(present)) > 1 for present in steps)
    history = adapter.history_
    assert [entry["epoch"] for entry in history] == list(range(7))
    assert (np.diff([entry["step"] for entry in history]) > 0).all()
    assert adapter.n_iter_ == history[-1]["step"] >= adapter.best_step_


@pytest.mark.parametrize("n_documents", [40, 4_000])
def test_a_large_corpus_is_ranked_for_fewer_queries(rotated, n_documents, runs):
    """Folds may cost what the epochs of five adapters cost."""
    queries, documents = rotated
    queries = np.concatenate([queries, -queries])
    documents = np.concatenate([documents, -documents])
    more = np.random.RandomState(0).normal(size=(n_documents, queries.shape[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "_CHEAP", 1)
        patch.setattr(AdapterTrainer, "pair_cost", 500)
        AdapterFinetuner(None, negatives="batch", **QUICK).fit(
            queries, documents, corpus=more.astype(np.float32)
        )
    expected = N_FOLDS if n_documents == 40 else 1
    assert len(runs) in (expected, expected + 1)


@pytest.mark.parametrize(
    ("options", "judged"),
    [
        # without the last query every document is relevant to all others
        ({"loss": "triplet"}, [{"d0": 1}] * 29 + [{"d1": 1}]),
        # two grades, which the loss needs, has one query only
        ({"loss": "margin_mse"}, [{"d0": 1, "d1": 1}] * 29 + [{"d0": 2, "d1": 1}]),
    ],
    ids=["triplet", "margin_mse"],
)
def test_what_a_single_query_teaches_is_in_no_fold(rotated, options, judged, runs):
    queries, documents = rotated
    X = [f"q{i}" for i in range(30)]
    encoder = PrecomputedEncoder((X, queries[:30]), (["d0", "d1"], documents[:2]))
    for seed in range(10):  # until the query is in training
        finetuner = AdapterFinetuner(
            encoder, **{**QUICK, **options, "random_state": seed}
        )
        try:
            finetuner.fit(X, judged)
        except ValueError as error:
            assert "validation_fraction" in str(error)
            continue
        assert len(runs) <= 2
        return
    pytest.fail("no seed has left the query in training")


def test_own_documents_in_some_folds_only(rotated):
    """Three queries are documents: two folds at least have none."""
    queries, documents = rotated
    X = [f"q{i}" for i in range(100)]
    y = [f"d{i}" for i in range(100)]
    encoder = PrecomputedEncoder(
        (X, queries[:100]), (y + X[:3], np.concatenate([documents[:100], queries[:3]]))
    )
    adapter = AdapterFinetuner(encoder, exclude_self=True, **QUICK)
    moved = CorpusFinetuner(encoder, exclude_self=True, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*none of the")
        adapter.fit(X, y, corpus=X[:3])
        moved.fit(X + X[:50], y + y[1:51], corpus=X[:3])
    with pytest.warns(UserWarning, match="none of the 100 queries is the same"):
        adapter.fit(X, y)


@pytest.mark.parametrize(
    ("options", "advice"),
    [({}, "label more"), ({"validation_fraction": 0.5}, "larger validation_fraction")],
)
def test_what_to_do_about_few_queries(rotated, options, advice):
    queries, documents = (vectors[:25] for vectors in rotated)
    adapter = AdapterFinetuner(None, learning_rate=1e-12, **{**QUICK, **options})
    with pytest.warns(NoGainWarning, match=advice):
        adapter.fit(queries, documents)


@pytest.mark.parametrize("fraction", ["auto", 0.3])
def test_an_untouched_projection_is_that_of_all_data(rotated, fraction):
    options = {
        "adapter_params": {"output_dim": 6},
        "side": "both",
        "learning_rate": 1e-30,
        "weight_decay": 0.0,
    }
    queries, documents = (vectors[:100] for vectors in rotated)
    options = {**QUICK, **options}
    with pytest.warns(NoGainWarning):
        kept = AdapterFinetuner(None, validation_fraction=fraction, **options)
        kept.fit(queries, documents)
    whole = AdapterFinetuner(None, validation_fraction=None, **options)
    whole.fit(queries, documents)
    np.testing.assert_allclose(
        kept.transform(queries), whole.transform(queries), atol=1e-6
    )
