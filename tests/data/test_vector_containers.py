"""Vectors in the containers of all libraries, in place of X, y, an index or answers."""

import warnings

import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from sklearn.model_selection import GridSearchCV

from skembft import AdapterFinetuner, APIEncoder, PrecomputedEncoder
from skembft.metrics import RetrievalScorer
from tests.data.forms import adapter

# halves and quarters, which all types of floats hold exactly
RNG = np.random.default_rng(0)
VECTORS = RNG.integers(-12, 13, size=(24, 6)) / 4
QUERIES = RNG.integers(-12, 13, size=(24, 6)) / 4
IDS = [f"i{i}" for i in range(24)]
LABELS = [i % 6 for i in range(24)]


def object_column(rows):
    column = np.empty(len(rows), dtype=object)
    column[:] = rows
    return column


def tensor(dtype):
    return lambda v: torch.tensor(v, dtype=dtype)


CONTAINERS = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "pyarrow table": lambda v: pa.table({f"x{i}": v[:, i] for i in range(6)}),
    "float16": np.float16,
    "float32": np.float32,
    "longdouble": np.longdouble,
    "bfloat16": lambda v: v.astype(ml_dtypes.bfloat16),
    "objects": lambda v: v.astype(object),
    "masked": np.ma.array,
    "torch float16": tensor(torch.float16),
    "torch bfloat16": tensor(torch.bfloat16),
    "torch float64": tensor(torch.float64),
    "torch with gradients": lambda v: torch.tensor(v, requires_grad=True),
    "torch sparse": lambda v: torch.tensor(v).to_sparse(),
    "parameter": lambda v: torch.nn.Parameter(torch.tensor(v)),
    "list of tensors": lambda v: list(torch.tensor(v, requires_grad=True)),
    "list of bfloat16": lambda v: list(torch.tensor(v, dtype=torch.bfloat16)),
    "list of arrays": list,
    "list of Series": lambda v: list(map(pd.Series, v)),
    "list of scalars": lambda v: list(pa.array(v.tolist())),
    "column of arrays": lambda v: object_column(list(v)),
    "column of tensors": lambda v: object_column(list(torch.tensor(v))),
    "pandas arrays": lambda v: pd.Series(list(v), index=range(len(v), 0, -1)),
    "pandas lists": lambda v: pd.Series(v.tolist()),
    "pandas tensors": lambda v: pd.Series(list(torch.tensor(v))),
    "pandas one column": lambda v: pd.DataFrame({"vector": list(v)}),
    "pandas arrow": lambda v: pd.Series(
        v.tolist(), dtype=pd.ArrowDtype(pa.list_(pa.float32()))
    ),
    "polars list": lambda v: pl.Series(v.tolist()),
    "polars array": lambda v: pl.Series(v.tolist(), dtype=pl.Array(pl.Float32, 6)),
    "pyarrow": lambda v: pa.array(v.tolist()),
    "pyarrow fixed": lambda v: pa.FixedSizeListArray.from_arrays(v.ravel(), 6),
    "pyarrow chunked": lambda v: pa.chunked_array([v[:9].tolist(), v[9:].tolist()]),
    "pyarrow one column": lambda v: pa.table({"vector": v.tolist()}),
}
containers = pytest.mark.parametrize("container", CONTAINERS)


@containers
def test_as_X_and_y(container):
    make = CONTAINERS[container]
    expected = adapter(None).fit(QUERIES, VECTORS)
    found = adapter(None).fit(make(QUERIES), make(VECTORS), corpus=make(VECTORS[:5]))
    for use in ("transform", "transform_documents"):
        np.testing.assert_allclose(
            getattr(found, use)(make(QUERIES)),
            getattr(expected, use)(QUERIES),
            atol=1e-5,
        )
    score = expected.score(QUERIES, VECTORS)
    assert found.score(make(QUERIES), make(VECTORS)) == score
    scorer = RetrievalScorer("ndcg@10", corpus=make(QUERIES))
    expected_score = RetrievalScorer("ndcg@10", corpus=QUERIES)(
        expected, QUERIES, VECTORS
    )
    assert scorer(found, make(QUERIES), make(VECTORS)) == expected_score
    indices, _ = found.retrieve(make(QUERIES), make(VECTORS), k=2)
    np.testing.assert_array_equal(indices, expected.retrieve(QUERIES, VECTORS, k=2)[0])


@containers
def test_as_X_of_class_labels(container):
    expected = adapter(None).fit(VECTORS, LABELS)
    found = adapter(None).fit(CONTAINERS[container](VECTORS), LABELS)
    np.testing.assert_allclose(
        found.transform(VECTORS), expected.transform(VECTORS), atol=1e-5
    )


@containers
def test_as_an_index(container):
    make = CONTAINERS[container]
    index = PrecomputedEncoder((IDS, make(VECTORS)))
    np.testing.assert_array_equal(index.transform(IDS), VECTORS.astype(np.float32))
    width = 1 if "one column" in container else 6
    assert repr(index) == f"PrecomputedEncoder(queries=<24 × {width}>)"


@pytest.mark.parametrize("container", sorted(CONTAINERS.keys() - {"torch sparse"}))
def test_in_a_search_and_under_another_finetuner(container):
    X = CONTAINERS[container](VECTORS)
    search = GridSearchCV(
        AdapterFinetuner(None, random_state=0),
        {"epochs": [1, 2]},
        cv=2,
        error_score="raise",
    )
    found = search.fit(X, LABELS).cv_results_["mean_test_score"]
    expected = search.fit(VECTORS, LABELS).cv_results_["mean_test_score"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    nested = AdapterFinetuner(AdapterFinetuner(None, epochs=1), epochs=1)
    assert nested.fit(X, LABELS).n_iter_ > 0


@pytest.mark.parametrize(
    "make",
    [
        np.float16,
        tuple,
        pd.Series,
        pl.Series,
        pa.array,
        lambda v: pa.scalar(v.tolist()),
        lambda v: torch.tensor(v, dtype=torch.bfloat16),
        lambda v: torch.tensor(v, requires_grad=True),
    ],
)
def test_as_an_index_of_single_vectors(make):
    index = PrecomputedEncoder(dict(zip(IDS, map(make, VECTORS), strict=True)))
    np.testing.assert_array_equal(index.transform(IDS), VECTORS.astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool])
def test_tensors_of_whole_numbers(dtype):
    vectors = torch.tensor(np.abs(VECTORS), dtype=dtype)
    index = PrecomputedEncoder((IDS, vectors))
    np.testing.assert_array_equal(index.transform(IDS), vectors.float().numpy())
    assert adapter(None).fit(QUERIES, vectors).n_iter_ > 0


class Own:
    """Somebody else's encoder."""

    def __init__(self, make):
        self.make = make

    def transform(self, X):
        return self.make(VECTORS[[int(x[1:]) for x in X]])

    transform_documents = transform


@pytest.mark.parametrize(
    "container",
    ["float16", "torch bfloat16", "torch with gradients", "list of tensors", "pyarrow"],
)
def test_as_what_an_encoder_gives(container):
    make = CONTAINERS[container]
    expected = adapter(Own(np.asarray)).fit(IDS, IDS[::-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # no cast overflows
        found = adapter(Own(make)).fit(IDS, IDS[::-1])
    np.testing.assert_allclose(found.transform(IDS), expected.transform(IDS), atol=1e-5)
    scorer = RetrievalScorer("mrr@5")
    assert scorer(Own(make), IDS, IDS) == scorer(Own(np.asarray), IDS, IDS) == 1
    client = APIEncoder(lambda texts: make(VECTORS[[int(t[1:]) for t in texts]]))
    np.testing.assert_array_equal(
        client.set_params(normalize=False).transform(IDS), VECTORS.astype(np.float32)
    )


def test_long_vectors_of_half_precision():
    # 300 squared is more than the largest float16
    vectors = np.float16(VECTORS * 100)
    expected = adapter(None).fit(VECTORS, VECTORS).transform(VECTORS)
    index = PrecomputedEncoder((IDS, vectors))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = adapter(None).fit(vectors, vectors).transform(vectors)
        assert adapter(index).fit(IDS, IDS).score(IDS, IDS) == 1
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize(
    "make",
    [
        torch.tensor,
        lambda v: torch.tensor(v, dtype=torch.bfloat16),
        lambda v: list(torch.tensor(v)),
        lambda v: list(pa.array(v)),
        lambda v: torch.tensor(v)[:, None],
        lambda v: pd.Series(v, dtype="category"),
    ],
)
def test_labels(make):
    expected = adapter(None).fit(VECTORS, LABELS).transform(VECTORS)
    found = adapter(None).fit(VECTORS, make(LABELS)).transform(VECTORS)
    np.testing.assert_array_equal(found, expected)


def ragged(v):
    return [*v[:7].tolist(), v[7, :5].tolist(), *v[8:].tolist()]


def masked(v):
    return np.ma.array(v, mask=np.arange(v.size).reshape(v.shape) == 43)


def with_none(v):
    return [*v[:7].tolist(), [None, *v[7, 1:]], *v[8:].tolist()]


REFUSED = {
    "meta": (lambda v: torch.tensor(v, device="meta"), "{} is .* device 'meta'"),
    "list of meta": (
        lambda v: list(torch.tensor(v, device="meta")),
        r"{}\[0\] is a tensor on the device 'meta'",
    ),
    "ragged": (ragged, r"{}\[7\] has 5 dimensions, but {}\[0\] has 6"),
    "ragged column": (
        lambda v: pd.Series(ragged(v)),
        r"{}\[7\] has 5 dimensions, but {}\[0\] has 6",
    ),
    "masked": (masked, r"{}\[7\] is masked"),
    "no vector": (
        lambda v: [*v[:7].tolist(), None, *v[8:].tolist()],
        r"{}\[7\] must be a vector, got None",
    ),
    "text": (
        lambda v: pd.Series([*v[:7], "a", *v[8:]]),
        r"{}\[7\] must be a vector, got 'a'",
    ),
    "nested": (
        lambda v: [*v[:7].tolist(), [1, [2], 3], *v[8:].tolist()],
        r"{}\[7\] must be a vector, got \[1, \[2\], 3\]",
    ),
    "None": (with_none, r"{}\[7\] is \[None|NaN"),
    "complex": (lambda v: v.astype(complex), "omplex"),
    "sparse": (scipy.sparse.csr_array, "[Ss]parse|matrix of numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    make, message = REFUSED[case]
    bad = make(VECTORS)
    error = (TypeError, ValueError)
    for X, y, name in ((bad, VECTORS, "X"), (VECTORS, bad, "y"), (bad, LABELS, "X")):
        with pytest.raises(error, match=message.format(name, name)):
            AdapterFinetuner(None).fit(X, y)
    with pytest.raises(error, match=message.format("queries", "queries") + "|numbers"):
        PrecomputedEncoder((IDS, bad)).fit()


def test_tensors_without_values_as_labels_or_in_an_index():
    labels = torch.zeros(24, device="meta")
    with pytest.raises(ValueError, match="y is a tensor on the device 'meta'"):
        AdapterFinetuner(None).fit(VECTORS, labels)
    bad = {"a": torch.zeros(2), "b": torch.zeros(2, device="meta")}
    with pytest.raises(ValueError, match=r"queries\['b'\] is a tensor on the device"):
        PrecomputedEncoder(bad).fit()


def test_masked_labels():
    with pytest.raises(ValueError, match=r"y\[3\] is masked"):
        AdapterFinetuner(None).fit(VECTORS, np.ma.masked_equal(LABELS, 3))
