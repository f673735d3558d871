"""Bad data given to what is fitted: transform, retrieve, score and the scorer."""

import numpy as np
import pytest

from skembft import (
    AdapterFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.metrics import RetrievalScorer
from tests.data.bad_data import CORPUS_CASES, LABEL_CASES, TABLE_CASES, X_CASES, Y_CASES
from tests.finetuner.bad_input import cases, made


@pytest.fixture(scope="module")
def fitted(static_model):
    X, y = ["red0", "old1", "wet2"], ["red1", "old2", "wet3"]
    index = PrecomputedEncoder({t: np.eye(6)[i] for i, t in enumerate(X + y)})
    small, frozen = {"epochs": 1, "random_state": 0}, {"validation_fraction": None}
    return {
        "adapter": AdapterFinetuner(static_model, **small, **frozen).fit(X, y),
        "model": EmbeddingFinetuner(static_model, device="cpu", **small).fit(X, y),
        "ids": AdapterFinetuner(index, **small, **frozen).fit(X, y),
        "encoder": SentenceEncoder(static_model, device="cpu"),
        "index": index,
    }


USED = ["adapter", "model", "ids", "encoder", "index"]


@cases(X_CASES)
@pytest.mark.parametrize("name", USED)
def test_transform_of_bad_X(fitted, name, case):
    X, error, message = X_CASES[case]
    with pytest.raises(error, match=message):
        fitted[name].transform(made(X))


@cases(TABLE_CASES)
@pytest.mark.parametrize("name", USED)
def test_transform_of_bad_tables(fitted, name, case):
    X, message = TABLE_CASES[case]
    with pytest.raises(ValueError, match=message):
        fitted[name].transform(X)


@cases(CORPUS_CASES)
@pytest.mark.parametrize("name", USED)
def test_transform_of_bad_documents(fitted, name, case):
    corpus, error, message = CORPUS_CASES[case]
    message = message.replace("corpus", "D")
    with pytest.raises(error, match=message):
        fitted[name].transform_documents(made(corpus))


@cases(CORPUS_CASES)
@pytest.mark.parametrize("name", ["adapter", "model", "ids"])
def test_retrieval_from_a_bad_corpus(fitted, name, case):
    corpus, error, message = CORPUS_CASES[case]
    with pytest.raises(error, match=message):
        fitted[name].retrieve(["red0"], made(corpus))
    with pytest.raises(error, match=message):
        fitted[name].score(["red0"], ["red1"], corpus=made(corpus))
    with pytest.raises(error, match=message):
        RetrievalScorer(corpus=made(corpus))(fitted[name], ["red0"], ["red1"])


@cases(Y_CASES)
@pytest.mark.parametrize("name", USED)
def test_score_of_bad_y(fitted, name, case):
    y, error, message = Y_CASES[case]
    X = ["red0", "old1"]
    if hasattr(fitted[name], "score"):
        with pytest.raises(error, match=message):
            fitted[name].score(X, made(y))
    with pytest.raises(error, match=message):
        RetrievalScorer()(fitted[name], X, made(y))


@cases(LABEL_CASES)
@pytest.mark.parametrize("name", ["adapter", "model", "ids"])
def test_score_of_bad_labels(fitted, name, case):
    y, error, message = LABEL_CASES[case]
    with pytest.raises(error, match=message):
        fitted[name].score([("red0", "red1"), ("old1", "old2")], made(y))


@pytest.mark.parametrize("name", ["adapter", "model", "ids"])
@pytest.mark.parametrize("k", [0, -1, 1.5, "3", None])
def test_wrong_number_of_documents_to_retrieve(fitted, name, k):
    with pytest.raises(ValueError, match="k must be a positive whole number, got"):
        fitted[name].retrieve(["red0"], ["red1"], k=k)


def test_missing_ids_in_use(fitted):
    for use in (
        lambda: fitted["ids"].transform(["red0", "zz"]),
        lambda: fitted["ids"].transform_documents(["zz"]),
        lambda: fitted["ids"].retrieve(["red0"], ["red1", "zz"]),
        lambda: fitted["ids"].score(["red0"], ["zz"]),
        lambda: fitted["index"].transform(["zz"]),
        lambda: RetrievalScorer(corpus=["zz"])(fitted["index"], ["red0"], ["red1"]),
    ):
        with pytest.raises(ValueError, match=r"1 id\(s\) have no vector .*'zz'"):
            use()
