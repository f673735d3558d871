"""evaluate: trec_eval and ir_measures as the oracles."""

import itertools

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from skembft.metrics import RetrievalScorer, _evaluate, evaluate
from tests.metrics.oracles import TREC

IR_MEASURES = {
    "nDCG": "ndcg",
    "RR": "mrr",
    "AP": "map",
    "R": "recall",
    "P": "precision",
    "Success": "hit_rate",
}
CUTS = [1, 2, 3, 5, 10, 100]


def trec_order(scores):
    """Documents by float32 score, then by id, both descending."""
    return sorted(scores, key=lambda d: (np.float32(scores[d]), d), reverse=True)


def trec_means(qrels, run):
    """Means over all queries of qrels (trec_eval -c), with our names as keys."""

    def mean(run, measure, key):
        found = pytrec_eval.RelevanceEvaluator(qrels, {measure}).evaluate(run)
        return sum(found.get(q, {}).get(key, 0.0) for q in qrels) / len(qrels)

    means = {}
    for k in CUTS:
        for ours, theirs in TREC.items():
            means[f"{ours}@{k}"] = mean(run, f"{theirs}.{k}", f"{theirs}_{k}")
        cut = {q: {d: run[q][d] for d in trec_order(run[q])[:k]} for q in run}
        means[f"mrr@{k}"] = mean(cut, "recip_rank", "recip_rank")
    return means


def random_run(rng):
    """Graded judgements and a run with ties, near ties and unjudged documents.

    Some queries are missing from the run and some have no relevant document.
    """
    # numeric ids whose order as str is not that of numbers, and odd characters
    ids = [str(i) for i in rng.choice(300, 60, replace=False)]
    ids += ["Z", "_a", "a b", "z", "~", "é", "ﬀ", "😀"]
    levels = [0.1, 0.5, 0.5, 0.7, 1e-3, -1.0]
    qrels, run = {}, {}
    for q in map(str, range(rng.randint(1, 6))):
        judged = rng.choice(ids, rng.randint(1, 20), replace=False)
        grades = [-1, 0, 0, 1, 1, 2, 3] if rng.rand() < 0.9 else [-1, 0]
        qrels[q] = {str(d): int(rng.choice(grades)) for d in judged}
        if rng.rand() < 0.15:
            continue
        found = rng.choice(ids, rng.randint(1, 50), replace=False)
        # differences that vanish in float32
        noise = rng.rand(len(found)) * 1e-10 * (rng.rand(len(found)) < 0.5)
        scores = rng.choice(levels, len(found)) + noise
        run[q] = {str(d): float(s) for d, s in zip(found, scores, strict=True)}
    if run:
        run["a query without judgements"] = {"Z": 1.0}
    return qrels, run


@pytest.mark.parametrize("seed", range(6))
def test_evaluate_equals_trec_eval(seed):
    rng = np.random.RandomState(seed)
    for _ in range(40):
        qrels, run = random_run(rng)
        expected = trec_means(qrels, run)
        found = evaluate(qrels, run, list(expected))
        assert list(found) == list(expected)
        np.testing.assert_allclose(
            list(found.values()), list(expected.values()), rtol=0, atol=1e-9
        )


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(st.integers(0, 2**31 - 1))
def test_evaluate_equals_pytrec_eval_and_ir_measures(seed):
    """On 1,000 random graded runs, per query; ties are broken before."""
    qrels, run = random_run(np.random.RandomState(seed))
    # ir_measures breaks ties in its own way where it does not ask trec_eval
    run = {
        q: {d: float(-i) for i, d in enumerate(trec_order(scores))}
        for q, scores in run.items()
    }
    names = [f"{name}@{k}" for name in IR_MEASURES for k in (1, 5, 100)]
    found = evaluate(qrels, run, names, per_query=True)
    theirs = {ir_measures.parse_measure(name): name for name in names}
    expected = {q: dict.fromkeys(names, 0.0) for q in qrels}
    for metric in ir_measures.iter_calc(list(theirs), qrels, run):
        if metric.query_id in qrels:
            expected[metric.query_id][theirs[metric.measure]] = metric.value
    assert list(found) == list(qrels)
    for query, values in found.items():
        assert values == pytest.approx(expected[query], abs=1e-9), query
    means = evaluate(qrels, run, names)
    assert means == pytest.approx(
        {n: np.mean([v[n] for v in found.values()]) for n in names}, abs=1e-12
    )
    trec = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.5", "map_cut.100"})
    for query, values in trec.evaluate(run).items():
        assert found[query]["nDCG@5"] == pytest.approx(values["ndcg_cut_5"], abs=1e-9)
        assert found[query]["AP@100"] == pytest.approx(values["map_cut_100"], abs=1e-9)


def test_random_runs_hold_the_hard_cases():
    # the oracle test above is worth as much as its data
    rng = np.random.RandomState(0)
    cases = [random_run(rng) for _ in range(40)]
    tied = same_in_float32 = missing = hopeless = unjudged = negative = 0
    for qrels, run in cases:
        for q, judged in qrels.items():
            scores = run.get(q, {})
            values = list(scores.values())
            tied += len(set(values)) < len(values)
            same_in_float32 += len({np.float32(v) for v in values}) < len(set(values))
            missing += q not in run
            hopeless += max(judged.values()) <= 0
            negative += min(judged.values()) < 0
            unjudged += bool(set(scores) - set(judged))
    assert min(tied, same_in_float32, missing, hopeless, unjudged, negative) >= 5


def test_ties_are_broken_by_id_as_str_descending():
    scores = {"9": 1.0, "10": 1.0, "a": 1.0}
    for expected, grade in (("a", 1.0), ("9", 0.5), ("10", 1 / 3)):
        assert evaluate({"q": {expected: 1}}, {"q": scores}, "mrr@3") == {
            "mrr@3": grade
        }


def test_scores_are_compared_as_float32():
    qrels = {"q": {"a": 1}}
    assert evaluate(qrels, {"q": {"a": 1 + 1e-9, "b": 1.0}}, "P@1") == {"P@1": 0.0}
    assert evaluate(qrels, {"q": {"a": 1 + 1e-6, "b": 1.0}}, "P@1") == {"P@1": 1.0}


def test_all_queries_of_qrels_count():
    qrels = {"found": {"a": 1}, "missing": {"a": 1}, "hopeless": {"a": 0}}
    run = {"found": {"a": 1.0}, "hopeless": {"a": 1.0}, "unknown": {"a": 1.0}}
    assert evaluate(qrels, run, "recall@1")["recall@1"] == pytest.approx(1 / 3)
    assert evaluate(qrels, {}, ["ndcg@10", "mrr@2"]) == {"ndcg@10": 0, "mrr@2": 0}
    assert evaluate({"q": {"a": 1}}, {"q": {}}, "map@10") == {"map@10": 0}


IDS = {
    "str": "7",
    "int": 7,
    "numpy": np.int64(7),
    "bytes": b"7",
    "frozenset": frozenset([7]),
}


@pytest.mark.parametrize("judged, retrieved", list(itertools.permutations(IDS, 2)))
def test_ids_of_another_type_are_an_error(judged, retrieved):
    """They match no id: the value would be 0.0 without a word."""
    a, b = IDS[judged], IDS[retrieved]
    if a == b:  # an int of numpy is an int
        assert evaluate({a: {a: 1}}, {b: {b: 1.0}}, "mrr@1") == {"mrr@1": 1.0}
        return
    with pytest.raises(ValueError, match="no query in common") as error:
        evaluate({a: {"d": 1}}, {b: {"d": 1.0}})
    assert repr(a) in str(error.value) and repr(b) in str(error.value)
    with pytest.raises(ValueError, match="of different types") as error:
        evaluate({"q": {a: 1}}, {"q": {b: 1.0}})
    assert repr(a) in str(error.value) and type(b).__name__ in str(error.value)


def test_ids_of_a_type_may_differ():
    """A retriever that finds nothing relevant is bad, and no error."""
    assert evaluate({"q": {"a": 1}}, {"q": {"b": 1.0}}, "mrr@1") == {"mrr@1": 0.0}
    assert evaluate({"q": {"a": 1}}, {"q": {}}, "mrr@1") == {"mrr@1": 0.0}
    mixed = {"q": {"a": 1, 7: 1}}
    assert evaluate(mixed, {"q": {np.int64(7): 1.0}}, "mrr@1") == {"mrr@1": 1.0}
    with pytest.raises(ValueError, match="'one' .str. is one of qrels, and 'two'"):
        evaluate({"one": {"a": 1}}, {"two": {"a": 1.0}})


def test_any_negative_grade_counts_as_not_relevant():
    run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    names = [f"{m}@3" for m in (*TREC, "mrr")]
    expected = evaluate({"q": {"a": 0, "b": 2}}, run, names)
    assert evaluate({"q": {"a": -7, "b": 2}}, run, names) == expected
    assert expected["ndcg@3"] == pytest.approx(1 / np.log2(3))


@pytest.mark.parametrize("levels", [1, 3, None])
@pytest.mark.parametrize("block", [1, 150, 2**21])
def test_long_runs_in_blocks(levels, block, monkeypatch):
    """With all scores equal, with few levels of them, and with none equal."""
    monkeypatch.setattr(_evaluate, "_BLOCK", block)
    rng = np.random.RandomState(0)
    ids = [str(i) for i in range(500)]
    qrels = {
        f"q{i}": {d: rng.randint(-1, 4) for d in rng.choice(ids, 30, replace=False)}
        for i in range(7)
    }
    run = {
        q: {
            d: float(rng.randint(levels) if levels else rng.rand())
            for d in rng.choice(ids, 300, replace=False)
        }
        for q in qrels
    }
    expected = trec_means(qrels, run)
    assert evaluate(qrels, run, list(expected)) == pytest.approx(expected, abs=1e-9)


class CountedId(str):
    comparisons = 0

    def __lt__(self, other):
        CountedId.comparisons += 1
        return super().__lt__(other)


def test_ids_are_sorted_only_where_a_relevant_document_is_tied():
    """Sorting all ids of a million results takes longer than all the rest."""
    scores = {CountedId(f"d{i}"): -float(i // 2) for i in range(1000)}
    distinct = {d: -float(i) for i, d in enumerate(scores)}
    qrels = {f"q{i}": {"d4": 1, "d9": 2, "d5000": 1} for i in range(50)}
    found = evaluate(qrels, dict.fromkeys(qrels, distinct), "mrr@10")
    assert found == {"mrr@10": pytest.approx(1 / 5)}
    assert CountedId.comparisons == 0
    found = evaluate(qrels, {**dict.fromkeys(qrels, distinct), "q0": scores}, "mrr@10")
    assert found == {"mrr@10": pytest.approx((49 / 5 + 1 / 6) / 50)}
    assert 0 < CountedId.comparisons < 20_000  # one query


def test_zeros_of_both_signs_are_tied():
    run = {"q": {"a": 0.0, "b": -0.0}}
    for wanted, value in (("b", 1.0), ("a", 0.5)):  # by id, descending
        assert evaluate({"q": {wanted: 1}}, run, "mrr@2") == {"mrr@2": value}


@pytest.mark.parametrize("theirs, ours", IR_MEASURES.items())
def test_spellings_of_ir_measures(theirs, ours):
    qrels, run = random_run(np.random.RandomState(1))
    names = [f"{theirs}@5", f"{ours}@5"]
    found = evaluate(qrels, run, names)
    assert list(found) == names  # keys come back as given
    assert (
        found[names[0]] == found[names[1]] == evaluate(qrels, run, names[1])[names[1]]
    )


def test_default_metric_of_evaluate():
    assert evaluate({"q": {"a": 1}}, {"q": {"a": 1.0}}) == {"ndcg@10": 1.0}


def test_evaluate_without_the_query_itself():
    """BEIR drops the document with the id of the query from the results alone."""
    qrels = {"a": {"b": 1, "a": 1}, "b": {"a": 1}}
    run = {"a": {"a": 3.0, "b": 2.0, "c": 1.0}, "b": {"c": 2.0, "a": 1.0}}
    dropped = {q: {d: s for d, s in run[q].items() if d != q} for q in run}
    found = evaluate(qrels, run, ["R@1", "nDCG@3"], exclude_self=True)
    assert found == evaluate(qrels, dropped, ["R@1", "nDCG@3"])
    assert found != evaluate(qrels, run, ["R@1", "nDCG@3"])


# errors


@pytest.mark.parametrize(
    "name, message",
    [
        ("ndgc@10", r"Unknown metric 'ndgc@10'\. Did you mean 'ndcg@10'"),
        ("recal@5", r"Unknown metric 'recal@5'\. Did you mean 'recall@5'"),
        ("hitrate@3", r"Did you mean 'hit_rate@3'"),
        ("NDCG@10", r"Did you mean 'ndcg@10'"),
        ("precission", r"Did you mean 'precision@10'"),
        ("xyz", r"Unknown metric 'xyz'.*Valid names: 'ndcg@10', 'mrr@10'"),
        ("ndcg", r"'ndcg' needs a cut-off.* 'ndcg@10'"),
        ("R", r"'R' needs a cut-off.* 'R@10'"),
        ("ndcg@0", r"'ndcg@0' needs a cut-off, a positive whole number"),
        ("ndcg@-1", "positive whole number"),
        ("ndcg@2.5", "positive whole number"),
        ("ndcg@", "positive whole number"),
        ("mrr@ten", "positive whole number"),
    ],
)
def test_wrong_metric_names(name, message):
    with pytest.raises(ValueError, match=message):
        evaluate({"q": {"a": 1}}, {"q": {"a": 1.0}}, ["mrr@1", name])
    with pytest.raises(ValueError, match=message):
        RetrievalScorer(name)


@pytest.mark.parametrize("metrics", [[], None, 10, {"ndcg@10": 1}])
def test_metrics_of_a_wrong_type(metrics):
    with pytest.raises(TypeError, match="a metric's name or a list of names"):
        evaluate({"q": {"a": 1}}, {}, metrics)
    with pytest.raises(TypeError, match="a metric's name or a list of names"):
        RetrievalScorer(metrics)


def test_metric_in_a_list_of_a_wrong_type():
    with pytest.raises(TypeError, match=r"A metric is a str such as 'ndcg@10', got 10"):
        evaluate({"q": {"a": 1}}, {}, [10])


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_non_finite_scores(score):
    with pytest.raises(ValueError, match=r"run\['q'\]\['b'\] must be finite, got"):
        evaluate({"q": {"a": 1}}, {"q": {"a": 1.0, "b": score}})
    with pytest.raises(ValueError, match=r"qrels\['q'\]\['b'\] must be finite"):
        evaluate({"q": {"a": 1, "b": score}}, {})


def test_score_beyond_float32():
    with np.errstate(over="ignore"):
        with pytest.raises(ValueError, match="beyond the range of float32"):
            evaluate({"q": {"a": 1}}, {"q": {"a": 1e300}})


@pytest.mark.parametrize("score", ["1", None, [1]])
def test_scores_that_are_no_numbers(score):
    with pytest.raises(TypeError, match=r"run\['q'\]\['b'\] must be a number"):
        evaluate({"q": {"a": 1}}, {"q": {"b": score}})


def test_empty_qrels():
    with pytest.raises(ValueError, match="qrels is empty"):
        evaluate({}, {"q": {"a": 1.0}})


def test_qrels_and_run_of_a_wrong_type():
    with pytest.raises(TypeError, match="qrels must be a dict of dicts"):
        evaluate({"q": ["a"]}, {})
    with pytest.raises(TypeError, match="run must be a dict of dicts"):
        evaluate({"q": {"a": 1}}, [("q", {"a": 1.0})])


@pytest.mark.parametrize("metric", ["ndcg", "mrr", "map", "recall", "hit_rate"])
def test_a_cut_off_beyond_every_document_costs_nothing(metric):
    qrels, run = {"q": {"a": 1, "b": 2}}, {"q": {"a": 1, "c": 0.9, "b": 0.5}}
    [found] = evaluate(qrels, run, f"{metric}@{10**12}").values()
    [expected] = evaluate(qrels, run, f"{metric}@3").values()
    assert found == pytest.approx(expected)
