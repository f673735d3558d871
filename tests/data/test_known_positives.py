"""Known positives and negatives in training."""

import numpy as np
import pytest

from skembft import PrecomputedEncoder, SentenceEncoder
from tests.data.forms import N, adapter, model, unit


def is_identity(estimator):
    weight = estimator.weights_["query"]["weight"]
    return np.array_equal(weight, np.eye(len(weight)))


@pytest.mark.parametrize("negatives", ["batch", "corpus"])
@pytest.mark.parametrize("side", ["query", "both"])
def test_a_shared_document_is_no_negative(negatives, side):
    rng = np.random.RandomState(0)
    vectors = {name: rng.standard_normal(4) for name in ("p", "q", "a", "b")}
    encoder = PrecomputedEncoder(vectors)
    estimator = adapter(
        encoder, negatives=negatives, side=side, loss_params={"scale": 1}
    )
    estimator.fit(["p", "q"], ["a", "a"])
    assert is_identity(estimator)
    assert [entry["loss"] for entry in estimator.history_[1:]] == [0, 0, 0]
    estimator.fit(["p", "q"], [["a", "b"], ["b", "a"]])
    assert is_identity(estimator)
    assert [entry["loss"] for entry in estimator.history_[1:]] == [0, 0, 0]
    estimator.fit(["p", "q"], [["a", "b"], ["b"]])  # "a" is a negative of q
    assert not is_identity(estimator)
    assert estimator.history_[1]["loss"] > 0


@pytest.mark.parametrize("negatives", ["batch", "corpus"])
def test_rows_of_one_class_are_no_negatives(negatives):
    X = np.random.RandomState(0).standard_normal((9, 4))
    estimator = adapter(None, negatives=negatives).fit(X, [1] * 9)
    assert is_identity(estimator)
    assert [entry["loss"] for entry in estimator.history_[1:]] == [0, 0, 0]
    estimator.fit(X, [1] * 6 + [2] * 3)
    assert not is_identity(estimator)


@pytest.mark.parametrize("use_all_docs", [False, True])
def test_whole_model_with_all_documents_relevant(static_model, texts, use_all_docs):
    queries, d = texts
    # learning that d[0] answers queries[0] would need a negative, and there is none
    y = [[d[i % 3], d[(i + 1) % 3], d[(i + 2) % 3]] for i in range(6)]
    estimator = model(static_model, epochs=2, use_all_docs=use_all_docs)
    with pytest.warns(UserWarning, match="batches hold 1 pairs on average"):
        estimator.fit(queries[:6], y)
    assert {entry["loss"] for entry in estimator.history_[1:]} == {0.0}


def test_whole_model_with_a_repeated_document(static_model, texts):
    queries, d = texts
    estimator = model(static_model).fit(queries, [d[0]] * N)
    assert estimator.history_[-1]["loss"] == 0
    estimator.fit(queries, [d[0], *d[1:2] * (N - 1)])
    assert estimator.history_[-1]["loss"] > 0


# "a" … "e" equal their query: whoever took one as its negative would have a loss
TWINS = unit("q=a=b=c=d=e", "other", "p=r", "s")


@pytest.mark.parametrize("loss", ["triplet", "cosine_similarity"])
@pytest.mark.parametrize("seed", range(3))
def test_sampled_negatives_are_never_known_positives(loss, seed):
    encoder = PrecomputedEncoder(TWINS)
    estimator = adapter(encoder, loss=loss, epochs=10, random_state=seed)
    relevant = ["a", "b", "c", "d", "e"]
    estimator.fit(["q"], [relevant], corpus=["other"])
    assert [entry["loss"] for entry in estimator.history_[1:]] == [0] * 10
    estimator.set_params(use_all_docs=False).fit(["q"], [relevant], corpus=["other"])
    assert [entry["loss"] for entry in estimator.history_[1:]] == [0] * 10
    # said in several rows, and of a document that is not the first
    estimator.fit(["q", "p", "q"], [["a", "b", "c"], "r", ["d", "e"]])
    assert [entry["loss"] for entry in estimator.history_[1:]] == [0] * 10
    # unknown positives do get drawn
    estimator.fit(["q"], ["a"], corpus=["b", "c", "d", "e"])
    assert estimator.history_[1]["loss"] > 0.1


@pytest.mark.parametrize("loss", ["triplet", "cosine_similarity"])
def test_sampled_negatives_are_never_of_the_same_class(loss):
    X = np.eye(4)[[0] * 10 + [1]]
    estimator = adapter(None, loss=loss, epochs=10).fit(X, [0] * 10 + [1])
    assert [entry["loss"] for entry in estimator.history_[1:]] == [0] * 10
    estimator.fit(X, [0] * 5 + [1] * 6)
    assert estimator.history_[1]["loss"] > 0.1


@pytest.mark.parametrize("loss", ["triplet", "cosine_similarity"])
def test_judged_negatives_are_used(loss):
    # of the five documents that q may get, only the judged one is its twin
    encoder = PrecomputedEncoder(TWINS)
    wrong = {"triplet": 0.3, "cosine_similarity": 0.5}[loss]
    corpus = ["other", "r", "s"]
    for X, y in (
        (["q"], [{"a": 1, "b": 0}]),
        (["q"], [{"a": 1, "b": -2}]),
        (["q", "q"], [{"a": 1}, {"b": 0}]),
        ([("q", "a", "b")], None),
    ):
        estimator = adapter(encoder, loss=loss, epochs=1).fit(X, y, corpus=corpus)
        assert estimator.history_[-1]["loss"] == pytest.approx(wrong)
    estimator = adapter(encoder, loss=loss, epochs=1).fit(["q"], ["a"], corpus=corpus)
    assert estimator.history_[-1]["loss"] == 0


def test_labels_of_pairs_are_used_as_negatives_of_triplets():
    rows, labels = [("q", "a"), ("q", "b"), ("p", "r")], [1, 0, 1]
    estimator = adapter(PrecomputedEncoder(TWINS), loss="triplet", epochs=1)
    estimator.fit(rows, labels, corpus=["other", "s"])
    assert estimator.history_[-1]["loss"] == pytest.approx(0.15)  # q's, not p's


@pytest.mark.parametrize("negatives", ["batch", "corpus"])
def test_explicit_negatives_compete_in_infonce(negatives):
    estimator = adapter(PrecomputedEncoder(TWINS), negatives=negatives, epochs=1)
    estimator.fit([("q", "a", "b")])
    assert estimator.history_[-1]["loss"] == pytest.approx(np.log(2))
    estimator.fit([("q", "a", "b", "c")])
    assert estimator.history_[-1]["loss"] == pytest.approx(np.log(3))
    estimator.fit(["q"], [{"a": 1, "b": 0, "c": -1}])
    assert estimator.history_[-1]["loss"] == pytest.approx(np.log(3))
    estimator.fit([("q", "a")])
    assert estimator.history_[-1]["loss"] == 0


@pytest.fixture
def twins():
    """Texts of the same words, and so of the same vector; the last is another."""
    q = "red0 old1 wet2 shy3"
    words = q.split()
    same = [" ".join(words[i:] + words[:i]) for i in (1, 2, 3)]
    return q, [*same, " ".join(words[::-1])], "big5 big6"


@pytest.mark.parametrize("loss", ["triplet", "cosine_similarity", "contrastive"])
@pytest.mark.parametrize("use_all_docs", [False, True])
def test_negatives_of_the_whole_model_are_no_positives(
    static_model, twins, loss, use_all_docs
):
    q, same, other = twins
    encoder = SentenceEncoder(static_model)
    cosine = float((encoder.transform([q]) @ encoder.transform([other]).T).item())
    expected = {  # of the positives 0
        "triplet": max(0, 0.3 - np.sqrt(2 - 2 * cosine)),
        "cosine_similarity": cosine**2 / 2,
        "contrastive": max(0, 0.5 - (1 - cosine)) ** 2 / 4,
    }[loss]
    estimator = model(static_model, loss=loss, use_all_docs=use_all_docs)
    estimator.fit([q], [same], corpus=[other])
    assert estimator.history_[-1]["loss"] == pytest.approx(expected, abs=1e-5)
    estimator.fit([q], [same[:1]], corpus=same[1:])
    assert estimator.history_[-1]["loss"] > expected + 0.01


def test_explicit_negatives_of_the_whole_model(static_model, twins):
    q, same, other = twins
    estimator = model(static_model)
    estimator.fit([(q, same[0], same[1])])
    assert estimator.history_[-1]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    estimator.fit([q], [{same[0]: 1, same[1]: 0}])
    assert estimator.history_[-1]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    estimator.fit([(q, same[0], same[1], same[2])])
    assert estimator.history_[-1]["loss"] == pytest.approx(np.log(3), abs=1e-4)
    estimator.set_params(loss="triplet").fit([(q, same[0], same[1], other)])
    loss = estimator.history_[-1]["loss"]  # both negatives count, the twin for 0.3
    assert 0.14 < loss < 0.3


@pytest.mark.parametrize("make", [adapter, model])
def test_a_query_without_negatives_among_others_with_some(static_model, texts, make):
    # in-batch negatives need no negative for every query
    queries, d = texts
    y = [{d[0]: 1, d[1]: 1}, {d[0]: 1, d[1]: 0}]
    estimator = make(static_model).fit(queries[:2], y)
    assert estimator.history_[-1]["loss"] > 0


def known_positives_are_no_negatives(estimator, X, y, expected):
    """Either all losses are as expected, or an error says that negatives lack."""
    try:
        estimator.fit(X, y)
    except ValueError as error:
        assert "negative" in str(error)
    else:
        losses = [entry["loss"] for entry in estimator.history_[1:]]
        np.testing.assert_allclose(losses, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Training did not help")
@pytest.mark.parametrize("loss", ["triplet", "cosine_similarity"])
def test_holding_out_queries_makes_no_positive_a_negative(loss):
    # the documents left for training are all relevant to the query that is left
    estimator = adapter(
        PrecomputedEncoder(TWINS), loss=loss, validation_fraction=0.5, refit=False
    )
    known_positives_are_no_negatives(estimator, ["q", "p"], ["a", "r"], 0)
    X = np.eye(4)[[0, 0, 0, 1, 1]]
    estimator.set_params(encoder=None, validation_fraction=0.4)
    for seed in range(6):
        estimator.set_params(random_state=seed)
        known_positives_are_no_negatives(estimator, X, [0, 0, 0, 1, 1], 0)


@pytest.mark.filterwarnings("ignore:Training did not help")
def test_holding_out_queries_of_the_whole_model(static_model):
    queries, documents = ["red0 red1", "old0 old1"], ["red1 red0", "old1 old0"]
    estimator = model(static_model, loss="triplet", validation_fraction=0.5)
    known_positives_are_no_negatives(estimator, queries, documents, 0)
