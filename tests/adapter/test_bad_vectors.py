"""Bad vectors given to AdapterFinetuner(encoder=None)."""

import numpy as np
import pytest

from skembft import AdapterFinetuner
from tests.finetuner.bad_input import cases, made

RNG = np.random.RandomState(0)
X = RNG.standard_normal((8, 4))
Y = RNG.standard_normal((8, 4))
LABELS = [0, 1] * 4


def spoiled(matrix, value=np.nan):
    matrix = matrix.copy()
    matrix[2, 1] = value
    return matrix


VECTOR_CASES = {
    "no y": (X, None, ValueError, "requires y to be passed, but the target y is None"),
    "X nan": (spoiled(X), Y, ValueError, "Input X contains NaN"),
    "X inf": (spoiled(X, np.inf), LABELS, ValueError, "Input X contains infinity"),
    "X empty": (X[:0], Y[:0], ValueError, "0 sample"),
    "X 1-D": (X[0], [1, 0, 1, 0], ValueError, "Expected 2D array, got 1D array"),
    "X texts": (["a", "b"], ["c", "d"], ValueError, "could not convert|2D array"),
    "y nan": (X, spoiled(Y), ValueError, "y contain NaN or infinity, first in row 2"),
    "y inf": (X, spoiled(Y, -np.inf), ValueError, "NaN or infinity, first in row 2"),
    "y narrow": (X, Y[:, :3], ValueError, "y has vectors of width 3, expected 4"),
    "y short": (X, Y[:5], ValueError, "X has 8 rows, but y has 5 vectors"),
    "y texts": (X, [["a", "b"]] * 8, ValueError, "y must be a matrix of numbers"),
    "y 3-D": (X, np.ones((8, 4, 2)), ValueError, r"y must be a matrix .*\(8, 4, 2\)"),
    "labels short": (X, [0, 1], ValueError, "X has 8 rows, but y has 2 labels"),
    "labels nan": (X, [0, np.nan] * 4, ValueError, "y.* contains NaN"),
    "labels None": (X, [0, None] * 4, TypeError, r"y\[1\].*None"),
    "names None": (X, ["a", None] * 4, TypeError, r"y\[1\].*None"),
    "names nan": (X, ["a", np.nan] * 4, (TypeError, ValueError), r"y.*nan"),
    "labels lists": (X, [["a"], ["b", "c"]] * 4, (TypeError, ValueError), r"\by\b"),
    "labels dicts": (X, [{"a": 1}] * 8, TypeError, r"\by\[0\]"),
    "y str": (X, "ab", TypeError, "y is the single str 'ab'"),
    "y dict": (X, {"a": 1}, TypeError, "y is a dict; pass a list"),
    "y set": (X, {0, 1}, TypeError, r"y is a set, .*sorted\(y\)"),
    "y generator": (X, lambda: (x for x in (0, 1)), TypeError, r"pass list\(y\)"),
    "all different": (X, range(8), ValueError, "nothing to learn .*same class"),
}


@cases(VECTOR_CASES)
def test_bad_vectors(case):
    X, y, error, message = VECTOR_CASES[case]
    with pytest.raises(error, match=message):
        AdapterFinetuner(None).fit(X, made(y))


@pytest.fixture(scope="module")
def on_vectors():
    return AdapterFinetuner(None, epochs=1, validation_fraction=None).fit(X, Y)


@cases(VECTOR_CASES)
def test_score_of_bad_vectors(on_vectors, case):
    X, y, error, message = VECTOR_CASES[case]
    if case == "all different":
        message = "No query has a relevant document"
    with pytest.raises(error, match=message):
        on_vectors.score(X, made(y))


def test_class_labels_whose_training_part_has_no_pair():
    # one class of two, of which one row is held out: what is left cannot be learnt
    estimator = AdapterFinetuner(None, validation_fraction=0.1)
    with pytest.raises(ValueError, match="validation_fraction|nothing to learn"):
        estimator.fit(X[:5], [0, 0, 1, 2, 3])


def test_corpus_of_vectors():
    estimator = AdapterFinetuner(None)
    with pytest.raises(ValueError, match="corpus= does not go with class labels"):
        estimator.fit(X, LABELS, corpus=Y)
    with pytest.raises(ValueError, match="corpus has vectors of width 3, expected 4"):
        estimator.fit(X, Y, corpus=Y[:, :3])
    with pytest.raises(ValueError, match="corpus contain NaN .*first in row 2"):
        estimator.fit(X, Y, corpus=spoiled(Y))
    with pytest.raises(ValueError, match="corpus must be a matrix of numbers"):
        estimator.fit(X, Y, corpus=["a", "b"])


def test_use_of_bad_vectors(on_vectors):
    with pytest.raises(ValueError, match="X has 3 features, but .*4 features"):
        on_vectors.transform(X[:, :3])
    with pytest.raises(ValueError, match="Input X contains NaN"):
        on_vectors.transform(spoiled(X))
    with pytest.raises(ValueError, match="D has vectors of width 3, expected 4"):
        on_vectors.transform_documents(Y[:, :3])
    with pytest.raises(ValueError, match="D contain NaN or infinity, first in row 2"):
        on_vectors.transform_documents(spoiled(Y))
    with pytest.raises(ValueError, match="width 3, expected 4"):
        on_vectors.retrieve(X, Y[:, :3])
    with pytest.raises(ValueError, match="3.*4"):
        on_vectors.score(X[:, :3], Y[:, :3])


@pytest.mark.parametrize("given", [{"y_val": Y}, {"corpus_val": Y}])
def test_validation_vectors_without_queries(given):
    with pytest.raises(ValueError, match="y_val and corpus_val go with X_val"):
        AdapterFinetuner(None).fit(X, Y, **given)


def test_validation_vectors_of_another_width():
    with pytest.raises(ValueError, match="3 features, but .*4 features"):
        AdapterFinetuner(None).fit(X, Y, X_val=X[:, :3], y_val=Y[:, :3])
