import pickle

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

import skembft.metrics._ranking
from skembft import (
    AdapterFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.metrics import RetrievalScorer, evaluate

TREC = {  # our name: trec_eval's
    "ndcg": "ndcg_cut",
    "map": "map_cut",
    "recall": "recall",
    "precision": "P",
    "hit_rate": "success",
}
IR_MEASURES = {
    "nDCG": "ndcg",
    "RR": "mrr",
    "AP": "map",
    "R": "recall",
    "P": "precision",
    "Success": "hit_rate",
}
CUTS = [1, 2, 3, 5, 10, 100]


# evaluate against trec_eval


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


def test_any_negative_grade_counts_as_not_relevant():
    run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    names = [f"{m}@3" for m in (*TREC, "mrr")]
    expected = evaluate({"q": {"a": 0, "b": 2}}, run, names)
    assert evaluate({"q": {"a": -7, "b": 2}}, run, names) == expected
    assert expected["ndcg@3"] == pytest.approx(1 / np.log2(3))


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


# errors of evaluate


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


def test_evaluate_without_the_query_itself():
    """BEIR drops the document with the id of the query from the results alone."""
    qrels = {"a": {"b": 1, "a": 1}, "b": {"a": 1}}
    run = {"a": {"a": 3.0, "b": 2.0, "c": 1.0}, "b": {"c": 2.0, "a": 1.0}}
    dropped = {q: {d: s for d, s in run[q].items() if d != q} for q in run}
    found = evaluate(qrels, run, ["R@1", "nDCG@3"], exclude_self=True)
    assert found == evaluate(qrels, dropped, ["R@1", "nDCG@3"])
    assert found != evaluate(qrels, run, ["R@1", "nDCG@3"])


# RetrievalScorer against a brute force in plain numpy


def grid_vectors(rng, n, d=8):
    """Vectors with four entries of ±0.5: exact unit vectors, exact cosines, ties."""
    out = np.zeros((n, d), dtype=np.float32)
    for row in out:
        row[rng.choice(d, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return out


def brute_force(similarity, grades, name):
    """A metric by its definition; ties by pool order. grades: dict of column: grade."""
    metric, k = name.split("@")
    k = int(k)
    order = np.argsort(-similarity, kind="stable")[:k]
    gains = np.array([max(grades.get(int(d), 0), 0) for d in order], dtype=float)
    relevant = sorted((g for g in grades.values() if g > 0), reverse=True)
    ranks = np.flatnonzero(gains > 0) + 1
    if metric == "ndcg":
        best = sum(g / np.log2(i + 2) for i, g in enumerate(relevant[:k]))
        return sum(g / np.log2(i + 2) for i, g in enumerate(gains)) / best
    return {
        "mrr": 1 / ranks[0] if len(ranks) else 0,
        "map": sum((i + 1) / r for i, r in enumerate(ranks)) / len(relevant),
        "recall": len(ranks) / len(relevant),
        "precision": len(ranks) / k,
        "hit_rate": float(len(ranks) > 0),
    }[metric]


ALL = [f"{m}@{k}" for m in (*TREC, "mrr") for k in (1, 3, 10, 1000)]


def precomputed_problem(seed, n_queries=15, n_documents=60):
    """Ids with vectors of which many are equal, graded judgements and a corpus."""
    rng = np.random.RandomState(seed)
    # far fewer distinct vectors than documents: ties everywhere, also at the cut
    pool = grid_vectors(rng, n_documents // 5)
    documents = {f"d{i}": pool[rng.randint(len(pool))] for i in range(n_documents)}
    queries = {f"q{i}": v for i, v in enumerate(grid_vectors(rng, n_queries))}
    names = list(documents)
    relevant = [
        {
            str(d): int(rng.choice([-1, 0, 1, 2, 3]))
            for d in rng.choice(names, rng.randint(1, 6), replace=False)
        }
        for _ in queries
    ]
    relevant[0] = {names[0]: 0}  # nothing relevant: left out
    relevant[1][names[1]] = 1
    corpus = list(rng.permutation(names))
    return PrecomputedEncoder(queries, documents), list(queries), relevant, corpus


def brute_force_means(encoder, queries, relevant, corpus, weights=None):
    """What RetrievalScorer promises, one query after the other."""
    # pool: documents of y row by row, most relevant first, then those of the corpus
    pool = [
        d for graded in relevant for d in sorted(graded, key=lambda d: -graded[d])
    ] + list(corpus)
    pool = list(dict.fromkeys(pool))
    merged = {}
    for query, graded in zip(queries, relevant, strict=True):
        into = merged.setdefault(query, {})
        for document, grade in graded.items():
            into[document] = max(grade, into.get(document, grade))
    q = np.asarray(encoder.transform(list(merged)), dtype=np.float64)
    d = np.asarray(encoder.transform_documents(pool), dtype=np.float64)
    similarity = q @ d.T  # exact for grid_vectors
    weights = np.ones(len(queries)) if weights is None else np.asarray(weights)
    values, query_weights = [], []
    for row, (query, graded) in enumerate(merged.items()):
        if max(graded.values()) > 0:
            columns = {pool.index(d): g for d, g in graded.items()}
            values.append([brute_force(similarity[row], columns, m) for m in ALL])
            query_weights.append(weights[[x == query for x in queries]].mean())
    return dict(
        zip(ALL, np.average(values, axis=0, weights=query_weights), strict=True)
    )


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        assert found[name] == pytest.approx(expected[name], abs=1e-12), name


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("with_corpus", [False, True])
def test_scorer_equals_brute_force(seed, with_corpus):
    encoder, queries, relevant, corpus = precomputed_problem(seed)
    corpus = corpus if with_corpus else []
    scorer = RetrievalScorer(ALL, corpus=corpus if with_corpus else None)
    expected = brute_force_means(encoder, queries, relevant, corpus)
    assert_same(scorer(encoder, queries, relevant), expected)


def test_scorer_is_trec_eval_on_the_pool():
    # distinct scores, so that the rules for ties do not matter
    rng = np.random.RandomState(0)
    queries = {f"q{i}": rng.standard_normal(6) for i in range(8)}
    documents = {f"d{i}": rng.standard_normal(6) for i in range(30)}
    encoder = PrecomputedEncoder(queries, documents)
    qrels = {
        q: {f"d{j}": int(rng.randint(1, 4)) for j in rng.choice(30, 3, replace=False)}
        for q in queries
    }
    q = encoder.transform(list(queries)).astype(float)
    d = encoder.transform_documents(list(documents)).astype(float)
    q, d = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (q, d))
    run = {
        name: dict(zip(documents, row, strict=True))
        for name, row in zip(queries, q @ d.T, strict=True)
    }
    found = RetrievalScorer(ALL, corpus=list(documents))(
        encoder, list(qrels), list(qrels.values())
    )
    for name, value in evaluate(qrels, run, ALL).items():
        assert found[name] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("dim, n", [(3, 50), (16, 700), (384, 900)])
def test_equal_documents_are_ranked_in_pool_order(dim, n):
    # real numbers this time: equal vectors must get equal scores wherever they stand
    rng = np.random.RandomState(dim)
    which = rng.randint(n // 4, size=n)
    vectors = rng.standard_normal((n // 4, dim))[which]
    encoder = PrecomputedEncoder((list(range(n)), vectors))
    model = AdapterFinetuner(encoder, epochs=1, validation_fraction=None)
    model.fit([0, 1], [0, 1])
    indices, scores = model.retrieve(list(range(0, n, 7)), list(range(n)), k=25)
    assert (np.diff(scores, axis=1) <= 0).all()
    for row in indices:
        for value in set(which[row].tolist()):
            places = row[which[row] == value]
            first = np.flatnonzero(which == value)[: len(places)]
            np.testing.assert_array_equal(places, first)


@pytest.mark.parametrize("seed", range(3))
def test_per_query_values(seed):
    encoder, queries, relevant, corpus = precomputed_problem(seed)
    queries = [*queries, queries[1]]  # a query counts once
    relevant = [*relevant, relevant[1]]
    scorer = RetrievalScorer(ALL, corpus=corpus)
    values = scorer.per_query(encoder, queries, relevant)
    means = scorer(encoder, queries, relevant)
    for name in ALL:
        assert values[name].shape == (len(queries) - 1,)
        assert np.isnan(values[name][0])  # nothing is relevant to it
        assert np.nanmean(values[name]) == pytest.approx(means[name], abs=1e-12)
    for i in (1, 5):
        if max(relevant[i].values()) > 0:
            alone = RetrievalScorer(ALL, corpus=corpus)
            pool = dict.fromkeys(d for graded in relevant for d in graded)
            alone.corpus = [*pool, *corpus]
            found = alone(encoder, [queries[i]], [relevant[i]])
            assert found["recall@1000"] == values["recall@1000"][i] == 1
    single = RetrievalScorer("mrr@10", corpus=corpus)
    np.testing.assert_array_equal(
        single.per_query(encoder, queries, relevant), values["mrr@10"]
    )


def test_queries_that_are_documents_do_not_find_themselves():
    """ArguAna's rule: as evaluate has it on the ids."""
    rng = np.random.RandomState(0)
    index = PrecomputedEncoder(
        {f"d{i}": v for i, v in enumerate(rng.normal(size=(30, 4)))}
    )
    names = list(index.queries)
    queries = names[:10]
    relevant = [{d: 1 for d in rng.choice(names, 3, replace=False)} for _ in queries]
    relevant[0] = {queries[0]: 1, names[20]: 1}  # judged relevant to itself
    vectors = index.transform(names)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    run = {
        query: dict(zip(names, (vectors[i] @ vectors.T).tolist(), strict=True))
        for i, query in enumerate(queries)
    }
    qrels = dict(zip(queries, relevant, strict=True))
    for exclude in (False, True):
        scorer = RetrievalScorer(ALL, corpus=names, exclude_self=exclude)
        expected = evaluate(qrels, run, ALL, exclude_self=exclude)
        assert_same(scorer(index, queries, relevant), expected)
    assert "exclude_self=True" in repr(scorer)
    assert scorer(index, queries, relevant) != RetrievalScorer(ALL, corpus=names)(
        index, queries, relevant
    )


def test_exclude_self_needs_names():
    vectors = np.random.RandomState(0).normal(size=(12, 3))
    adapter = AdapterFinetuner(None, epochs=1, validation_fraction=None)
    labels = [0, 1] * 6
    adapter.fit(vectors, labels)  # rows with labels never retrieve themselves
    plain, without = (
        RetrievalScorer("ndcg@10", exclude_self=exclude)(adapter, vectors, labels)
        for exclude in (False, True)
    )
    assert plain == without
    adapter.fit(vectors, vectors[::-1])
    with pytest.raises(ValueError, match="exclude_self compares texts or ids"):
        RetrievalScorer(exclude_self=True)(adapter, vectors, vectors[::-1])


def test_information_retrieval_evaluator(bert_model, pairs):
    """Sentence Transformers' evaluator agrees on binary judgements without ties."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import (
        InformationRetrievalEvaluator,
    )

    queries, documents = pairs
    documents = list(dict.fromkeys(documents))
    rng = np.random.RandomState(0)
    relevant = [
        [documents[j] for j in rng.choice(len(documents), 12, replace=False)]
        for _ in queries
    ]
    ids = {document: f"d{i:03}" for i, document in enumerate(documents)}
    evaluator = InformationRetrievalEvaluator(
        {f"q{i}": query for i, query in enumerate(queries)},
        {ids[document]: document for document in documents},
        {f"q{i}": {ids[d] for d in row} for i, row in enumerate(relevant)},
        ndcg_at_k=[10],
        mrr_at_k=[10],
        map_at_k=[10, 100],
        accuracy_at_k=[1, 5],
        precision_recall_at_k=[5],
        write_csv=False,
    )
    theirs = evaluator(SentenceTransformer(bert_model, device="cpu"))
    names = ["ndcg@10", "mrr@10", "map@10", "map@100"]
    names += ["hit_rate@1", "hit_rate@5", "precision@5", "recall@5"]
    scorer = RetrievalScorer(names, corpus=documents)
    ours = scorer(SentenceEncoder(bert_model), queries, relevant)
    as_ours = {"accuracy": "hit_rate"}
    compared = 0
    for key, value in theirs.items():
        stem, _, k = key.removeprefix("cosine_").partition("@")
        name = f"{as_ours.get(stem, stem)}@{k}"
        if name == "map@10":
            # divided by the 10 that fit, where trec_eval divides by the 12 there are
            value = value * 10 / 12
        if name in ours:
            compared += 1
            assert ours[name] == pytest.approx(value, abs=1e-9), name
    assert compared == len(names)


def test_judged_documents_are_in_the_pool():
    vectors = {"q": [1, 0], "good": [0.8, 0.6], "bad": [1, 0], "other": [0, 1]}
    encoder = PrecomputedEncoder(vectors)
    scorer = RetrievalScorer("mrr@10")
    assert scorer(encoder, ["q"], ["good"]) == 1.0
    assert scorer(encoder, ["q"], [{"good": 1, "bad": 0}]) == 0.5
    assert scorer(encoder, ["q"], [{"good": 1, "bad": -1}]) == 0.5
    assert scorer(encoder, [("q", "good", "bad")]) == 0.5  # an explicit negative
    assert scorer(encoder, [("q", "good"), ("q", "bad")], [1, 0]) == 0.5
    assert RetrievalScorer("mrr@10", corpus=["bad"])(encoder, ["q"], ["good"]) == 0.5
    assert RetrievalScorer("mrr@10", corpus=["other"])(encoder, ["q"], ["good"]) == 1.0


def test_documents_of_the_corpus_come_after_those_of_y():
    vectors = {"q": [1, 0], "a": [1, 0], "b": [1, 0], "c": [1, 0]}
    encoder = PrecomputedEncoder(vectors)
    scorer = RetrievalScorer("mrr@10", corpus=["c", "b", "a"])
    assert scorer(encoder, ["q"], ["b"]) == 1.0
    assert scorer(encoder, ["q"], [{"a": 0, "b": 1}]) == 1.0  # the highest grade first
    assert scorer(encoder, ["q", "q"], [{"a": 0}, {"b": 1}]) == 0.5


def test_queries_with_nothing_relevant_are_left_out():
    encoder = PrecomputedEncoder({"q": [1, 0], "p": [0, 1], "a": [1, 0], "b": [0, 1]})
    scorer = RetrievalScorer("recall@1")
    assert scorer(encoder, ["q", "p"], [{"a": 1}, {"b": 0}]) == 1.0
    with pytest.raises(ValueError, match="No query has a relevant document"):
        scorer(encoder, ["q", "p"], [{"a": 0}, {"b": -1}])
    with pytest.raises(ValueError, match="No query has a relevant document"):
        scorer(encoder, [("q", "a"), ("p", "b")], [0, 0])


def test_repeated_queries_are_merged():
    encoder, queries, relevant, corpus = precomputed_problem(3)
    queries = [*queries, queries[2], queries[5], queries[2]]
    relevant = [*relevant, relevant[5], relevant[0], relevant[7]]
    expected = brute_force_means(encoder, queries, relevant, corpus)
    scorer = RetrievalScorer(ALL, corpus=corpus)
    assert_same(scorer(encoder, queries, relevant), expected)


def test_a_query_of_many_rows_counts_once():
    vectors = {"q": [1, 0], "p": [0, 1], "a": [1, 0], "b": [0.6, 0.8]}
    scorer = RetrievalScorer("recall@1", corpus=["a", "b"])
    encoder = PrecomputedEncoder(vectors)
    # q finds a, p does not find a but b
    assert scorer(encoder, ["q", "p"], ["a", "a"]) == 0.5
    assert scorer(encoder, ["q", "p", "p", "p"], ["a"] * 4) == 0.5
    # what the rows of a query say is taken together
    assert scorer(encoder, ["p", "p"], ["a", "b"]) == 0.5


def fitted(encoder, **params):
    """A finetuner whose weights are the identity or nearly so: cheap to have."""
    params = {"epochs": 1, "validation_fraction": None, "random_state": 0} | params
    return AdapterFinetuner(encoder, **params).fit(["q0", "q1"], ["d0", "d1"])


def test_sample_weight():
    encoder, queries, relevant, corpus = precomputed_problem(4)
    queries = [*queries, queries[2], queries[5]]
    relevant = [*relevant, relevant[5], relevant[7]]
    # a learning rate that changes no float32 weight keeps the cosines exact
    model = fitted(encoder, learning_rate=1e-300, weight_decay=0, scoring="ndcg@3")
    weights = np.random.RandomState(0).rand(len(queries))
    weights[3] = 0
    expected = brute_force_means(encoder, queries, relevant, corpus, weights)
    score = model.score(queries, relevant, sample_weight=weights, corpus=corpus)
    assert score == pytest.approx(expected["ndcg@3"], abs=1e-12)
    assert score != model.score(queries, relevant, corpus=corpus)
    ones = model.score(queries, relevant, np.full(len(queries), 2.0), corpus=corpus)
    assert ones == pytest.approx(model.score(queries, relevant, corpus=corpus))


def test_weight_of_a_query_is_the_mean_of_its_rows():
    vectors = {"q0": [1, 0], "q1": [0, 1], "d0": [1, 0], "d1": [0.8, 0.6]}
    model = fitted(PrecomputedEncoder(vectors), scoring="recall@1")
    X, y = ["q0", "q1", "q1"], ["d0", "d0", "d0"]  # q0 finds it, q1 does not
    score = model.score(X, y, sample_weight=[3, 2, 0], corpus=["d1"])
    assert score == pytest.approx(3 / (3 + 1))


def test_wrong_sample_weight():
    encoder, queries, relevant, _ = precomputed_problem(0)
    model = fitted(encoder)
    with pytest.raises(ValueError, match=r"sample_weight has shape \(3,\), expected"):
        model.score(queries, relevant, sample_weight=[1, 1, 1])
    for bad in (np.nan, np.inf, -1):
        with pytest.raises(ValueError, match="finite and not negative"):
            model.score(queries, relevant, sample_weight=[bad] * len(queries))
    with pytest.raises(ValueError, match="and a weight above 0"):
        model.score(queries, relevant, sample_weight=np.zeros(len(queries)))


@pytest.mark.parametrize("seed", range(4))
def test_class_labels_equal_brute_force(seed):
    # each row retrieves the others, itself excluded; equal vectors make ties
    rng = np.random.RandomState(seed)
    X = grid_vectors(rng, 12)[rng.randint(12, size=50)]
    labels = rng.choice(["a", "b", "c", "d"], 50)
    labels[7] = "x"  # nothing is relevant: left out
    model = AdapterFinetuner(
        None, epochs=1, validation_fraction=None, learning_rate=1e-300, weight_decay=0
    ).fit(X, labels)
    np.testing.assert_array_equal(model.transform(X), X)
    values = []
    for row in range(50):
        others = np.flatnonzero(np.arange(50) != row)
        grades = {i: 1 for i, o in enumerate(others) if labels[o] == labels[row]}
        if grades:
            similarity = X[others].astype(float) @ X[row].astype(float)
            values.append([brute_force(similarity, grades, m) for m in ALL])
    assert len(values) == 49
    expected = dict(zip(ALL, np.mean(values, axis=0), strict=True))
    assert_same(RetrievalScorer(ALL)(model, X, labels), expected)
    for name in ("ndcg@3", "recall@1000"):
        model.set_params(scoring=name)
        assert model.score(X, labels) == pytest.approx(expected[name], abs=1e-12)


def test_paired_vectors_equal_brute_force():
    rng = np.random.RandomState(0)
    X, Y, extra = grid_vectors(rng, 30), grid_vectors(rng, 30), grid_vectors(rng, 20)
    model = AdapterFinetuner(
        None, epochs=1, validation_fraction=None, learning_rate=1e-300, weight_decay=0
    ).fit(X, Y)
    lookup = {f"q{i}": v for i, v in enumerate(X)}
    pool = np.unique(np.concatenate([Y, extra]), axis=0)
    lookup |= {f"d{i}": v for i, v in enumerate(pool)}

    def name_of(v):
        return f"d{int(np.flatnonzero((pool == v).all(axis=1))[0])}"

    queries = [  # equal vectors are one query
        f"q{int(np.flatnonzero((X == v).all(axis=1))[0])}" for v in X
    ]
    relevant = [{name_of(v): 1} for v in Y]
    corpus = [name_of(v) for v in extra]
    encoder = PrecomputedEncoder(lookup)
    expected = brute_force_means(encoder, queries, relevant, corpus)
    assert_same(RetrievalScorer(ALL, corpus=extra)(model, X, Y), expected)


def test_many_documents_in_chunks(monkeypatch):
    rng = np.random.RandomState(0)
    n = 30_000
    pool = grid_vectors(rng, 16, d=4)  # 16 vectors at most: huge ties
    documents = pool[rng.randint(len(pool), size=n)]
    documents[rng.choice(n, 300, replace=False)] = [1, 0, 0, 0]
    queries = rng.choice([-1, 0, 1, 2], (40, 4)) + np.array([0.5, 0, 0, 0])
    encoder = PrecomputedEncoder(
        ([f"q{i}" for i in range(40)], queries), (list(range(n)), documents)
    )
    relevant = [list(map(int, rng.choice(n, 30, replace=False))) for _ in range(40)]
    corpus = list(range(n))
    X = [f"q{i}" for i in range(40)]
    scorer = RetrievalScorer(["ndcg@10", "map@1000", "recall@5000"], corpus=corpus)
    model = AdapterFinetuner(encoder, epochs=1, validation_fraction=None)
    model.fit(X[:2], [0, 1])
    monkeypatch.setattr(skembft.metrics._ranking, "_BLOCK", 2**30)
    whole, found = scorer(encoder, X, relevant), model.retrieve(X, corpus, k=50)
    assert whole["recall@5000"] > 0
    for block in (40 * 1000, 40 * 7001):
        monkeypatch.setattr(skembft.metrics._ranking, "_BLOCK", block)
        assert scorer(encoder, X, relevant) == whole
        indices, scores = model.retrieve(X, corpus, k=50)
        np.testing.assert_array_equal(indices, found[0])
        np.testing.assert_array_equal(scores, found[1])


@pytest.mark.parametrize("order", ["rising", "falling", "mixed"])
@pytest.mark.parametrize("k", [1, 30, 100])
def test_blocks_find_what_a_full_sort_finds(monkeypatch, order, k):
    # 70 blocks of 100 documents: the best come last, first or anywhere; many are equal
    monkeypatch.setattr(skembft.metrics._ranking, "_BLOCK", 6 * 100)
    rng = np.random.RandomState(0)
    documents = rng.randint(-9, 10, (7000, 3)).astype(np.float32)
    queries = rng.randint(1, 10, (6, 3)).astype(np.float32)
    if order != "mixed":
        documents = documents[np.argsort(documents.sum(axis=1), kind="stable")]
    if order == "falling":
        documents = documents[::-1]
    scores = queries @ documents.T  # whole numbers: exact
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found, values = skembft.metrics._ranking.top_k(
        queries, documents, k, similarity="dot"
    )
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, expected, axis=1))


def test_class_labels_in_chunks(monkeypatch):
    rng = np.random.RandomState(0)
    X = grid_vectors(rng, 30)[rng.randint(30, size=1200)]  # of queries, too
    labels = rng.randint(20, size=1200)
    model = AdapterFinetuner(
        None, epochs=1, validation_fraction=None, negatives="batch"
    ).fit(X[:50], labels[:50])
    whole = RetrievalScorer(["ndcg@10", "recall@200"])(model, X, labels)
    monkeypatch.setattr(skembft.metrics._ranking, "_BLOCK", 1024 * 300)
    assert RetrievalScorer(["ndcg@10", "recall@200"])(model, X, labels) == whole


class BrokenEncoder:
    """Gives a NaN for one text."""

    def __init__(self, bad):
        self.bad = bad

    def transform(self, X):
        return np.array([[np.nan if x == self.bad else 1.0, 1.0] for x in X])

    transform_documents = transform


@pytest.mark.parametrize("bad", ["q", "b", "extra"])
def test_vectors_with_nan(bad):
    what = "query" if bad == "q" else "document"
    scorer = RetrievalScorer("ndcg@10", corpus=["a", "b", "extra"])
    with pytest.raises(ValueError, match=rf"The {what} vectors contain NaN"):
        scorer(BrokenEncoder(bad), ["p", "q"], ["a", "b"])
    assert scorer(BrokenEncoder("other"), ["p", "q"], ["a", "b"]) > 0


# RetrievalScorer as scikit-learn sees it


def clean(X):
    return [text.replace("#", "") for text in X]


@pytest.fixture(scope="module")
def noisy(pairs):
    """Queries that only a cleaning step makes readable, documents and a corpus."""
    queries, documents = pairs
    rng = np.random.RandomState(1)
    corpus = [" ".join(d.split()[::-1][:2]) for d in documents]
    noisy = ["".join(c + "#" * (rng.rand() < 0.3) for c in q) for q in queries]
    return noisy, queries, documents, corpus


def adapter(static_model, **params):
    params = {"epochs": 2, "random_state": 0, "validation_fraction": None} | params
    return AdapterFinetuner(static_model, **params)


def test_scorer_gives_a_float_or_a_dict(static_model, pairs):
    encoder = SentenceEncoder(static_model)
    one = RetrievalScorer("ndcg@10")(encoder, *pairs)
    assert type(one) is float
    assert RetrievalScorer()(encoder, *pairs) == one  # the default
    assert RetrievalScorer(["ndcg@10"])(encoder, *pairs) == {"ndcg@10": one}
    both = RetrievalScorer(["nDCG@10", "mrr@1"])(encoder, *pairs)
    assert list(both) == ["nDCG@10", "mrr@1"]
    assert both["nDCG@10"] == one
    assert all(type(value) is float for value in both.values())


def test_scorer_can_be_pickled(static_model, pairs):
    corpus = [*pairs[1], "red0 red1"]
    scorer = RetrievalScorer(["ndcg@10", "R@2"], corpus=corpus)
    again = pickle.loads(pickle.dumps(scorer))
    assert again.metrics == scorer.metrics and again.corpus == corpus
    encoder = SentenceEncoder(static_model)
    assert again(encoder, *pairs) == scorer(encoder, *pairs)
    assert repr(again) == "RetrievalScorer(['ndcg@10', 'R@2'], corpus=<41 documents>)"


def test_corpus_widens_the_pool(static_model, pairs):
    queries, documents = pairs
    encoder = SentenceEncoder(static_model)
    few = RetrievalScorer("mrr@10")(encoder, queries[:5], documents[:5])
    scorer = RetrievalScorer("mrr@10", corpus=[*documents, *queries])
    assert scorer(encoder, queries[:5], documents[:5]) < few
    same = RetrievalScorer("mrr@10", corpus=documents[:5])
    assert same(encoder, queries[:5], documents[:5]) == few


def test_scorer_of_a_finetuner_is_its_score(static_model, pairs):
    model = adapter(static_model, scoring="map@20", epochs=5).fit(*pairs)
    corpus = [*pairs[1], *pairs[0]]
    assert RetrievalScorer("map@20")(model, *pairs) == model.score(*pairs)
    widened = RetrievalScorer("map@20", corpus=corpus)(model, *pairs)
    assert widened == model.score(*pairs, corpus=corpus)


def test_scorer_of_a_whole_model_is_its_score(static_model, pairs):
    queries, documents = pairs
    model = EmbeddingFinetuner(
        static_model, epochs=1, scoring="mrr@4", device="cpu", random_state=0
    ).fit(queries, documents)
    expected = model.score(queries, documents, corpus=queries)
    scorer = RetrievalScorer(["mrr@4", "R@1"], corpus=queries)
    found = scorer(model, queries, documents)
    assert found["mrr@4"] == expected
    cleaned = make_pipeline(FunctionTransformer(clean), model)
    assert scorer(cleaned, [q + "#" for q in queries], documents) == found


def test_scorer_sees_through_pipelines_and_searches(static_model, noisy):
    noisy, queries, documents, corpus = noisy
    scorer = RetrievalScorer(["ndcg@10", "mrr@5"], corpus=corpus)
    plain = adapter(static_model).fit(queries, documents)
    expected = scorer(plain, queries, documents)
    pipeline = make_pipeline(FunctionTransformer(clean), adapter(static_model))
    pipeline.fit(noisy, documents)
    assert scorer(pipeline, noisy, documents) == expected
    assert scorer(plain, noisy, documents) != expected  # cleaning does matter
    passing = Pipeline([("skip", "passthrough"), ("model", adapter(static_model))])
    assert scorer(passing.fit(queries, documents), queries, documents) == expected

    grid = {"adapterfinetuner__epochs": [2]}
    search = GridSearchCV(pipeline, grid, cv=2, scoring=RetrievalScorer("ndcg@10"))
    assert scorer(search.fit(noisy, documents), noisy, documents) == expected
    search = GridSearchCV(adapter(static_model), {"epochs": [2]}, cv=2)
    assert scorer(search.fit(queries, documents), queries, documents) == expected
    inside = make_pipeline(FunctionTransformer(clean), search)
    assert scorer(inside.fit(noisy, documents), noisy, documents) == expected


def test_scorer_on_a_pipeline_ending_in_an_encoder(static_model, noisy):
    noisy, queries, documents, corpus = noisy
    encoder = SentenceEncoder(static_model)
    scorer = RetrievalScorer("ndcg@10", corpus=corpus)
    pipeline = make_pipeline(FunctionTransformer(clean), encoder).fit(noisy)
    assert scorer(pipeline, noisy, documents) == scorer(encoder, queries, documents)


def test_pipeline_score_cleans_queries_only(static_model, noisy):
    noisy, queries, documents, _ = noisy
    pipeline = make_pipeline(
        FunctionTransformer(clean), adapter(static_model, scoring="mrr@3")
    ).fit(noisy, documents)
    marked = [d + " #" for d in documents]
    expected = RetrievalScorer("mrr@3")(pipeline[-1], queries, marked)
    assert pipeline.score(noisy, marked) == expected
    assert RetrievalScorer("mrr@3")(pipeline, noisy, marked) == expected


def test_unfitted_estimators(static_model, pairs):
    model = adapter(static_model)
    for estimator in (model, GridSearchCV(model, {"epochs": [1]})):
        with pytest.raises(NotFittedError):
            RetrievalScorer()(estimator, *pairs)


def by_hand(static_model, pairs, metric, corpus):
    """Scores of the folds without any of scikit-learn's searching machinery."""
    queries, documents = map(np.array, pairs)
    scores = []
    for train, test in KFold(4).split(queries):
        model = adapter(static_model).fit(queries[train], documents[train])
        model.set_params(scoring=metric)
        scores.append(model.score(queries[test], documents[test], corpus=corpus))
    return scores


@pytest.mark.parametrize("routing", [False, True])
def test_cross_validate(static_model, pairs, routing):
    queries, documents = pairs
    # exactly as long as X, and a document that is found by accident stands last
    corpus = [" ".join(d.split()[:2]) for d in documents]
    assert len(corpus) == len(queries)
    with config_context(enable_metadata_routing=routing):
        found = cross_validate(
            adapter(static_model),
            queries,
            documents,
            cv=KFold(4),
            scoring=RetrievalScorer("ndcg@10", corpus=corpus),
            error_score="raise",
        )
        several = cross_validate(
            adapter(static_model),
            queries,
            documents,
            cv=KFold(4),
            scoring=RetrievalScorer(["ndcg@10", "mrr@2"], corpus=corpus),
            error_score="raise",
        )
    expected = by_hand(static_model, pairs, "ndcg@10", corpus)
    np.testing.assert_array_equal(found["test_score"], expected)
    np.testing.assert_array_equal(several["test_ndcg@10"], expected)
    expected = by_hand(static_model, pairs, "mrr@2", corpus)
    np.testing.assert_array_equal(several["test_mrr@2"], expected)
    # a sliced corpus would have given something else
    assert list(found["test_score"]) != by_hand(
        static_model, pairs, "ndcg@10", corpus[:10]
    )


@pytest.mark.parametrize("routing", [False, True])
@pytest.mark.parametrize("cleaning", [False, True])
def test_grid_search(static_model, noisy, routing, cleaning):
    noisy, queries, documents, corpus = noisy
    assert len(corpus) == len(queries)
    estimator, name = adapter(static_model), "epochs"
    if cleaning:
        estimator = make_pipeline(FunctionTransformer(clean), estimator)
        name = "adapterfinetuner__epochs"
    with config_context(enable_metadata_routing=routing):
        search = GridSearchCV(
            estimator,
            {name: [1, 2]},
            cv=KFold(4),
            scoring=RetrievalScorer(["mrr@2", "ndcg@10"], corpus=corpus),
            refit="ndcg@10",
            error_score="raise",
        ).fit(noisy if cleaning else queries, documents)
        single = GridSearchCV(
            estimator,
            {name: [2]},
            cv=KFold(4),
            scoring=RetrievalScorer("ndcg@10", corpus=corpus),
            error_score="raise",
        ).fit(noisy if cleaning else queries, documents)
    pairs = queries, documents
    for metric in ("mrr@2", "ndcg@10"):
        found = search.cv_results_[f"mean_test_{metric}"][1]  # 2 epochs
        expected = np.mean(by_hand(static_model, pairs, metric, corpus))
        assert found == pytest.approx(expected, abs=1e-12)
    assert search.best_index_ == search.cv_results_["mean_test_ndcg@10"].argmax()
    assert search.best_score_ == search.cv_results_["mean_test_ndcg@10"].max()
    assert single.best_score_ == pytest.approx(
        search.cv_results_["mean_test_ndcg@10"][1], abs=1e-12
    )
    if not cleaning:
        # scikit-learn's score of a search is that of the metric that chose
        assert search.score(queries, documents) == RetrievalScorer(
            "ndcg@10", corpus=corpus
        )(search, queries, documents)
