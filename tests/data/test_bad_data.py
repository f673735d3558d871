"""Bad data are named before anything is loaded, encoded or written."""

import warnings

import numpy as np
import pandas as pd
import pytest

from skembft import AdapterFinetuner
from tests.data.bad_data import (
    CELL_CASES,
    CORPUS_CASES,
    LABEL_CASES,
    TABLE_CASES,
    X_CASES,
    Y_CASES,
)
from tests.data.forms import adapter
from tests.finetuner.bad_input import ESTIMATORS, MISSING, both, cases, estimators, made


@cases(X_CASES)
@estimators
def test_bad_X(estimator, case):
    X, error, message = X_CASES[case]
    with pytest.raises(error, match=message):
        ESTIMATORS[estimator]().fit(made(X), ["c", "d"])


@cases(TABLE_CASES)
@estimators
def test_bad_tables(estimator, case):
    X, message = TABLE_CASES[case]
    with pytest.raises(ValueError, match=message):
        ESTIMATORS[estimator]().fit(X)


@cases(CELL_CASES)
@estimators
def test_bad_cells(estimator, case):
    X, message = CELL_CASES[case]
    with pytest.raises(TypeError, match=message):
        ESTIMATORS[estimator]().fit(X)


@cases(Y_CASES)
@estimators
def test_bad_y(estimator, case):
    y, error, message = Y_CASES[case]
    with pytest.raises(error, match=message):
        ESTIMATORS[estimator]().fit(["a", "b"], made(y))


@cases(LABEL_CASES)
@estimators
def test_bad_labels(estimator, case):
    y, error, message = LABEL_CASES[case]
    with pytest.raises(error, match=message):
        ESTIMATORS[estimator]().fit([("a", "b"), ("c", "d")], made(y))


@cases(CORPUS_CASES)
@estimators
def test_bad_corpus(estimator, case):
    corpus, error, message = CORPUS_CASES[case]
    with pytest.raises(error, match=message):
        ESTIMATORS[estimator]().fit(["a", "b"], ["c", "d"], corpus=made(corpus))


@estimators
def test_labels_of_a_wide_table(estimator):
    rows = [("a", "b", "c"), ("b", "c", "d")]
    with pytest.raises(ValueError, match="a table of 3 columns; .*Pass y=None"):
        ESTIMATORS[estimator]().fit(rows, [1, 0])


@estimators
def test_nothing_relevant(estimator):
    message = "nothing to learn .* no query has a relevant document"
    for y in ([{"c": 0}, {"d": -1}], [{"c": 0}, {"c": 0, "d": 0}]):
        with pytest.raises(ValueError, match=message):
            ESTIMATORS[estimator]().fit(["a", "b"], y)


@estimators
@pytest.mark.parametrize("loss", ["multiple_negatives_ranking", "triplet"])
def test_labels_without_a_positive(estimator, loss):
    # labels of 0 only are enough for a loss of labels, but not for these
    estimator = ESTIMATORS[estimator]().set_params(loss=loss)
    with pytest.raises(ValueError, match="relevant document"):
        estimator.fit([("a", "c"), ("b", "d")], [0, 0])


@estimators
def test_a_loss_that_needs_negatives_where_all_is_relevant(estimator):
    estimator = ESTIMATORS[estimator]().set_params(loss="triplet")
    with pytest.raises(ValueError, match="Every document is relevant.*corpus="):
        estimator.fit(["a", "b"], ["c", "c"])


@estimators
def test_long_values_are_shortened(estimator):
    with pytest.raises(TypeError, match=r"X\[1\] must be") as error:
        ESTIMATORS[estimator]().fit(["a", b"x" * 10_000], ["c", "d"])
    assert len(str(error.value)) < 300


@both
def test_ids_need_an_encoder_that_knows_them(cls):
    message = r"X\[0\] must be a str, got 1; ids .*encoder=PrecomputedEncoder"
    with pytest.raises(TypeError, match=message):
        cls(MISSING).fit([1, 2], ["a", "b"])
    with pytest.raises(TypeError, match=r"X\[0\]\[1\] must be a str, got 2; ids"):
        cls(MISSING).fit([("a", 2)])


@both
def test_vectors_need_no_encoder(cls):
    message = r"X\[0\]\[0\] must be a str, got 0\.5; .*vectors with encoder=None"
    with pytest.raises(TypeError, match=message):
        cls(MISSING).fit(np.full((3, 4), 0.5), [0, 1, 0])


# validation data


@estimators
def test_validation_data_without_queries(estimator):
    estimator = ESTIMATORS[estimator]()
    for given in ({"y_val": ["c"]}, {"corpus_val": ["c"]}):
        with pytest.raises(ValueError, match="y_val and corpus_val go with X_val"):
            estimator.fit(["a", "b"], ["c", "d"], **given)


@estimators
@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"X_val": ["a", None], "y_val": ["c", "d"]}, TypeError, r"X_val\[1\] must be"),
        ({"X_val": ["a"], "y_val": [None]}, TypeError, r"y_val\[0\] must be"),
        (
            {"X_val": ["a"], "y_val": ["c", "d"]},
            ValueError,
            "X_val has 1 .*y_val has 2",
        ),
        ({"X_val": []}, ValueError, "X_val is empty"),
        (
            {"X_val": ["a"], "y_val": ["c"], "corpus_val": ["c", None]},
            TypeError,
            r"corpus_val\[1\] must be",
        ),
    ],
)
def test_bad_validation_data_are_named(estimator, given, error, message):
    with pytest.raises(error, match=message):
        ESTIMATORS[estimator]().fit(["a", "b"], ["c", "d"], **given)


@estimators
def test_validation_data_with_nothing_relevant(estimator):
    estimator = ESTIMATORS[estimator]()
    with pytest.raises(ValueError, match="relevant document"):
        estimator.fit(["a", "b"], ["c", "d"], X_val=["a"], y_val=[{"c": 0}])


def test_columns_of_validation_frames_are_named(static_model):
    frame = pd.DataFrame({"query": ["red0"], "document": ["red1"], "id": [1]})
    with pytest.raises(ValueError, match="not expected: .'id'.*as X_val"):
        adapter(static_model).fit(["red0"], ["red1"], X_val=frame)


# what is left alone


@both
def test_nothing_is_written_before_an_error(cls, tmp_path, monkeypatch, static_model):
    monkeypatch.chdir(tmp_path)
    for X, y in ((["a", None], ["c", "d"]), (["a", "b"], ["c"])):
        with pytest.raises((TypeError, ValueError)):
            cls(static_model).fit(X, y)
    assert not list(tmp_path.iterdir())


@both
def test_nothing_is_encoded_before_an_error(cls, static_model, encoded_rows):
    estimator = cls(static_model, validation_fraction=0.5)
    for X, y in ((["a", "b", 3], ["c", "d", "e"]), (["a", "b"], ["c", None])):
        with pytest.raises(TypeError):
            estimator.fit(X, y)
    assert not encoded_rows
    assert not [name for name in vars(estimator) if name.endswith("_")]


# empty strings


def warnings_of(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function()
    return result, [str(w.message) for w in caught if "empty string" in str(w.message)]


@both
@pytest.mark.parametrize(
    "X, y, what",
    [
        (["", "red0", "old0"], ["red1", "old1", "wet1"], "a query"),
        (["wet0", "red0", "old0"], ["red1", "", "wet1"], "a document"),
        (["wet0", "red0", "old0"], ["red1", ["", "old1"], "wet1"], "a document"),
        (["", "red0", ""], ["", "", "wet1"], "a query and a document"),
        ([("red0", "old0", ""), ("", "wet0", "")], None, "a query and a document"),
    ],
)
def test_empty_strings_are_allowed_with_one_warning(cls, static_model, X, y, what):
    estimator = cls(static_model, epochs=1, validation_fraction=0.4)
    fitted, found = warnings_of(lambda: estimator.fit(X, y))
    assert len(found) == 1 and found[0].count(f"as {what};") == 1
    score, found = warnings_of(lambda: fitted.score(X, y))
    assert len(found) == 1 and 0 <= score <= 1
    vectors, _ = warnings_of(lambda: fitted.transform(["", "red0"]))
    assert np.isfinite(vectors).all() and vectors.shape == (2, 16)


def test_no_warning_without_empty_strings(static_model):
    estimator = AdapterFinetuner(static_model, epochs=1)
    _, found = warnings_of(lambda: estimator.fit([" ", "red0"], ["red1", "old1"]))
    assert not found
