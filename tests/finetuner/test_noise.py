"""What validation keeps: no more of what was learnt than is beyond its own noise."""

import json
import warnings

import numpy as np
import pytest

from skembft import AdapterFinetuner, CorpusFinetuner, EmbeddingFinetuner
from skembft._data.retrieval_data import RetrievalData
from skembft._finetuner.chance import LEVEL
from skembft._finetuner.monitor import Monitor
from skembft._finetuner.validation import hold_out
from skembft.exceptions import NoGainWarning

RNG = np.random.RandomState(0)


def monitor(before, *after, weights=None):
    """A monitor that has seen evaluations with these values of the queries."""
    values = iter([before, *after])
    watch = Monitor(
        "ndcg@10",
        None,
        lambda: {"ndcg@10": np.asarray(next(values), dtype=float)},
        lambda: "state",
        lambda: None,
        "",
        1,
        weights,
        False,
    )
    watch.start()
    for step, _ in enumerate(after, 1):
        watch.update(step, 1.0, 0.1)
    return watch


def is_clear(before, *after):
    return monitor(before, *after).chance.p_value < LEVEL


@pytest.mark.parametrize("weights", [None, RNG.rand(10)])
@pytest.mark.parametrize("n_evaluations", [1, 2, 40])
def test_chance_is_that_of_all_signs(n_evaluations, weights):
    """Of ten queries there are 1,024 assignments of signs: all of them, by numpy."""
    signs = 1 - 2 * ((np.arange(1024)[:, None] >> np.arange(10)) & 1)
    for shift in np.linspace(-0.05, 0.15, 5):
        gains = shift + 0.15 * RNG.normal(size=(n_evaluations, 10))
        gains[:, 3] = 0  # a query that nothing changes
        shares = gains if weights is None else gains * weights
        ratios = signs @ (shares.T / np.sqrt((shares**2).sum(axis=1)))
        largest = np.maximum(ratios[0].max(), 0)  # the first signs are the true ones
        p_value = (ratios.max(axis=1).clip(0) >= largest - 1e-9).mean()
        watch = monitor(np.ones(10), *(1 + gains), weights=weights)
        error = np.sqrt(p_value * (1 - p_value) / 1000)
        assert abs(watch.chance.p_value - p_value) <= 4 * error + 1e-3


def test_chance_is_the_same_in_every_block(monkeypatch):
    gains = RNG.normal(0.05, size=(3, 500))
    whole = monitor(np.zeros(500), *gains).chance
    monkeypatch.setattr("skembft._finetuner.chance._BLOCK", 64)
    parts = monitor(np.zeros(500), *gains).chance
    assert parts.largest == pytest.approx(whole.largest)
    assert abs(parts.p_value - whole.p_value) < 0.08  # other signs


def test_false_gains_are_as_seldom_as_the_level_says():
    """Of 200 trainings without effect, over 30 evaluations like each other."""
    p_values = []
    for _ in range(200):
        common = RNG.normal(size=60)
        gains = common + RNG.normal(size=(30, 60))
        p_values.append(monitor(np.zeros(60), *gains).chance.p_value)
    for level in (0.1, 0.3, 0.5):
        share = np.mean(np.array(p_values) < level)
        assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / 200)


def test_what_few_queries_cannot_tell():
    assert not is_clear([0.0], [1.0])
    assert not is_clear([0.0, 0.0], [1.0, 0.0])
    assert is_clear([0.0, 0.5], [0.5, 1.0])  # both gain
    assert not is_clear([0.0, 0.5], [1.0, 0.0])
    assert not is_clear(np.zeros(100), np.eye(100)[0])  # one of a hundred
    assert not is_clear(np.zeros(100), np.zeros(100))
    assert not is_clear(np.zeros(100), np.full(100, -1.0))


def test_one_gain_among_many_evaluations_is_chance():
    """What is clear alone is not when forty others that differ were tried."""
    zeros, gain = np.zeros(20), np.repeat([1.0, -1.0, 0.0], [7, 3, 10])
    assert is_clear(zeros, gain)
    assert is_clear(zeros, *[gain] * 40)  # the same one again
    others = np.random.default_rng(0).permuted(np.tile(gain, (40, 1)), axis=1)
    others *= -np.sign(others.sum(axis=1, keepdims=True))
    assert not is_clear(zeros, gain, *others)


def test_why_is_told():
    before, after = np.zeros(40), np.eye(40)[0]
    watch = monitor(before, after)
    told = r"gain of 0.0250 .* chance, p = 0.\d\d: 1 of 40 queries changed"
    with pytest.warns(NoGainWarning, match=told):
        watch.finish(keep=False)
    assert (watch.best_step, watch.best_epoch) == (0, 0.0)
    assert watch.best_score == watch.base_score == 0
    with pytest.warns(NoGainWarning, match="no evaluation beat .* over 40 queries"):
        monitor(before, before).finish()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor(before, before + 1.0).finish()


def test_chance_goes_on_where_it_was():
    gains = RNG.normal(0.1, size=(4, 30))
    whole, part = monitor(np.zeros(30), *gains), monitor(np.zeros(30), *gains[:2])
    rest = monitor(np.zeros(30))
    rest.restore(json.loads(json.dumps(part.progress())), "state")
    for gain in gains[2:]:
        rest.chance.add(gain, None)
    assert rest.chance.p_value == whole.chance.p_value < 1


def toy(n, signal, seed):
    """Queries that a matrix turns to their documents, or that have none of theirs."""
    rng = np.random.RandomState(seed)
    documents = rng.normal(size=(n, 12))
    queries = documents @ rng.normal(0.1, 0.3, size=(12, 12)) + documents / 2
    if not signal:
        rng.shuffle(documents)
    return queries, documents


def test_adapters_learn_nothing_from_noise():
    kept, whole = [], []
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
        else:
            whole.append(finetuner.interpolation_ == 1)
    # three in four before there was a test, and all of them whole
    assert np.mean(kept) <= 0.65 and np.mean(whole) <= 0.25


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
