"""Missing ids, and vectors that an encoder should not hold or give."""

import numpy as np
import pytest
from sklearn.utils._param_validation import InvalidParameterError

from skembft import AdapterFinetuner, PrecomputedEncoder
from skembft.metrics import RetrievalScorer
from tests.finetuner.bad_input import INDEX

# ids


@pytest.mark.parametrize(
    "X, y, fit_params, message",
    [
        (["a", "zz"], ["b", "c"], {}, r"1 id\(s\) have no vector .*queries.*'zz'"),
        (["a", "b"], ["zz", 7], {}, r"2 id\(s\) .*documents .*first 'zz'"),
        (["a", "b"], ["c", {"d": 1, "zz": 0}], {}, r"documents .*'zz'"),
        ([("a", "b", "zz")], None, {}, r"documents .*first 'zz'"),
        (["a", "b"], ["c", "d"], {"corpus": ["a", 9]}, r"documents .*first 9\."),
        (["a"], ["c"], {"X_val": ["zz"], "y_val": ["c"]}, "queries .*'zz'"),
    ],
)
def test_missing_ids(X, y, fit_params, message):
    with pytest.raises(ValueError, match=message + ".*Add the vectors, or leave"):
        AdapterFinetuner(INDEX).fit(X, y, **fit_params)


def test_missing_ids_of_the_other_type():
    index = PrecomputedEncoder({1: [1.0], "2": [2.0]})
    with pytest.raises(ValueError, match=r"first '1' \(but 1 has one\)"):
        index.transform(["1"])
    with pytest.raises(ValueError, match=r"first 2 \(but '2' has one\)"):
        index.transform_documents([1, 2])


def test_ids_that_are_floats():
    # what pandas makes of ids when one is missing
    with pytest.raises(TypeError, match=r"X\[0\] must be a str or an int id, got 1\.0"):
        AdapterFinetuner(PrecomputedEncoder({1: [1.0]})).fit([1.0, 2.0], [1, 1])


# vectors


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"a": [1, 0], "b": [1, 0, 0]}, ValueError, r"'b'.* has 3 dim.*'a'\] has 2"),
        (
            {"a": [1, 0], "b": [1, np.nan]},
            ValueError,
            "NaN or infinity, first in row 1",
        ),
        ({"a": [np.inf, 0]}, ValueError, "NaN or infinity, first in row 0"),
        ({"a": 1.0}, ValueError, r"queries\['a'\] must be a vector, got 1\.0"),
        ({"a": ["x", "y"]}, ValueError, "must be a matrix of numbers"),
        ({}, ValueError, "queries holds no vectors"),
        ({None: [1.0]}, TypeError, "must be a str or an int id, got None"),
        ({1.5: [1.0]}, TypeError, r"must be a str or an int id, got 1\.5"),
        ((["a", "b"], np.eye(3)), ValueError, "2 ids, but 3 vectors"),
        ((["a", "a"], np.eye(2)), ValueError, "repeated ids: 2, 1 distinct"),
        ((["a", "b"], np.ones(2)), ValueError, "must be a matrix of numbers"),
        ((["a", "b"], np.eye(2), 3), ValueError, r"\{id: vector\} or \(ids, matrix\)"),
        ((["a", None], np.eye(2)), TypeError, r"\[1\] must be .*, got None"),
    ],
)
def test_bad_precomputed_vectors(given, error, message):
    encoder = PrecomputedEncoder(given)
    with pytest.raises(error, match=message):
        encoder.fit()
    with pytest.raises(error, match=message):
        AdapterFinetuner(encoder).fit(["a", "b"], ["b", "a"])


def test_precomputed_encoder_without_vectors():
    with pytest.raises(ValueError, match="has no vectors: pass queries="):
        PrecomputedEncoder().transform(["a"])
    with pytest.raises(InvalidParameterError, match="'queries' parameter"):
        PrecomputedEncoder(3).fit()


WIDE = PrecomputedEncoder({"a": [1, 0], "b": [0, 1]}, {"c": [1, 0, 0], "d": [0, 1, 1]})


@pytest.mark.parametrize(
    "use",
    [
        lambda: WIDE.fit(),
        lambda: AdapterFinetuner(WIDE).fit(["a", "b"], ["c", "d"]),
        lambda: AdapterFinetuner(WIDE, validation_fraction=None).fit(["a"], ["c"]),
        lambda: RetrievalScorer()(WIDE, ["a", "b"], ["c", "d"]),
    ],
)
def test_queries_and_documents_of_different_widths(use):
    with pytest.raises(ValueError, match=r"\b2\b.*\b3\b|\b3\b.*\b2\b"):
        use()


class Encoder:
    """Somebody else's encoder, whose vectors of documents are broken."""

    def __init__(self, value=1.0, width=3):
        self.value, self.width = value, width

    def transform(self, X):
        return np.ones((len(X), 3))

    def transform_documents(self, D):
        out = np.ones((len(D), self.width))
        out[-1, 0] = self.value
        return out


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("fraction", [None, 0.5])
def test_encoder_with_non_finite_vectors(value, fraction):
    estimator = AdapterFinetuner(Encoder(value), validation_fraction=fraction, epochs=1)
    with pytest.raises(ValueError, match="vectors .*contain NaN or infinity"):
        estimator.fit(["a", "b"], ["c", "d"])


@pytest.mark.parametrize("fraction", [None, 0.5])
def test_encoder_with_vectors_of_two_widths(fraction):
    estimator = AdapterFinetuner(Encoder(width=4), validation_fraction=fraction)
    with pytest.raises(ValueError, match=r"\b3\b.*\b4\b|\b4\b.*\b3\b"):
        estimator.fit(["a", "b"], ["c", "d"])
