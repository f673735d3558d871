"""Comparisons with error bars, and displays."""

import pickle
import subprocess
import sys
import tracemalloc
import warnings

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.inspection import (
    QueryGainDisplay,
    RetrievalCurveDisplay,
    SearchResultsDisplay,
    TrainingHistoryDisplay,
    compare_retrieval,
)
from skembft.inspection._statistics import (
    bootstrap_interval,
    randomisation_test,
)
from skembft.metrics import RetrievalScorer

pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def problem():
    """Ids with vectors, an encoder before and a better one after, and a corpus."""
    rng = np.random.default_rng(0)
    documents = {f"d{i}": v for i, v in enumerate(rng.normal(size=(80, 6)))}
    names = list(documents)
    queries = {f"q{i}": documents[f"d{i}"] for i in range(40)}
    noise = {q: rng.normal(size=6) for q in queries}
    before = PrecomputedEncoder(
        {q: v + 1.4 * noise[q] for q, v in queries.items()}, documents
    )
    after = PrecomputedEncoder(
        {q: v + 0.9 * noise[q] for q, v in queries.items()}, documents
    )
    relevant = [{f"d{i}": 2, f"d{i + 40}": 1} for i in range(40)]
    relevant[7] = {"d7": 0}  # nothing relevant: left out
    return before, after, list(queries), relevant, names


# compare_retrieval


def test_a_metric_does_not_depend_on_the_others(problem):
    alone = {
        name: compare_retrieval(*problem, name, random_state=0).rows[0]
        for name in ("ndcg@10", "mrr@10", "recall@5")
    }
    for names in (["mrr@10", "recall@5", "ndcg@10"], ["ndcg@10", "mrr@10"]):
        rows = compare_retrieval(*problem, names, random_state=0).rows
        assert rows == [alone[name] for name in names]


def found_at(ranks):
    """Of every query the retriever that finds its only document at a rank."""
    n = len(ranks)
    documents = {f"d{i}": v for i, v in enumerate(np.eye(n * 4))}
    queries = {}
    for i, rank in enumerate(ranks):
        vector = np.full(n * 4, -1.0)
        vector[4 * i : 4 * i + 4] = [5.0, 4.0, 3.0, 2.0]
        vector[[4 * i, 4 * i + rank - 1]] = vector[[4 * i + rank - 1, 4 * i]]
        queries[f"q{i}"] = vector
    return PrecomputedEncoder(queries, documents)


def ranks_compared(before, after, metrics):
    n = len(before)
    return compare_retrieval(
        found_at(before),
        found_at(after),
        [f"q{i}" for i in range(n)],
        [f"d{4 * i}" for i in range(n)],
        [f"d{i}" for i in range(4 * n)],
        metrics,
        random_state=0,
    )


@pytest.mark.parametrize(
    "before, after",
    [([2], [1]), ([1], [1]), ([2] * 6, [1] * 6), ([4, 1] * 3, [4, 1] * 3)],
)
def test_queries_that_gain_the_same_tell_no_interval(before, after):
    comparison = ranks_compared(before, after, ["mrr@10", "recall@4"])
    row = comparison.rows[0]
    assert row["difference"] == np.mean(1 / np.array(after) - 1 / np.array(before))
    assert np.isnan(row["low"]) and np.isnan(row["high"])
    n_swaps = 2 ** sum(a != b for a, b in zip(before, after, strict=True))
    assert row["p_value"] == min(1, 2 / n_swaps)
    assert comparison.table["low"].isna().all()
    line, word = repr(comparison).splitlines()[2], repr(comparison).splitlines()[-1]
    assert "  –  " in line and "nan" not in repr(comparison)
    assert word.startswith("–: no interval") and word in comparison._repr_html_()
    assert "<td>–</td>" in comparison._repr_html_()


def test_a_metric_without_an_interval_beside_one_that_has_it():
    comparison = ranks_compared([2, 1, 3, 2], [1, 1, 2, 2], ["mrr@10", "recall@4"])
    first, second = comparison.rows
    assert first["low"] < first["difference"] < first["high"]
    assert np.isnan(second["low"]) and second["difference"] == 0
    assert repr(comparison).count("…") == 1


def test_equal_gains_are_equal_in_spite_of_rounding():
    difference = np.array([2, 3] * 5) / 3 - np.array([1, 2] * 5) / 3
    assert np.ptp(difference) > 0  # in floating point
    assert np.isnan(bootstrap_interval(difference, 0.95, np.random.default_rng(0))[0])


@pytest.mark.parametrize("level, shown", [(0.95, "95 %"), (0.999, "99.9 %")])
def test_confidence_level_is_shown(problem, level, shown):
    before, after, *data = problem
    comparison = compare_retrieval(
        before, after, *data, "mrr@10", confidence_level=level
    )
    assert f" {shown} interval" in repr(comparison)


@pytest.mark.parametrize("ks", [[5, 1, 5], np.array([1, 5])])
def test_cut_offs_of_the_curve(problem, ks):
    before, _, *data = problem
    display = RetrievalCurveDisplay.from_estimator(
        before, data[0], data[1], corpus=data[2], ks=ks
    )
    assert display.ks == [1, 5]
    with pytest.raises(ValueError, match="pass metric='recall', and the cut-offs"):
        RetrievalCurveDisplay.from_estimator(before, *data[:2], metric="recall@5")
    with pytest.raises(ValueError, match="ks is empty"):
        RetrievalCurveDisplay.from_estimator(before, *data[:2], ks=[])


def test_values_are_those_of_the_scorer(problem):
    before, after, X, y, corpus = problem
    names = ["ndcg@10", "R@5"]
    comparison = compare_retrieval(before, after, X, y, corpus, names)
    scorer = RetrievalScorer(names, corpus=corpus)
    first, second = scorer(before, X, y), scorer(after, X, y)
    for row in comparison.rows:
        name = row["metric"]
        assert row["before"] == first[name] and row["after"] == second[name]
        assert row["difference"] == pytest.approx(second[name] - first[name])
        gains = comparison.after[name] - comparison.before[name]
        np.testing.assert_array_equal(comparison.gains(name), gains)
        assert row["helped"] == (gains > 0).sum() and row["hurt"] == (gains < 0).sum()
        assert row["helped"] + row["hurt"] + row["unchanged"] == 39
        assert row["low"] < row["difference"] < row["high"]
    assert len(comparison.queries) == 39 and "q7" not in comparison.queries
    assert comparison.n_documents == 80


def test_table_is_a_data_frame(problem):
    comparison = compare_retrieval(*problem)
    table = comparison.table
    assert isinstance(table, pd.DataFrame)
    assert list(table.index) == [row["metric"] for row in comparison.rows]
    assert table.loc["ndcg@10", "p_value"] == comparison.rows[0]["p_value"]


def test_table_without_pandas_is_a_list(problem, monkeypatch):
    comparison = compare_retrieval(*problem, "mrr@10")
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert comparison.table == comparison.rows


def test_best_and_worst_queries(problem):
    before, after, X, y, corpus = problem
    comparison = compare_retrieval(before, after, X, y, corpus, "ndcg@10")
    gains = comparison.gains()
    best, worst = comparison.best(3), comparison.worst(100)
    np.testing.assert_allclose(
        [change.gain for change in best], np.sort(gains)[::-1][:3]
    )
    assert [change.gain for change in worst] == sorted(gains[gains < 0])
    change = best[0]
    i = X.index(change.query)
    assert change.relevant == [f"d{i}", f"d{i + 40}"]
    for found, encoder in (
        (change.documents_before, before),
        (change.documents_after, after),
    ):
        similarity = np.array(
            [
                np.dot(encoder.transform([X[i]])[0], v) / np.linalg.norm(v)
                for v in encoder.transform_documents(corpus)
            ]
        )
        order = [corpus[j] for j in np.argsort(-similarity)[:10]]
        assert [document for document, _ in found] == order
        assert [grade for _, grade in found] == [y[i].get(d, 0) for d in order]


def test_equal_retrievers(problem):
    before, _, X, y, corpus = problem
    comparison = compare_retrieval(before, before, X, y, corpus)
    for row in comparison.rows:
        assert row["difference"] == 0
        assert (row["p_value"], row["helped"], row["hurt"]) == (1, 0, 0)
    assert comparison.best() == comparison.worst() == []


def test_random_state(problem):
    one, same, other = (
        compare_retrieval(*problem, "ndcg@10", random_state=seed).rows[0]
        for seed in (0, 0, 1)
    )
    assert one == same
    assert one["low"] != other["low"]


def test_texts_names_pipelines_and_searches(static_model, pairs):
    queries, documents = pairs
    search = GridSearchCV(
        make_pipeline(
            FunctionTransformer(list),
            AdapterFinetuner(static_model, epochs=2, random_state=0),
        ),
        {"adapterfinetuner__side": ["query", "both"]},
        cv=KFold(2),
    ).fit(queries, documents)
    comparison = compare_retrieval(static_model, search, queries, documents)
    scorer = RetrievalScorer("ndcg@10")
    assert comparison.rows[0]["before"] == scorer(
        SentenceEncoder(static_model), queries, documents
    )
    assert comparison.rows[0]["after"] == scorer(search, queries, documents)


def test_vectors_with_class_labels():
    rng = np.random.default_rng(0)
    X, labels = rng.normal(size=(40, 5)), [i % 4 for i in range(40)]
    fits = [
        AdapterFinetuner(None, epochs=1, learning_rate=rate, random_state=0)
        for rate in (1e-3, 0.3)
    ]
    one, two = (fit.fit(X, labels) for fit in fits)
    comparison = compare_retrieval(one, two, X, labels)
    assert comparison.queries.shape == (40, 5)
    for change in comparison.best(1) + comparison.worst(1):
        assert len(change.relevant) == 9
        np.testing.assert_array_equal(comparison.queries[change.index], change.query)
    assert "40 queries" in comparison._repr_html_()


@pytest.mark.parametrize("target", ["labels", "paired"])
@pytest.mark.parametrize("container", [np.asarray, pd.DataFrame])
def test_before_are_the_vectors_as_they_are(target, container):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 5)), [i % 4 for i in range(40)]
    if target == "paired":
        y = X @ rng.normal(size=(5, 5))
    options = {"side": "both", "learning_rate": 0.1, "validation_fraction": None}
    after = AdapterFinetuner(None, epochs=3, **options).fit(container(X), y)
    untouched = AdapterFinetuner(None, epochs=1, **options).fit(container(X), y)
    untouched.weights_ = {"query": {}, "document": {}}
    found = compare_retrieval(None, after, container(X), y, random_state=0)
    expected = compare_retrieval(untouched, after, container(X), y, random_state=0)
    assert found.rows == expected.rows
    assert found.rows[0]["before"] != found.rows[0]["after"]


def test_before_is_the_encoder_of_after(static_model, pairs):
    adapter = AdapterFinetuner(static_model, epochs=3, random_state=0).fit(*pairs)
    moved = CorpusFinetuner(adapter, gamma=0.1, random_state=0).fit(*pairs)
    rest = {"metrics": ["mrr@10", "ndcg@3"], "random_state": 0}
    for after, before in (
        (adapter, static_model),
        (make_pipeline(FunctionTransformer(list), adapter), static_model),
        (FrozenEstimator(adapter), static_model),
        (moved, moved.encoder_),
    ):
        found = compare_retrieval(None, after, *pairs, **rest)
        assert found.rows == compare_retrieval(before, after, *pairs, **rest).rows


def test_before_needs_an_encoder(static_model, problem, pairs):
    with pytest.raises(TypeError, match="PrecomputedEncoder has no encoder: pass"):
        compare_retrieval(None, *problem[1:])
    with pytest.raises(NotFittedError):
        compare_retrieval(None, AdapterFinetuner(static_model), *pairs)


def test_exclude_self_is_that_of_the_finetuners(static_model):
    vectors = {"a": [1, 0], "b": [0.9, 0.1], "c": [0, 1], "A": [1, 0]}
    index = PrecomputedEncoder(vectors)
    options = {"epochs": 1, "validation_fraction": None, "random_state": 0}
    data = ["a", "c"], ["b", "b"]

    def found(before, after, **options):
        corpus = ["c", "a", "A"]
        comparison = compare_retrieval(
            before, after, ["a"], ["b"], corpus, "mrr@10", **options
        )
        return [comparison.rows[0][side] for side in ("before", "after")]

    for own, value in ((False, 1 / 3), (True, 0.5), ({"a": "A"}, 0.5)):
        adapter = AdapterFinetuner(index, exclude_self=own, **options).fit(*data)
        adapter.weights_ = {"query": {}}
        for before in (None, index, adapter):
            assert found(before, adapter) == [value, value]
        assert found(adapter, index) == [value, value]
        assert found(adapter, adapter, exclude_self=False) == [1 / 3, 1 / 3]
        assert found(index, index, exclude_self=own) == [value, value]
        if own is not False:
            other = AdapterFinetuner(index, **options).fit(*data)
            with pytest.raises(ValueError, match="exclude_self is False in before and"):
                found(other, adapter)
            assert found(other, adapter, exclude_self=own)[1] == value


def test_data_are_read_once(static_model, pairs):
    adapter = AdapterFinetuner(static_model, epochs=1).fit(*pairs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compare_retrieval(static_model, adapter, ["red0", ""], ["old0", "wet0"])
    assert sum("empty string" in str(w.message) for w in caught) == 1


def test_exclude_self():
    vectors = {"a": [1, 0], "b": [0.9, 0.1], "c": [0, 1]}
    index = PrecomputedEncoder(vectors)
    rows = [
        compare_retrieval(
            index, index, ["a"], ["b"], ["c", "a"], "mrr@10", exclude_self=exclude
        ).rows[0]["before"]
        for exclude in (False, True)
    ]
    assert rows == [0.5, 1.0]


def test_representations(problem):
    comparison = compare_retrieval(*problem, ["ndcg@10", "mrr@10"], random_state=0)
    text = repr(comparison)
    assert "39 queries, 80 documents" in text
    assert len(text.splitlines()) == 6
    assert f"{comparison.rows[0]['before']:.4f}" in text
    page = comparison._repr_html_()
    assert page.count("<tr>") == page.count("</tr>")
    assert comparison.best(1)[0].query in page


@pytest.mark.parametrize("swapped", [False, True])
def test_pipelines_that_merge_as_many_but_other_queries(swapped):
    vectors = np.eye(4)[[0, 0, 1, 1]]
    index = PrecomputedEncoder(
        (["A", "a", "B", "b"], vectors), (["x", "y", "z"], np.eye(4)[:3])
    )

    def replacing(old, new):
        def replaced(texts):
            return [text.replace(old, new) for text in texts]

        return make_pipeline(FunctionTransformer(replaced), index)

    sides = [replacing("A", "a"), replacing("B", "b")]
    before, after = sides[::-1] if swapped else sides
    data = ["A", "a", "B", "b"], ["x", "y", "z", "x"]
    for one, other in [(before, after), (index, after), (before, index)]:
        with pytest.raises(ValueError, match="do not see the same distinct queries"):
            compare_retrieval(one, other, *data)
        with pytest.raises(ValueError, match="do not see the same distinct queries"):
            QueryGainDisplay.from_estimator(other, *data, before=one)
    assert not QueryGainDisplay.from_estimator(before, *data, before=before).gains.any()


def test_html_is_escaped():
    evil = "<script>alert(1)</script>"
    before = PrecomputedEncoder({evil: [0, 1.0]}, {"a": [1, 0], "<b>": [0, 1]})
    after = PrecomputedEncoder({evil: [1, 0.0]}, {"a": [1, 0], "<b>": [0, 1]})
    page = compare_retrieval(before, after, [evil], ["a"], ["<b>"])._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "&lt;b&gt;" in page


def test_a_comparison_can_be_pickled(problem):
    comparison = compare_retrieval(*problem, "mrr@10")
    again = pickle.loads(pickle.dumps(comparison))
    assert again.rows == comparison.rows and repr(again) == repr(comparison)
    assert again.best(1) == comparison.best(1)


def test_bad_arguments(problem, static_model):
    before, after, X, y, corpus = problem
    with pytest.raises(ValueError, match="Did you mean 'ndcg@10'"):
        compare_retrieval(before, after, X, y, corpus, "ndgc@10")
    for level in (95, "95", 0.0, True):
        with pytest.raises(ValueError, match="'confidence_level' parameter.*must be a"):
            compare_retrieval(before, after, X, y, confidence_level=level)
    with pytest.raises(ValueError, match="n == -1, must be >= 0"):
        compare_retrieval(before, after, X, y, metrics="mrr@10").best(-1)
    with pytest.raises(NotFittedError):
        compare_retrieval(before, AdapterFinetuner(before), X, y)
    with pytest.raises(ValueError, match="'mrr@5' was not compared"):
        compare_retrieval(before, after, X, y, metrics="mrr@10").best(1, "mrr@5")
    lossy = make_pipeline(FunctionTransformer(lambda X: ["q0"] * len(X)), after)
    with pytest.raises(ValueError, match="do not see the same distinct queries"):
        compare_retrieval(before, lossy, X, y)


# the statistics


def by_scipy(difference, n_resamples):
    return stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        batch=500,
        rng=0,
    ).pvalue


def test_p_value_is_exact_for_few_queries():
    rng = np.random.default_rng(0)
    for n in (2, 5, 9):
        difference = rng.normal(0.4, 1, size=n).round(1)
        difference = difference[difference != 0]
        n = len(difference)
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        means = np.abs((signs * difference).mean(axis=1))
        expected = (means >= abs(difference.mean()) - 1e-12).mean()
        padded = np.concatenate([difference, np.zeros(4)])
        assert randomisation_test(padded, rng) == pytest.approx(expected)
        assert randomisation_test(padded, rng) == by_scipy(difference, np.inf)


def test_p_value_of_13_queries_is_exact_and_that_of_14_is_drawn():
    rng = np.random.default_rng(0)
    difference = rng.normal(0.4, 1, size=14)
    exact = [randomisation_test(difference[:13], rng) for _ in range(2)]
    assert exact[0] == exact[1] == by_scipy(difference[:13], np.inf)
    drawn = [randomisation_test(difference, rng) for _ in range(2)]
    assert drawn[0] != drawn[1]
    np.testing.assert_allclose(drawn, by_scipy(difference, np.inf), atol=0.02)


@pytest.mark.parametrize(
    "difference, p",
    [
        ([], 1),
        ([0.3], 1),
        ([0.0, -0.2, 0], 1),
        ([0.3, 0.3], 0.5),
        ([-0.3, -0.1], 0.5),
        ([0.3, -0.1], 1),
        ([0.5] * 6, 2 / 2**6),
        ([0.1, 0.2, -0.3], 1),  # 0 but for rounding: nothing is less extreme
    ],
)
def test_p_values_in_closed_form(difference, p):
    rng = np.random.default_rng(0)
    assert randomisation_test(np.array(difference, float), rng) == p


@pytest.mark.parametrize("n", [30, 500, 3001])
def test_p_value_of_many_queries_is_that_of_scipy(n):
    # of few distinct values: sums are often as extreme as what was found
    rng = np.random.default_rng(n)
    difference = np.sign(rng.normal(size=n)) * rng.choice([0.5, 1.0], size=n)
    difference += (0.5 * n**0.5 - difference.sum()) / n  # p near 0.5
    difference = difference.round(1)
    ours = randomisation_test(difference, rng, n_resamples=20_000)
    theirs = by_scipy(difference[difference != 0], 4000)
    error = np.sqrt(theirs * (1 - theirs) * (1 / 20_000 + 1 / 4000))
    assert 0.01 < theirs < 0.99 and abs(ours - theirs) < 4 * error


def test_p_value_is_never_0():
    rng = np.random.default_rng(0)
    assert randomisation_test(np.ones(5000), rng, n_resamples=99) == 0.01


def test_signs_of_many_queries_are_independent():
    # the sum of random signs has the variance of a normal approximation
    rng = np.random.default_rng(0)
    difference = np.append(rng.normal(size=20_003), 1.0)
    p = randomisation_test(difference, rng, n_resamples=4000)
    z = difference.sum() / np.sqrt((difference**2).sum())
    assert p == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.03)


def test_memory_of_the_statistics_is_bounded():
    difference = np.random.default_rng(0).normal(size=300_000)
    tracemalloc.start()
    try:
        randomisation_test(difference, np.random.default_rng(0), n_resamples=40)
        bootstrap_interval(difference, 0.95, np.random.default_rng(0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * difference.nbytes


def null_differences(rng, n_queries):
    """Differences of nDCG-like values of two systems that are equally good.

    Each query has a difficulty that both share; which system is which is chance.
    """
    relevant_rank = rng.geometric(0.25, size=(2, n_queries))
    values = np.where(relevant_rank <= 10, 1 / np.log2(relevant_rank + 1), 0)
    return values[0] - values[1]


def test_false_positives_of_the_randomisation_test():
    # 800 of the 5,000 simulations of the benchmark: ± 3 standard errors
    rng = np.random.default_rng(0)
    found = [
        randomisation_test(null_differences(rng, 50), rng, n_resamples=199)
        for _ in range(800)
    ]
    assert 0.027 <= np.mean(np.array(found) <= 0.05) <= 0.073


def test_coverage_of_the_bootstrap_interval():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        low, high = bootstrap_interval(
            null_differences(rng, 200), 0.95, rng, n_resamples=499
        )
        covered += low <= 0 <= high
    assert 0.92 <= covered / 600 <= 0.975


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "difference",
    [
        RNG.normal(0.1, 1, size=40),
        RNG.exponential(size=200) ** 2,
        np.repeat([0.0, 0.25, 1.0, -0.5], [300, 20, 9, 4]),
        # more distinct values than there are groups
        RNG.exponential(size=2000) ** 2,
        np.append(RNG.normal(0, 1e-3, size=1000), [1.0, 1.0, 0.7]),  # outliers
    ],
    ids=["normal", "skewed", "few values", "many values", "outliers"],
)
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_interval_is_that_of_scipy(difference, level):
    n_resamples = 40_000
    ours = bootstrap_interval(difference, level, np.random.default_rng(1), n_resamples)
    theirs = stats.bootstrap(
        (difference,),
        np.mean,
        confidence_level=level,
        method="BCa",
        n_resamples=n_resamples,
        batch=1000,
        rng=np.random.default_rng(2),
    )
    # quantiles of so many resamples have a standard error of 0.014 to 0.035
    np.testing.assert_allclose(
        ours, theirs.confidence_interval, atol=0.12 * theirs.standard_error
    )


def test_interval_of_two_queries():
    # means 0, 0.25 and 0.5, a quarter of the draws and more each
    interval = bootstrap_interval(np.array([0, 0.5]), 0.95, np.random.default_rng(0))
    assert interval == (0, 0.5)


@pytest.mark.parametrize("n", [2000, 6000, 200_000])
def test_interval_is_near_that_of_the_normal_distribution(n):
    rng = np.random.default_rng(0)
    difference = rng.normal(0.1, 1, size=n)
    low, high = bootstrap_interval(difference, 0.9, rng)
    expected = stats.norm.interval(
        0.9, difference.mean(), difference.std() / np.sqrt(n)
    )
    atol = 0.09 / np.sqrt(n)  # three standard errors of a quantile, and skewness
    np.testing.assert_allclose([low, high], expected, atol=atol)


# displays


def test_retrieval_curve(problem):
    before, after, X, y, corpus = problem
    display = RetrievalCurveDisplay.from_estimator(
        after, X, y, corpus=corpus, before=before, metric="ndcg", ks=[1, 5, 10]
    )
    assert list(display.scores) == ["before", "after"]
    names = ["ndcg@1", "ndcg@5", "ndcg@10"]
    expected = RetrievalScorer(names, corpus=corpus)(after, X, y)
    assert display.scores["after"] == list(expected.values())
    np.testing.assert_array_equal(
        display.lines_[1].get_ydata(), list(expected.values())
    )
    assert display.ax_.get_ylabel() == "ndcg@k"
    alone = RetrievalCurveDisplay.from_estimator(after, X, y, ks=[1])
    assert list(alone.scores) == ["PrecomputedEncoder"]


def test_query_gains(problem):
    before, after, X, y, corpus = problem
    display = QueryGainDisplay.from_estimator(
        after, X, y, before=before, corpus=corpus, metric="mrr@10"
    )
    comparison = compare_retrieval(before, after, X, y, corpus, "mrr@10")
    np.testing.assert_array_equal(display.gains, comparison.gains())
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    row = comparison.rows[0]
    assert labels[:2] == [f"{row['helped']} helped", f"{row['hurt']} hurt"]
    _, ax = plt.subplots()
    assert comparison.plot(ax=ax).ax_ is ax


def test_training_history(static_model, pairs):
    finetuner = AdapterFinetuner(
        static_model,
        negatives="random",
        validation_fraction=0.1,
        interpolation=None,
        epochs=4,
        learning_rate=0.05,
        random_state=0,
    ).fit(*pairs)
    display = TrainingHistoryDisplay.from_estimator(finetuner)
    assert display.metric == "ndcg@10"
    scores = [entry["ndcg@10"] for entry in finetuner.history_]
    np.testing.assert_array_equal(display.ax_.lines[0].get_ydata(), scores)
    star = display.ax_.lines[-1]
    assert star.get_ydata()[0] == finetuner.validation_score_
    assert star.get_xdata()[0] == finetuner.best_epoch_
    losses = [entry["loss"] for entry in finetuner.history_[1:]]
    np.testing.assert_array_equal(display.loss_ax_.lines[0].get_ydata(), losses)
    assert finetuner.history_.plot("mrr@10").metric == "mrr@10"
    with pytest.raises(ValueError, match="history_ has no 'mrr@11'"):
        finetuner.history_.plot("mrr@11")
    with pytest.raises(NotFittedError):
        TrainingHistoryDisplay.from_estimator(AdapterFinetuner(static_model))


def test_training_history_without_validation(static_model, pairs):
    finetuner = AdapterFinetuner(
        static_model, epochs=2, validation_fraction=None, random_state=0
    ).fit(*pairs)
    display = finetuner.history_.plot()
    assert display.loss_ax_ is None and len(display.ax_.lines) == 1
    assert display.ax_.get_ylabel() == "training loss"
    with pytest.raises(ValueError, match="There was no validation"):
        finetuner.history_.plot("ndcg@10")


def test_history_of_gammas(static_model, pairs):
    finetuner = CorpusFinetuner(static_model, random_state=0).fit(*pairs)
    display = finetuner.history_.plot()
    assert display.ax_.get_xlabel() == "gamma"
    gammas = [entry["gamma"] for entry in finetuner.history_]
    np.testing.assert_array_equal(display.ax_.lines[0].get_xdata(), gammas)


class Given(BaseEstimator):
    """Scores what its parameters say; fails where b is "bad"."""

    def __init__(self, a=1, b="x", epochs=1):
        self.a, self.b, self.epochs = a, b, epochs

    def fit(self, X, y=None):
        if self.b == "bad":
            raise ValueError("diverged")
        return self

    def score(self, X, y=None):
        return self.a + {"x": 0, "y": 0.5}[self.b] + self.epochs / 100


def search_of(grid, **options):
    return GridSearchCV(Given(), grid, cv=KFold(2), **options).fit([[0]] * 4)


def test_search_results():
    search = search_of({"a": [1, 2], "b": ["x", "y"], "epochs": [1, 3]})
    display = SearchResultsDisplay.from_estimator(search, x="a", y="b")
    assert (display.rows, display.columns) == (["x", "y"], ["1", "2"])
    np.testing.assert_allclose(display.scores, [[1.03, 2.03], [1.53, 2.53]])
    assert display.ax_.get_xlabel() == "a" and display.ax_.get_ylabel() == "b"
    assert "2.530" in {text.get_text() for text in display.ax_.texts}
    frame = display.ax_.patches[0]
    assert frame.get_xy() == (0.5, 0.5)  # around the best cell
    default = SearchResultsDisplay.from_estimator(search)
    assert (default.column_name, default.row_name) == ("a", "b")
    with pytest.raises(ValueError, match="'c' was not searched"):
        SearchResultsDisplay.from_estimator(search, x="c")


def test_search_results_of_one_parameter():
    display = SearchResultsDisplay.from_estimator(search_of({"a": [1, 2, 4]}))
    assert display.scores.shape == (1, 3)
    assert display.row_name == display.ax_.get_ylabel() == ""


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
def test_a_failed_candidate_is_no_score():
    search = search_of({"a": [1, 2], "b": ["x", "bad"]}, error_score=np.nan)
    display = SearchResultsDisplay.from_estimator(search, x="a", y="b")
    np.testing.assert_array_equal(np.isnan(display.scores), [[False] * 2, [True] * 2])


def test_search_results_of_several_metrics(static_model, pairs):
    names = ["ndcg@10", "mrr@10"]
    search = GridSearchCV(
        AdapterFinetuner(static_model, epochs=1, random_state=0),
        {"side": ["query", "both"]},
        scoring=RetrievalScorer(names, corpus=pairs[1]),
        refit="mrr@10",
        cv=KFold(2),
    ).fit(*pairs)
    display = SearchResultsDisplay.from_estimator(search)
    assert display.metric == "mrr@10"
    np.testing.assert_array_equal(
        display.scores[0], search.cv_results_["mean_test_mrr@10"]
    )
    other = SearchResultsDisplay.from_estimator(search, metric="ndcg@10")
    assert other.metric == "ndcg@10"
    with pytest.raises(ValueError, match="The search has no 'map@10'"):
        SearchResultsDisplay.from_estimator(search, metric="map@10")


def test_the_metric_of_a_scorer_with_one_name(static_model, pairs):
    search = GridSearchCV(
        AdapterFinetuner(static_model, epochs=1, random_state=0),
        {"side": ["query", "both"]},
        scoring=RetrievalScorer("recall@5", corpus=pairs[1]),
        cv=KFold(2),
    ).fit(*pairs)
    assert SearchResultsDisplay.from_estimator(search).metric == "recall@5"


def test_search_results_sort_numbers_and_tell_estimators_apart():
    candidates = [{"a": np.float64(a)} for a in (0.123456, 1e-4, 0.0123456)]
    display = SearchResultsDisplay.from_estimator(
        search_of([{k: [v]} for c in candidates for k, v in c.items()])
    )
    assert display.columns == ["0.0001", "0.01235", "0.1235"]
    np.testing.assert_allclose(display.scores[0], [0.0101, 0.0223456, 0.133456])

    index = {"q0": [1.0, 0.1], "q1": [0.1, 1.0], "a": [1.0, 0.0], "b": [0.0, 1.0]}
    swapped = {**index, "a": index["b"], "b": index["a"]}
    search = GridSearchCV(
        AdapterFinetuner(None, validation_fraction=None, epochs=1, learning_rate=1e-9),
        {"encoder": [PrecomputedEncoder(index), PrecomputedEncoder(swapped)]},
        scoring=RetrievalScorer("mrr@10", corpus=["a", "b"]),
        cv=KFold(2),
        error_score="raise",
    ).fit(["q0", "q1"] * 2, ["a", "b"] * 2)
    display = SearchResultsDisplay.from_estimator(search)
    np.testing.assert_array_equal(display.scores, [[1.0, 0.5]])
    assert len(set(display.columns)) == 2  # of equal representations


def test_search_results_of_one_parameter_as_rows():
    display = SearchResultsDisplay.from_estimator(search_of({"a": [1, 2]}), y="a")
    assert display.scores.shape == (2, 1) and display.column_name == ""


def test_the_metric_is_not_that_of_an_estimator_that_did_not_score():
    search = GridSearchCV(
        PrecomputedEncoder({"a": [1.0]}), {}, scoring=lambda e, X, y: 1.0, cv=2
    ).fit(["a"] * 4, ["a"] * 4)
    assert SearchResultsDisplay.from_estimator(search, x=None).metric == "score"


def test_search_results_without_a_score_or_a_choice():
    def fails(estimator, X, y=None):
        raise ValueError("no score")

    with pytest.warns(UserWarning, match="Scoring failed|non-finite"):
        search = search_of({"a": [1, 2]}, scoring=fails)
    with pytest.raises(ValueError, match="No candidate of the search has a score"):
        SearchResultsDisplay.from_estimator(search)

    def two(estimator, X, y=None):
        return {"m": estimator.a, "n": -estimator.a}

    search = search_of({"a": [1, 2]}, scoring=two, refit=False)
    with pytest.raises(ValueError, match="pass metric=, one of 'm', 'n'"):
        SearchResultsDisplay.from_estimator(search)
    assert SearchResultsDisplay.from_estimator(search, metric="n").metric == "n"


def test_what_makes_no_vectors(problem):
    before, _, queries, relevant, _ = problem
    search = GridSearchCV(before, {}, refit=False, cv=2, scoring=lambda e, X, y: 1.0)
    search.fit(queries, relevant)
    for wrong, error, message in (
        (search, ValueError, "refit=False"),
        (Given(), TypeError, "Given makes no vectors"),
        (None, TypeError, "NoneType makes no vectors"),
    ):
        with pytest.raises(error, match=message):
            compare_retrieval(before, wrong, queries, relevant)


def test_halving_counts_the_last_round_of_a_candidate():
    search = HalvingGridSearchCV(
        Given(),
        {"a": [1, 2, 3, 4]},
        resource="epochs",
        min_resources=1,
        max_resources=4,
        factor=2,
        cv=KFold(2),
    ).fit([[0]] * 4)
    display = SearchResultsDisplay.from_estimator(search, x="a")
    assert display.row_name == ""  # the resource is not searched
    ends = [display.columns.index(str(a)) for a in (1, 4)]
    # dropped after one round, and kept for all three
    np.testing.assert_allclose(display.scores[0, ends], [1.01, 4.04])


def test_import_draws_nothing():
    code = (
        "import sys, skembft.inspection; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("before", [False, True])
def test_displays_leave_out_what_the_estimator_leaves_out(before):
    rng = np.random.default_rng(0)
    ids, vectors = [f"d{i}" for i in range(30)], rng.normal(size=(30, 4))
    vectors[1::2] = vectors[::2] + 0.3 * rng.normal(size=(15, 4))
    X, y = ids[::2], ids[1::2]
    index = PrecomputedEncoder((ids, vectors))
    adapter = AdapterFinetuner(
        index, epochs=1, exclude_self=True, validation_fraction=None
    ).fit(X, y, corpus=ids)
    expected = RetrievalScorer("recall@1", corpus=ids)(adapter, X, y)
    assert expected > 0.5
    data = {"X": X, "y": y, "corpus": ids}
    curve = RetrievalCurveDisplay.from_estimator(
        adapter, **data, ks=[1], before=index if before else None
    )
    assert list(curve.scores.values())[-1] == [expected]
    gains = QueryGainDisplay.from_estimator(
        adapter, **data, before=index, metric="recall@1"
    )
    base = RetrievalScorer("recall@1", corpus=ids, exclude_self=True)(index, X, y)
    assert np.mean(gains.gains) == pytest.approx(expected - base)
    if not before:
        seen = RetrievalCurveDisplay.from_estimator(
            adapter, **data, ks=[1], exclude_self=False
        )
        assert list(seen.scores.values()) == [[0.0]]


def test_a_change_is_shown_without_its_documents(problem):
    before, after, X, y = problem[:4]
    change = compare_retrieval(before, after, X, y).best(1)[0]
    assert repr(change).startswith(f"QueryChange(query={change.query!r}, index=")
    assert len(repr(change)) < 200
