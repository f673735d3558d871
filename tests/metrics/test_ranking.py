"""The ranking itself: ties, and blocks that find what a full sort finds."""

import numpy as np
import pytest

import skembft.metrics._ranking
from skembft import AdapterFinetuner, PrecomputedEncoder
from skembft.metrics import RetrievalScorer
from tests.metrics.oracles import grid_vectors


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
