"""RetrievalScorer against a brute force in plain numpy."""

import numpy as np
import pytest

from skembft import AdapterFinetuner, PrecomputedEncoder, SentenceEncoder
from skembft.metrics import RetrievalScorer, _scoring, evaluate
from skembft.metrics._ranking import top_k
from tests.metrics.oracles import (
    ALL,
    assert_same,
    brute_force,
    brute_force_means,
    grid_vectors,
    precomputed_problem,
)


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


@pytest.mark.parametrize("where", ["first", "last", "apart", "not", "judged"])
def test_ties_do_not_know_the_answer(where):
    """Wherever the answers stand, ties are as good as chance breaks them."""
    rng = np.random.RandomState(0)
    n, n_queries, bits = 4000, 400, 24

    def binary(vectors):
        return np.where(vectors > 0, 1.0, -1.0)

    documents = rng.normal(size=(n, bits))
    queries = documents[:n_queries] + 1.2 * rng.normal(size=(n_queries, bits))
    Q, D = binary(queries), binary(documents)
    ids, names = [f"d{i}" for i in range(n)], [f"q{i}" for i in range(n_queries)]
    encoder = PrecomputedEncoder((names, Q), (ids, D))
    y = ids[:n_queries]
    corpus = {"first": ids, "last": ids[::-1], "not": ids[n_queries:]}.get(where)
    if where == "apart":
        corpus = [ids[i] for i in rng.permutation(n)]
    if where == "judged":  # the best first, as users write them
        others = iter(ids[n_queries:])
        y = [{d: 1, **{next(others): 0 for _ in range(9)}} for d in y]
    scores = Q @ D.T
    own = scores[np.arange(n_queries), np.arange(n_queries)][:, None]
    above, level = (scores > own).sum(axis=1), (scores == own).sum(axis=1)
    # the rank is any of `level` places, all as likely
    gains = np.append(1 / np.log2(np.arange(2, 12)), np.zeros(n))
    chance = np.mean(
        [gains[a : a + m].mean() for a, m in zip(above, level, strict=True)]
    )
    found = RetrievalScorer("ndcg@10", corpus=corpus)(encoder, names, y)
    assert 0.1 < chance < 0.6 and found == pytest.approx(chance, abs=0.025)
    finetuner = AdapterFinetuner(encoder, epochs=1, learning_rate=1e-9)
    finetuner.fit(names[:9], ids[:9], X_val=names, y_val=y, corpus_val=corpus)
    assert finetuner.base_score_ == pytest.approx(found, abs=1e-3)


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
    model = fitted(encoder, learning_rate=1e-300, weight_decay=0, scoring="ndcg@10")
    weights = np.random.RandomState(0).rand(len(queries))
    weights[3] = 0
    expected = brute_force_means(encoder, queries, relevant, corpus, weights)
    score = model.score(queries, relevant, sample_weight=weights, corpus=corpus)
    assert score == pytest.approx(expected["ndcg@10"], abs=1e-12)
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
        same = np.flatnonzero(labels == labels[row])
        grades = {int(i): 1 for i in same if i != row}
        if grades:
            similarity = X.astype(float) @ X[row].astype(float)
            similarity[row] = -np.inf
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


@pytest.mark.parametrize("n_queries", [30, 1024, 2047, 2048, 3100])
@pytest.mark.parametrize("labels", [False, True])
def test_queries_are_ranked_in_blocks(n_queries, labels, monkeypatch):
    """Memory is set by the block; no value depends on it, to the last bit."""
    rng = np.random.RandomState(0)
    X = rng.standard_normal((n_queries, 5)).astype(np.float32)
    y = rng.randint(2, size=len(X))
    if not labels:
        y = X[rng.permutation(len(X))]
    adapter = AdapterFinetuner(None, epochs=1, validation_fraction=None)
    adapter.fit(X[:20], np.arange(20) % 2 if labels else y[:20])
    scorer = RetrievalScorer([f"{name.split('@')[0]}@20" for name in ALL])
    expected = scorer.per_query(adapter, X, y)
    sizes = []

    def counting(queries, *args, **kwargs):
        sizes.append(len(queries))
        return top_k(queries, *args, **kwargs)

    monkeypatch.setattr(_scoring, "top_k", counting)
    monkeypatch.setattr(_scoring, "_BLOCK", 20 * 1024)
    found = scorer.per_query(adapter, X, y)
    assert sum(sizes) == len(X) and max(sizes) < 2048
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


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


@pytest.mark.parametrize(
    "corpus, error, message",
    [
        (["a", None], TypeError, r"corpus\[1\] must be a str or an int id, got None"),
        (["a", float("nan")], TypeError, r"corpus\[1\] must be"),
        (["a", b"b"], TypeError, "decode it"),
        ("a single document", TypeError, "corpus is the single str"),
        ({"a": 1}, TypeError, "corpus is a dict"),
        ({"a", "b"}, TypeError, "corpus is a set"),
        ((d for d in "ab"), TypeError, r"pass list\(corpus\)"),
        (7, TypeError, "corpus must be a list"),
        ([[0.5, np.nan]], ValueError, "corpus contain NaN"),
        ([["a", "b"]], TypeError, r"corpus\[0\] must be a str"),
        ([[1.0, 2.0], [1.0]], ValueError, r"corpus\[1\] has 1 .* different widths"),
    ],
)
def test_a_bad_corpus_is_refused_before_a_search(corpus, error, message):
    """In the search every score would be NaN, and any candidate the winner."""
    with pytest.raises(error, match=message):
        RetrievalScorer("ndcg@10", corpus=corpus)


@pytest.mark.parametrize(
    "corpus", [[], [1, 2], ["a", 1], ("a",), np.eye(2), [[1.0, 2.0]], np.array(["a"])]
)
def test_any_corpus_that_some_estimator_takes(corpus):
    assert RetrievalScorer("ndcg@10", corpus=corpus).corpus is corpus
