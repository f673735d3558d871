"""mine_hard_negatives: a full sort in plain numpy as the oracle."""

import numpy as np
import pytest

from skembft import AdapterFinetuner, EmbeddingFinetuner, PrecomputedEncoder
from skembft.mining import mine_hard_negatives


@pytest.fixture(scope="module")
def index():
    rng = np.random.RandomState(0)
    queries = ([f"q{i}" for i in range(15)], rng.normal(size=(15, 6)))
    documents = ([f"d{i}" for i in range(200)], rng.normal(size=(200, 6)))
    return PrecomputedEncoder(queries, documents)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def expected_negatives(index, relevant, pool, n, margin):
    cosine = unit(index.queries[1]) @ unit(index.documents[1]).T
    out = []
    for row, positives in zip(cosine, relevant, strict=True):
        best = max(row[int(d[1:])] for d in positives)
        allowed = [
            d
            for d in sorted(pool, key=lambda d: -row[int(d[1:])])
            if d not in positives and row[int(d[1:])] <= best - margin * abs(best)
        ]
        out.append(allowed[:n])
    return out


RELEVANT = [[f"d{i}", f"d{i + 20}"] for i in range(15)]
QUERIES = [f"q{i}" for i in range(15)]
CORPUS = [f"d{i}" for i in range(200)]


@pytest.mark.parametrize("n, margin", [(1, 0.05), (3, 0.05), (5, 0.0), (7, 0.5)])
@pytest.mark.parametrize("form", ["list", "iterator", "portions"])
def test_equals_a_full_sort(index, n, margin, form, monkeypatch):
    corpus = CORPUS
    if form == "iterator":  # with documents that occur twice
        corpus = iter([CORPUS[:90], CORPUS[60:150], CORPUS[150:]])
    elif form == "portions":
        monkeypatch.setattr("skembft.mining._hard_negatives._CHUNK", 17)
    y = mine_hard_negatives(
        index, QUERIES, RELEVANT, corpus=corpus, n_negatives=n, relative_margin=margin
    )
    found = [[d for d, grade in graded.items() if grade == 0] for graded in y]
    assert found == expected_negatives(index, RELEVANT, CORPUS, n, margin)
    for graded, positives in zip(y, RELEVANT, strict=True):
        assert {d for d, grade in graded.items() if grade > 0} == set(positives)


def test_documents_that_occur_in_many_lists_count_once(index):
    y = mine_hard_negatives(index, QUERIES, RELEVANT, corpus=iter([CORPUS] * 4))
    found = [[d for d, grade in graded.items() if grade == 0] for graded in y]
    assert found == expected_negatives(index, RELEVANT, CORPUS, 5, 0.05)


def test_without_corpus_the_documents_of_y_are_searched(index):
    y = mine_hard_negatives(index, QUERIES, RELEVANT, n_negatives=4)
    pool = [d for positives in RELEVANT for d in positives]
    found = [[d for d, grade in graded.items() if grade == 0] for graded in y]
    assert found == expected_negatives(index, RELEVANT, pool, 4, 0.05)


def test_grades_and_judged_negatives_are_kept(index):
    y = [{"d0": 2, "d1": 1, "d2": 0}] + [{f"d{i}": 1} for i in range(1, 15)]
    mined = mine_hard_negatives(index, QUERIES, y, corpus=CORPUS, n_negatives=2)
    assert mined[0]["d0"] == 2 and mined[0]["d1"] == 1 and mined[0]["d2"] == 0
    assert 4 <= len(mined[0]) <= 5  # d2 may be among the mined
    assert all(sum(g > 0 for g in row.values()) == 1 for row in mined[1:])


def test_table_and_repeated_queries(index):
    rows = [("q0", "d0"), ("q1", "d1"), ("q0", "d20")]
    mined = mine_hard_negatives(index, rows, corpus=CORPUS, n_negatives=3)
    assert mined[0] == mined[2] and {"d0", "d20"} <= set(mined[0])
    assert len(mined) == 3


def test_both_finetuners_take_what_was_mined(static_model, pairs):
    queries, documents = pairs
    mined = mine_hard_negatives(static_model, queries, documents, n_negatives=2)
    assert all(1 <= len(graded) <= 3 for graded in mined)
    options = {"epochs": 1, "validation_fraction": None, "random_state": 0}
    adapter = AdapterFinetuner(static_model, loss="triplet", **options)
    assert adapter.fit(queries, mined).n_iter_ == 1
    whole = EmbeddingFinetuner(static_model, loss="triplet", batch_size=20, **options)
    assert whole.fit(queries, mined).n_iter_ == 2
    # and a fitted finetuner can mine for the next one
    again = mine_hard_negatives(adapter, queries, documents, n_negatives=2)
    assert len(again) == len(queries)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"n_negatives": 0}, ValueError, "n_negatives must be a positive whole"),
        ({"relative_margin": 1.0}, ValueError, r"relative_margin must be in \[0, 1\)"),
        ({"corpus": [1.5]}, TypeError, r"corpus\[0\] must be a str or an int id"),
        ({"corpus": iter([["d1"], "d2"])}, TypeError, "corpus, list 1 is the single"),
        ({"corpus": ["d1", "nowhere"]}, ValueError, "have no vector"),
    ],
)
def test_bad_input(index, options, error, message):
    with pytest.raises(error, match=message):
        mine_hard_negatives(index, QUERIES, RELEVANT, **options)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="negatives='hard'"):
        mine_hard_negatives(AdapterFinetuner(None), [[1.0, 2.0]], [[1.0, 2.0]])
