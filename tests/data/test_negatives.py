"""Drawn negatives: all that are not known are equally likely, at the cost of a draw."""

import numpy as np
import pytest
from scipy import stats

from skembft._data.judgements import check_retrieval_data
from skembft._data.vectors import check_vector_data


def judged(seed=0):
    """Texts: some queries know nearly all documents, one all, one is a document."""
    rng = np.random.RandomState(seed)
    documents = [f"d{i}" for i in range(30)]
    relevant = [
        list(rng.choice(documents, n, replace=False))
        for n in (1, 2, 15, 28, 29, 30, 1, 3)
    ]
    queries = [*(f"q{i}" for i in range(7)), "d5"]
    return check_retrieval_data(queries, relevant, kind="text", corpus=documents)


def labelled(seed=0):
    """Vectors of four classes, one of which has nearly all rows."""
    rng = np.random.RandomState(seed)
    labels = rng.permutation([0] * 40 + [1] * 5 + [2] * 2 + [3])
    return check_vector_data(rng.normal(size=(48, 3)), labels)


def parts(data):
    """All queries, and some, of which the pool is smaller."""
    return data, data.subset(np.arange(0, data.n_queries, 2))


def unknown(data, query):
    same = np.full(len(data.pool), query)
    return data.pool[~data.relevance.is_known(same, data.pool)]


class Evenly:
    """A generator that gives the numbers (i + 1/2) / n, one for each of n queries."""

    def __init__(self):
        self.sizes = []

    def random_sample(self, size):
        self.sizes.append(np.prod(size))
        return ((np.arange(self.sizes[-1]) + 0.5) / max(self.sizes[-1], 1)).reshape(
            size
        )


@pytest.mark.parametrize("make", [judged, labelled])
@pytest.mark.parametrize("seed", range(3))
def test_each_unknown_document_has_one_share_of_the_draws(make, seed):
    for data in parts(make(seed)):
        for query in range(data.n_queries):
            wanted = unknown(data, query)
            if len(wanted):
                same = np.full(len(wanted), query)
                drawn = data.negatives(same, 1, Evenly())[:, 0]
                np.testing.assert_array_equal(np.sort(drawn), wanted)


@pytest.mark.parametrize("make", [judged, labelled])
def test_draws_are_uniform_and_independent_of_the_other_queries(make):
    for data in parts(make()):
        queries = np.tile(np.arange(data.n_queries), 2000)
        drawn = data.negatives(queries, 2, np.random.RandomState(0))
        for query in range(data.n_queries):
            found, counts = np.unique(drawn[queries == query], return_counts=True)
            wanted = unknown(data, query)
            if not len(wanted):
                assert np.isin(found, data.pool).all()
                continue
            np.testing.assert_array_equal(found, wanted)
            assert len(found) == 1 or stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("share", [0.5, 0.95, 0.9999])
def test_a_negative_takes_one_draw(share):
    """However few documents are of another class: none is drawn in vain."""
    n = 20_000
    labels = (np.arange(n) >= share * n).astype(int)
    data = check_vector_data(np.arange(2.0 * n).reshape(n, 2), labels)
    rng = Evenly()
    drawn = data.negatives(np.arange(n), 1, rng)[:, 0]
    assert sum(rng.sizes) == n
    assert (labels[drawn] != labels).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_judged_negatives_in_turn(count):
    """Neighbours in the list, from a random one where there are more than asked for."""
    given = [[], ["a"], ["a", "b"], ["a", "b", "c", "d"], ["f"]]
    y = [{"r": 1, **dict.fromkeys(negatives, 0)} for negatives in given]
    corpus = list("abcdefr")
    queries = [f"q{i}" for i in range(5)]
    data = check_retrieval_data(queries, y, kind="text", corpus=corpus)
    rng = np.random.RandomState(0)
    drawn = data.negatives(np.tile(np.arange(5), 300), count, rng)
    names = np.array(data.documents)[drawn].reshape(300, 5, count)
    assert set(names[:, 0].ravel()) == set("abcdef")
    starts = set()
    for query in range(1, 5):
        judged = given[query]
        for row in names[:, query]:
            start = judged.index(row[0])
            turn = [judged[(start + i) % len(judged)] for i in range(count)]
            assert row.tolist() == turn
            assert start == 0 or len(judged) > count
            starts.add((query, start))
    assert len(starts) == sum(
        len(judged) if len(judged) > count else 1 for judged in given[1:]
    )


def test_no_negatives_of_none():
    data = judged()
    assert data.negatives(np.arange(3), 0, np.random.RandomState(0)).shape == (3, 0)
    none = np.empty(0, dtype=int)
    assert data.negatives(none, 2, np.random.RandomState(0)).shape == (0, 2)
