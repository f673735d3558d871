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


@pytest.mark.parametrize("n_lists", [2, 9, 40])
@pytest.mark.parametrize("n", [1, 5, 300])
def test_overlapping_lists_are_one_corpus(index, n, n_lists):
    """Also where a document comes again after better ones have pushed it out."""
    rng = np.random.RandomState(n)
    queries = [f"q{i}" for i in range(15)]
    relevant = [f"d{i}" for i in range(15)]
    documents = [f"d{i}" for i in range(200)]
    lists = [list(rng.choice(documents, 60, replace=False)) for _ in range(n_lists)]
    corpus = list(dict.fromkeys(d for part in lists for d in part))
    options = {"n_negatives": n, "relative_margin": 0.0}
    expected = mine_hard_negatives(index, queries, relevant, corpus=corpus, **options)
    found = mine_hard_negatives(index, queries, relevant, corpus=iter(lists), **options)
    assert found == expected
    assert list(map(list, found)) == list(map(list, expected))  # in the same order


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


def test_rows_of_a_query_keep_their_own_documents(index):
    rows = [("q0", "d0"), ("q1", "d1"), ("q0", "d20")]
    mined = mine_hard_negatives(index, rows, corpus=CORPUS, n_negatives=3)
    positive = [[d for d, grade in graded.items() if grade > 0] for graded in mined]
    assert positive == [["d0"], ["d1"], ["d20"]]
    negatives = [[d for d, grade in graded.items() if grade == 0] for graded in mined]
    assert negatives[0] == negatives[2] and len(negatives[0]) == 3
    assert not {"d0", "d20"} & set(negatives[0])  # known positives of the query


# of every form X, y, and the documents that its rows hold, positives first
FORMS = {
    "lists, most relevant first": (
        ["q0", "q1", "q2"],
        [["d9", "d3"], ["d150", "d2", "d77"], ["d2"]],
        [["d9", "d3"], ["d150", "d2", "d77"], ["d2"]],
    ),
    "grades": (
        ["q0", "q1"],
        [{"d9": 1, "d3": 2, "d5": 0, "d4": 2}, {"d150": 0.5, "d2": 0.5}],
        [["d3", "d4", "d9", "d5"], ["d150", "d2"]],
    ),
    "pairs, three of a query": (
        [("q0", "d9"), ("q0", "d3"), ("q1", "d9"), ("q0", "d5")],
        None,
        [["d9"], ["d3"], ["d9"], ["d5"]],
    ),
    "triplets": (
        [("q0", "d9", "d8"), ("q0", "d3", "d7"), ("q1", "d7", "d9")],
        None,
        [["d9", "d8"], ["d3", "d7"], ["d7", "d9"]],
    ),
    "labelled pairs": (
        [("q0", "d9"), ("q0", "d3"), ("q1", "d9")],
        [1, 0, 0.5],
        [["d9"], ["d3"], ["d9"]],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_pairs_before_and_after(index, form):
    X, y, expected = FORMS[form]
    mined = mine_hard_negatives(index, X, y, corpus=CORPUS, n_negatives=2)
    kept = [[*row][: len(own)] for row, own in zip(mined, expected, strict=True)]
    assert kept == expected
    queries = [row[0] for row in X] if isinstance(X[0], tuple) else X
    for use_all_docs in (False, True):
        options = {
            "use_all_docs": use_all_docs,
            "validation_fraction": None,
            "solver": "closed_form",  # of the pairs alone
        }
        before = AdapterFinetuner(index, **options).fit(X, y)
        after = AdapterFinetuner(index, **options).fit(queries, mined)
        np.testing.assert_array_equal(
            before.weights_["query"]["weight"], after.weights_["query"]["weight"]
        )


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
        ({"absolute_margin": -0.1}, ValueError, "absolute_margin must be 0 or more"),
        ({"max_score": np.nan}, ValueError, "max_score must be a number or None"),
        ({"min_score": "0.2"}, ValueError, "min_score must be a number or None"),
        ({"min_score": 0.5, "max_score": 0.4}, ValueError, "no document is within"),
        ({"range_min": -1}, ValueError, "range_min must be 0 or a positive whole"),
        ({"range_max": 2.5}, ValueError, "range_max must be a positive whole"),
        (
            {"range_min": 3, "range_max": 7},
            ValueError,
            "leaves less than n_negatives=5",
        ),
        ({"sampling_strategy": "hard"}, ValueError, "must be 'top' or 'random'"),
        ({"sampling_strategy": "random", "random_state": "a"}, ValueError, "seed"),
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


def test_rounding_leaves_out_no_copy_of_the_positive():
    """ "0 leaves out only those above it": the same vector is not above."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        query, other = rng.normal(size=(2, 64))
        near = query + rng.normal(size=64)
        encoder = PrecomputedEncoder(
            {"q": query, "a": near, "a2": near.copy(), "b": other, "same": query.copy()}
        )
        corpus = ["a", "a2", "b"]
        [row] = mine_hard_negatives(
            encoder, ["q"], ["a"], corpus=corpus, relative_margin=0
        )
        assert "a2" in row
        [row] = mine_hard_negatives(
            encoder, ["q"], ["a"], corpus=[*corpus, "same"], relative_margin=None,
            max_score=1.0,
        )  # fmt: skip
        assert "same" in row


@pytest.mark.parametrize("options", [{"range_max": 10**12}, {"n_negatives": 10**12}])
def test_memory_is_that_of_the_corpus(options):
    encoder = PrecomputedEncoder({"q": [1, 0.0], "a": [0.9, 0.3], "b": [0.6, 0.6]})
    [row] = mine_hard_negatives(encoder, ["q"], ["a"], corpus=["b"], **options)
    assert row == {"a": 1.0, "b": 0.0}
