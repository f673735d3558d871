"""What validation keeps: no more of what was learnt than is beyond its own noise."""

import warnings

import numpy as np
import pytest

from skembft import AdapterFinetuner, CorpusFinetuner, EmbeddingFinetuner
from skembft._data.retrieval_data import RetrievalData
from skembft._finetuner.monitor import Monitor
from skembft._finetuner.validation import hold_out
from skembft.exceptions import NoGainWarning

RNG = np.random.RandomState(0)


def monitor(before, after, weights=None):
    """A monitor that has seen two evaluations with these values of the queries."""
    values = iter([before, after])
    watch = Monitor(
        "ndcg@10",
        None,
        lambda: {"ndcg@10": np.asarray(next(values), dtype=float)},
        lambda: "state",
        lambda: None,
        "",
        1,
        weights,
    )
    watch.start()
    watch.update(1, 1.0, 0.1)
    return watch


@pytest.mark.parametrize("weights", [None, RNG.rand(50)])
def test_a_gain_is_clear_by_a_paired_test(weights):
    """By numpy's own standard deviation, or by a sum over weighted queries."""
    before = RNG.rand(50)
    for shift in np.linspace(0.01, 0.1, 10):
        gains = shift + 0.15 * RNG.normal(size=50)
        share = np.full(50, 1 / 50) if weights is None else weights / weights.sum()
        mean = (share * gains).sum()
        if weights is None:
            error = gains.std(ddof=1) / np.sqrt(50)
        else:
            error = np.sqrt(50 / 49 * (share**2 * (gains - mean) ** 2).sum())
        watch = monitor(before, before + gains, weights)
        assert watch.is_clear() == (mean > 1.645 * error)


def test_what_few_queries_cannot_tell():
    assert not monitor([0.0], [1.0]).is_clear()
    assert not monitor([0.0, 0.0], [1.0, 0.0]).is_clear()
    assert monitor([0.0, 0.5], [0.5, 1.0]).is_clear()  # both gain the same
    assert not monitor(np.zeros(100), np.eye(100)[0]).is_clear()  # one of a hundred


def test_why_is_told():
    before, after = np.zeros(40), np.eye(40)[0]
    watch = monitor(before, after)
    with pytest.warns(NoGainWarning, match=r"gain of 0.0250 ± 0.0250 .* only 1 of 40"):
        watch.finish()
    assert (watch.best_step, watch.best_epoch) == (0, 0.0)
    assert watch.best_score == watch.base_score == 0
    with pytest.warns(NoGainWarning, match="no evaluation beat .* over 40 queries"):
        monitor(before, before).finish()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor(before, before + 1.0).finish()


def toy(n, signal, seed):
    """Queries that a matrix turns to their documents, or that have none of theirs."""
    rng = np.random.RandomState(seed)
    documents = rng.normal(size=(n, 12))
    queries = documents @ rng.normal(0.1, 0.3, size=(12, 12)) + documents / 2
    if not signal:
        rng.shuffle(documents)
    return queries, documents


def test_adapters_learn_nothing_from_noise():
    kept = []
    for seed in range(20):
        finetuner = AdapterFinetuner(None, epochs=10, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoGainWarning)
            finetuner.fit(*toy(80, False, seed))
        kept.append(finetuner.best_step_ > 0)
        if not kept[-1]:
            assert finetuner.interpolation_ == 0
            assert finetuner.validation_score_ == finetuner.base_score_
            weight = finetuner.weights_["query"]["weight"]
            np.testing.assert_array_equal(weight, np.eye(12))
    assert np.mean(kept) <= 0.2  # half of them before there was a test


def test_adapters_learn_from_signal():
    for seed in range(5):
        finetuner = AdapterFinetuner(None, epochs=15, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("error", NoGainWarning)
            finetuner.fit(*toy(200, True, seed))
        assert finetuner.interpolation_ == 1


def test_documents_do_not_move_by_noise():
    rng = np.random.RandomState(0)
    documents = rng.normal(size=(30, 12)).astype(np.float32)
    vectors = {f"d{i}": row for i, row in enumerate(documents)}
    vectors |= {f"q{i}": row for i, row in enumerate(rng.normal(size=(90, 12)))}
    from skembft import PrecomputedEncoder

    X = [f"q{i}" for i in range(90)]
    y = [f"d{i}" for i in rng.randint(30, size=90)]
    kept = []
    for seed in range(20):
        finetuner = CorpusFinetuner(PrecomputedEncoder(vectors), random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoGainWarning)
            kept.append(finetuner.fit(X, y).gamma_ > 0)
    assert np.mean(kept) <= 0.25


def test_a_whole_model_is_kept_as_it_was(static_model, pairs):
    """The loss of a model that learns next to nothing falls; no query changes."""
    queries, documents = pairs
    finetuner = EmbeddingFinetuner(
        static_model,
        learning_rate=1e-4,
        validation_fraction=0.25,
        evaluation_steps=0,
        random_state=0,
    )
    with pytest.warns(NoGainWarning):
        finetuner.fit(queries, documents)
    assert finetuner.best_step_ == 0 and finetuner.interpolation_ == 0
    untouched = EmbeddingFinetuner(static_model, epochs=1, learning_rate=1e-12)
    untouched.fit(queries, documents)
    np.testing.assert_allclose(
        finetuner.transform(queries), untouched.transform(queries), atol=1e-6
    )


@pytest.mark.parametrize(
    ("n", "fraction", "refit", "expected"),
    [
        (2000, "auto", True, 300),
        (5000, "auto", True, 500),
        (400, "auto", True, 200),
        (20, "auto", True, 10),
        (19, "auto", True, 2),
        (3, "auto", True, 1),
        (400, "auto", False, 40),
        (400, 0.1, True, 40),
        (400, 0.9, True, 360),
    ],
)
def test_how_many_queries_are_held_out(n, fraction, refit, expected):
    data = _Queries(n)
    rng = np.random.RandomState(0)
    train, held_out = hold_out(data, fraction, rng, 10_000, refit=refit)
    assert len(held_out) == expected
    np.testing.assert_array_equal(np.sort([*train, *held_out]), np.arange(n))


class _Queries(RetrievalData):
    """As much of the data as a split reads."""

    def __init__(self, n):
        object.__setattr__(self, "queries", [str(i) for i in range(n)])

    @property
    def answerable(self):
        return np.arange(len(self.queries))
