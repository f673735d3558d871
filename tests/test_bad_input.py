import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

from skembft import (
    AdapterFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.metrics import RetrievalScorer

MISSING = "no/such-model"  # whoever tries to load it raises an OSError
CLASSES = [AdapterFinetuner, EmbeddingFinetuner]
ALL = [*CLASSES, SentenceEncoder]
both = pytest.mark.parametrize("cls", CLASSES)


def frame(**columns):
    return pd.DataFrame(columns)


# what is wrong with X and y, whatever the estimator; (X, y, error, message)

X_CASES = {
    "None": (None, TypeError, "X must be a list, array or Series, got NoneType"),
    "str": ("a", TypeError, r"X is the single str 'a'; pass a list: \[X\]"),
    "bytes": (b"a", TypeError, r"X is the single bytes b'a'; pass a list"),
    "number": (3, TypeError, "X must be a list, array or Series, got int"),
    "0-d": (np.array("a"), TypeError, "X is a 0-d array; pass a list"),
    "dict": ({"a": "b"}, TypeError, "X is a dict; pass a list with one item a row"),
    "set": ({"a", "b"}, TypeError, r"X is a set, .* not reproducible; .*sorted\(X\)"),
    "frozenset": (frozenset("ab"), TypeError, r"pass sorted\(X\)"),
    "generator": (
        lambda: (x for x in ("a",)),
        TypeError,
        r"got generator; pass list\(X\)",
    ),
    "iterator": (lambda: iter("ab"), TypeError, r"pass list\(X\)"),
    "empty": ([], ValueError, "X is empty"),
    "empty array": (np.array([], dtype=str), ValueError, "X is empty"),
    "empty table": (np.empty((0, 2), dtype=str), ValueError, "X is empty"),
    "empty Series": (pd.Series([], dtype=str), ValueError, "X is empty"),
    "empty polars": (pl.Series([], dtype=pl.String), ValueError, "X is empty"),
    "item None": (["a", None], TypeError, r"X\[1\] must be .*, got None; drop the row"),
    "item nan": (["a", np.nan], TypeError, r"X\[1\] must be .*, got nan; drop the row"),
    "item NA": (["a", pd.NA], TypeError, r"X\[1\] .*, got <NA>; drop the row"),
    "item NaT": (["a", pd.NaT], TypeError, r"X\[1\] .*, got NaT; drop the row"),
    "item bytes": (["a", b"b"], TypeError, r"X\[1\] .*b'b'; decode it: .*'utf-8'"),
    "item number": (["a", 1.5], TypeError, r"X\[1\] must be .*, got 1\.5; .*"),
    "item bool": (["a", True], TypeError, r"X\[1\] must be .*, got True"),
    "item set": (["a", {"b"}], TypeError, r"X\[1\] .*set is not reproducible"),
    "item list": (["a", ["b", "c"]], TypeError, r"X\[1\] must be .*\['b', 'c'\]"),
    "item dict": (["a", {"b": 1}], TypeError, r"X\[1\] must be .*\{'b': 1\}"),
    "object array": (
        np.array(["a", None], dtype=object),
        TypeError,
        r"X\[1\] .*got None",
    ),
    "bytes array": (np.array([b"a", b"b"]), TypeError, r"X\[0\] .*decode it"),
    "Series": (pd.Series(["a", None]), TypeError, r"X\[1\] .*drop the row"),
    "polars": (pl.Series(["a", None]), TypeError, r"X\[1\] .*drop the row"),
    "pyarrow": (pa.array(["a", None]), TypeError, r"X\[1\] .*drop the row"),
}

TABLE_CASES = {
    "one column": ([("a",), ("b",)], r"X is a table with 1 column.*row\[0\] for row"),
    "(n, 1)": (np.array([["a"], ["b"]]), r"X is a table with 1 column"),
    "empty row": ([(), ()], r"X is a table with 0 column"),
    "ragged": ([("a", "b"), ("c", "d", "e")], r"X\[1\] has 3 items, but X\[0\] has 2"),
    "short": ([("a", "b", "c"), ("d", "e")], r"X\[1\] has 2 items, but X\[0\] has 3"),
    "frame of one": (frame(query=["a"]), r"missing: \['document'\]"),
    "frame of texts": (frame(text=["a"]), r"missing: \['query', 'document'\]"),
    "frame of more": (
        frame(query=["a"], document=["b"], id=[3]),
        r"not expected: \['id'\]. Rename or select columns",
    ),
    "polars frame": (pl.DataFrame({"query": ["a"]}), r"missing: \['document'\]"),
    "arrow table": (
        pa.table({"query": ["a"], "document": ["b"], "score": [1]}),
        r"not expected: \['score'\]",
    ),
    "empty frame": (frame(query=[], document=[]), "X is empty"),
    "empty polars": (pl.DataFrame({"query": [], "document": []}), "X is empty"),
    "empty arrow": (pa.table({"query": [], "document": []}), "X is empty"),
}

CELL_CASES = {
    "None": ([("a", "b"), ("c", None)], r"X\[1\]\[1\] must be .*, got None; drop"),
    "query": ([("a", "b"), (None, "d")], r"X\[1\]\[0\] must be .*, got None; drop"),
    "negative": ([("a", "b", "c"), ("a", "b", None)], r"X\[1\]\[2\] .*, got None"),
    "nan": ([("a", "b"), ("c", np.nan)], r"X\[1\]\[1\] must be .*, got nan; drop"),
    "bytes": ([("a", b"b")], r"X\[0\]\[1\] .*decode it"),
    "number": ([("a", 0.5)], r"X\[0\]\[1\] must be .*, got 0\.5"),
    "list": ([("a", ["b"])], r"X\[0\]\[1\] must be .*\['b'\]"),
    "set": ([("a", {"b"})], r"X\[0\]\[1\] .*set is not reproducible"),
    "frame": (
        frame(query=["a", "b"], document=["c", None]),
        r"X\[1\]\[1\] .*drop the row",
    ),
    "polars": (
        pl.DataFrame({"query": ["a", None], "document": ["c", "d"]}),
        r"X\[1\]\[0\] .*drop the row",
    ),
    "str row": ([("a", "b"), "cd"], r"X\[1\] is 'cd', but X\[0\] is a row of 2 items"),
    "None row": ([("a", "b"), None], r"X\[1\] is None, but X\[0\] is a row"),
    "set row": ([("a", "b"), {"c", "d"}], r"X\[1\] is \{.*but X\[0\] is a row"),
}

Y_CASES = {
    "None": (
        None,
        ValueError,
        "requires y to be passed, but the target y is None.*relevant document",
    ),
    "str": ("ab", TypeError, r"y is the single str 'ab'; pass a list: \[y\]"),
    "dict": (
        {"a": "b"},
        TypeError,
        r"y is a dict; .*y = \[relevant\[query\] for query in X\]",
    ),
    "set": ({"a", "b"}, TypeError, r"y is a set, .*pass sorted\(y\)"),
    "generator": (
        lambda: (x for x in ("a", "b")),
        TypeError,
        r"got generator; pass list\(y\)",
    ),
    "number": (1, TypeError, "y must be a list, array or Series, got int"),
    "frame": (frame(document=["a", "b"]), TypeError, r"y is a DataFrame; pass one col"),
    "polars": (pl.DataFrame({"d": ["a", "b"]}), TypeError, r"y is a DataFrame; pass"),
    "short": (["a"], ValueError, "X has 2 queries, but y has 1 items"),
    "long": (["a"] * 3, ValueError, "X has 2 queries, but y has 3 items"),
    "empty": ([], ValueError, "X has 2 queries, but y has 0 items"),
    "item None": (["a", None], TypeError, r"y\[1\] must be .*, got None; drop the row"),
    "item nan": (["a", np.nan], TypeError, r"y\[1\] must be .*, got nan; drop the row"),
    "item number": (["a", 0.0], TypeError, r"y\[1\] must be .*, got 0\.0"),
    "item bytes": (["a", b"b"], TypeError, r"y\[1\] .*decode it"),
    "item set": (["a", {"b"}], TypeError, r"y\[1\] .*set is not reproducible"),
    "no document": (["a", []], ValueError, r"y\[1\] is empty: .*Leave the row"),
    "no grade": (["a", {}], ValueError, r"y\[1\] is empty: .*Leave the row"),
    "empty array": (["a", np.array([])], ValueError, r"y\[1\] is empty"),
    "None in a list": (
        ["a", ["b", None]],
        TypeError,
        r"y\[1\]\[1\] .*, got None; drop",
    ),
    "bytes in a list": (["a", ("b", b"c")], TypeError, r"y\[1\]\[1\] .*decode it"),
    "list in a list": (["a", [["b"]]], TypeError, r"y\[1\]\[0\] must be .*\['b'\]"),
    "key None": (["a", {None: 1}], TypeError, r"document of y\[1\] .*, got None; drop"),
    "key nan": (["a", {np.nan: 1}], TypeError, r"document of y\[1\] .*, got nan; drop"),
    "grade str": (
        ["a", {"b": "1"}],
        TypeError,
        r"y\[1\]\['b'\] must be a number, .*'1'",
    ),
    "grade None": (
        ["a", {"b": None}],
        TypeError,
        r"y\[1\]\['b'\] must be a number, got",
    ),
    "grade nan": (["a", {"b": np.nan}], ValueError, r"y\[1\]\['b'\] must be finite"),
    "grade inf": (["a", {"b": np.inf}], ValueError, r"y\[1\]\['b'\] must be finite"),
    # rows of one type are read together
    "list: none": ([["a"], []], ValueError, r"y\[1\] is empty: .*Leave the row"),
    "list: None": ([["a"], ["b", None]], TypeError, r"y\[1\]\[1\] .*, got None; drop"),
    "dict: none": ([{"a": 1}, {}], ValueError, r"y\[1\] is empty: .*Leave the row"),
    "dict: None": ([{"a": 1}, {None: 1}], TypeError, r"of y\[1\] .*, got None; drop"),
    "dict: str": ([{"a": 1}, {"b": "1"}], TypeError, r"y\[1\]\['b'\] must be a number"),
    "dict: nan": ([{"a": 1}, {"b": np.nan}], ValueError, r"y\[1\]\['b'\] must be fin"),
}

LABEL_CASES = {
    "short": ([1], ValueError, "X has 2 rows, but y has 1 labels"),
    "long": ([1, 0, 1], ValueError, "X has 2 rows, but y has 3 labels"),
    "None": ([1, None], TypeError, r"y\[1\] must be a number, got None"),
    "str": ([1, "0"], TypeError, r"y\[1\] must be a number, got '0'"),
    "nan": ([1, np.nan], ValueError, r"y\[1\] must be finite, got nan"),
    "inf": ([1, np.inf], ValueError, r"y\[1\] must be finite, got inf"),
    "text": (["a", "b"], TypeError, r"y\[0\] must be a number, got 'a'"),
    "dict": ({"a": 1}, TypeError, "y is a dict; pass a list with one item a row"),
    "generator": (lambda: (x for x in (1, 0)), TypeError, r"pass list\(y\)"),
}

CORPUS_CASES = {
    "str": ("ab", TypeError, r"corpus is the single str 'ab'; pass a list: \[corpus\]"),
    "generator": (lambda: (x for x in ("a",)), TypeError, r"pass list\(corpus\)"),
    "set": ({"a"}, TypeError, r"corpus is a set, .*pass sorted\(corpus\)"),
    "dict": ({"1": "a"}, TypeError, "corpus is a dict; pass a list"),
    "frame": (frame(document=["a"]), TypeError, r'corpus\["document"\]'),
    "None": (["a", None], TypeError, r"corpus\[1\] .*, got None; drop the row"),
    "nan": (pd.Series(["a", np.nan]), TypeError, r"corpus\[1\] .*drop the row"),
    "bytes": (["a", b"b"], TypeError, r"corpus\[1\] .*decode it"),
    "number": (["a", 0.5], TypeError, r"corpus\[1\] must be .*, got 0\.5"),
    "rows": ([("a", "b")], TypeError, r"corpus\[0\] must be .*\('a', 'b'\)"),
}

INDEX = PrecomputedEncoder({name: [1.0, i] for i, name in enumerate("abcde")})
ESTIMATORS = {
    "adapter": lambda: AdapterFinetuner(MISSING),
    "model": lambda: EmbeddingFinetuner(MISSING),
    "ids": lambda: AdapterFinetuner(INDEX),
}
estimators = pytest.mark.parametrize("estimator", ESTIMATORS)


def cases(table):
    return pytest.mark.parametrize("case", table)


def made(value):
    """A generator can be looked at once only: the tables hold how to make it."""
    return value() if callable(value) else value


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


# using a fitted estimator


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


@both
def test_not_fitted(cls):
    estimator = cls(MISSING)
    for use in (
        lambda: estimator.transform(["a"]),
        lambda: estimator.transform_documents(["a"]),
        lambda: estimator.score(["a"], ["b"]),
        lambda: estimator.retrieve(["a"], ["b"]),
    ):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            use()


# constructor arguments

WRONG = {
    "batch_size": [0, -1, 2.5, "8", None],
    "epochs": [0, -3, 1.5, None],
    "learning_rate": [0, -1e-3, "1e-3", None, np.nan],
    "weight_decay": [-0.1, "0", None],
    "warmup_ratio": [-0.1, 1.1, None],
    "loss": [3, None],
    "loss_params": [["scale"], "scale", 3],
    "negatives": ["hardest", None, 3],
    "use_all_docs": ["yes", None, 2],
    "scoring": [3, None, ["ndcg@10"]],
    "validation_fraction": [0, 1, 1.5, -0.1, "0.1"],
    "n_iter_no_change": [0, 2.5, "3"],
    "evaluation_steps": [-1, 2.5, None],
    "refit": ["yes", None],
    "random_state": ["seed", 1.5],
}
WRONG_MODEL = {
    "normalize": ["yes", None],
    "precision": ["bf16", None],
    "max_seq_length": [0, 2.5, "9"],
    "truncate_dim": [0, 2.5],
    "trust_remote_code": ["yes", None],
    "device": [0],
    "query_prompt": [3, ["query: "]],
    "document_prompt": [3],
}
WRONG_ADAPTER = {
    "adapter": ["linaer", None, 3],
    "adapter_params": [["bias"], "bias"],
    "side": ["document", None],
}


def wrong(table):
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize(
    "cls, name, value",
    [(cls, *case) for cls in CLASSES for case in wrong(WRONG)]
    + [(EmbeddingFinetuner, *case) for case in wrong(WRONG_MODEL)]
    + [(AdapterFinetuner, *case) for case in wrong(WRONG_ADAPTER)],
)
def test_wrong_constructor_arguments(cls, name, value):
    estimator = cls(MISSING, **{name: value})  # checked in fit, as in scikit-learn
    with pytest.raises(
        InvalidParameterError, match=f"'{name}' parameter of {cls.__name__}"
    ):
        estimator.fit(["a", "b"], ["c", "d"])


@pytest.mark.parametrize(
    "name, value", [*wrong(WRONG_MODEL), ("backend", "tf"), ("max_store_bytes", -1)]
)
def test_wrong_arguments_of_the_encoder(name, value):
    encoder = SentenceEncoder(MISSING, **{name: value})
    message = f"'{name}' parameter of SentenceEncoder"
    with pytest.raises(InvalidParameterError, match=message):
        encoder.fit()
    with pytest.raises(InvalidParameterError, match=message):
        encoder.transform(["a"])


@pytest.mark.parametrize("value", [3, None, ["model"]])
def test_wrong_model_id(value):
    for cls in (EmbeddingFinetuner, SentenceEncoder):
        with pytest.raises(InvalidParameterError, match="'model_id' parameter of"):
            cls(value).fit(["a", "b"], ["c", "d"])


@pytest.mark.parametrize("value", [3, ["model"], object(), {"a": [1.0]}])
def test_wrong_encoder(value):
    message = (
        f"encoder is a {type(value).__name__} without transform and .*pass the name"
    )
    with pytest.raises(InvalidParameterError, match=message):
        AdapterFinetuner(value).fit(["a", "b"], ["c", "d"])


def test_unknown_arguments_are_python_errors():
    for cls in ALL:
        with pytest.raises(TypeError, match="unexpected keyword argument 'lr'"):
            cls(MISSING, lr=1)
        with pytest.raises(ValueError, match="Invalid parameter 'lr'"):
            cls(MISSING).set_params(lr=1)


@both
@pytest.mark.parametrize(
    "loss, message",
    [
        ("tripplet", r"Unknown loss 'tripplet'\. Did you mean 'triplet'"),
        ("multiple_negative_ranking", "Did you mean 'multiple_negatives_ranking'"),
        ("TripletLoss", "Did you mean 'triplet'"),
        ("cosine", r"Unknown loss 'cosine'.*'cosine_similarity'"),
        ("xyz", "Unknown loss 'xyz'.*Valid names: 'multiple_negatives_ranking'"),
        (losses.SiameseDistanceMetric, "Unknown loss 'SiameseDistanceMetric'.*Valid"),
        (dict, "Unknown loss 'dict'.*Valid names"),
    ],
)
def test_unknown_losses(cls, loss, message):
    with pytest.raises(InvalidParameterError, match=message):
        cls(MISSING, loss=loss).fit(["a", "b"], ["c", "d"])


@both
@pytest.mark.parametrize(
    "loss, params, message",
    [
        ("multiple_negatives_ranking", {"sclae": 20}, "'sclae' .*Did you mean 'scale'"),
        (
            "multiple_negatives_ranking",
            {"margin": 1},
            "'margin' .*Valid names: 'scale'",
        ),
        ("triplet", {"margin": 1}, "'margin' .*Did you mean 'triplet_margin'"),
        ("triplet", {"scale": 20}, "'scale' is not among the loss_params .*'triplet'"),
        ("cosine_similarity", {"los_fct": None}, "Did you mean 'loss_fct'"),
        (losses.TripletLoss, {"margin": 1}, "Did you mean 'triplet_margin'"),
        ("triplet", {"model": None}, "'model' is not among"),
        ("triplet", {3: 1}, "3 is not among"),
    ],
)
def test_unknown_loss_params(cls, loss, params, message):
    estimator = cls(MISSING, loss=loss, loss_params=params)
    with pytest.raises(InvalidParameterError, match=message):
        estimator.fit(["a", "b"], ["c", "d"])


@pytest.mark.parametrize("scale", [0, -1, np.inf, np.nan, "20", None])
def test_wrong_scale(scale):
    estimator = AdapterFinetuner(MISSING, loss_params={"scale": scale})
    with pytest.raises(
        InvalidParameterError, match="scale .*must be a positive number"
    ):
        estimator.fit(["a", "b"], ["c", "d"])


def test_unknown_adapter_params():
    estimator = AdapterFinetuner(MISSING, adapter_params={"baas": True})
    with pytest.raises(InvalidParameterError, match="'baas' .*Did you mean 'bias'"):
        estimator.fit(["a", "b"], ["c", "d"])


@both
@pytest.mark.parametrize(
    "metric, message",
    [
        ("ndgc@10", r"Unknown metric 'ndgc@10'\. Did you mean 'ndcg@10'"),
        ("accuracy", "Unknown metric 'accuracy'.*Valid names: 'ndcg@10'"),
        ("ndcg", "'ndcg' needs a cut-off"),
        ("recall@0", "'recall@0' needs a cut-off, a positive whole number"),
    ],
)
def test_unknown_scoring(cls, metric, message):
    with pytest.raises(InvalidParameterError, match=message):
        cls(MISSING, scoring=metric).fit(["a", "b"], ["c", "d"])


def test_a_callable_loss_is_for_whole_models():
    with pytest.raises(InvalidParameterError, match="takes a loss by name or class"):
        AdapterFinetuner(MISSING, loss=lambda model: None).fit(["a"], ["b"])
    estimator = EmbeddingFinetuner(
        MISSING, loss=losses.TripletLoss.__call__, loss_params={"scale": 20}
    )
    with pytest.raises(
        InvalidParameterError, match="loss_params go with a loss by name"
    ):
        estimator.fit(["a", "b"], ["c", "d"])


def test_a_callable_that_makes_an_unknown_loss(static_model):
    estimator = EmbeddingFinetuner(
        static_model, loss=lambda model: torch.nn.Linear(2, 2), device="cpu"
    )
    with pytest.raises(ValueError, match="loss made a Linear; .*TripletLoss"):
        estimator.fit(["a", "b"], ["c", "d"])


def test_a_callable_loss_without_negatives(static_model):
    # what it needs is known once it is made
    estimator = EmbeddingFinetuner(
        static_model, loss=lambda model: losses.TripletLoss(model), device="cpu"
    )
    with pytest.raises(ValueError, match="Every document is relevant.*corpus="):
        estimator.fit(["red0", "red1"], ["old1", "old1"])


def test_a_batch_of_one_has_no_negatives():
    X, y = ["a", "b"], ["c", "d"]
    message = "batch_size=1 leaves no negatives in a batch: use a larger batch_size"
    with pytest.raises(InvalidParameterError, match=message):
        EmbeddingFinetuner(MISSING, batch_size=1).fit(X, y)
    message = "batch_size=1 leaves no negatives in a batch: use .*a larger batch_size"
    with pytest.raises(InvalidParameterError, match=message):
        AdapterFinetuner(MISSING, batch_size=1, negatives="batch").fit(X, y)
    with pytest.raises(InvalidParameterError, match=message):
        AdapterFinetuner(INDEX, batch_size=1, negatives="batch").fit(X, y)


@pytest.mark.parametrize(
    "params, rows",
    [
        ({"negatives": "random"}, [("red0", "red1"), ("old1", "old2")]),
        ({}, [("red0", "red1", "wet1"), ("old1", "old2", "wet2")]),
        ({"loss": "triplet"}, [("red0", "red1"), ("old1", "old2")]),
        ({"loss": "contrastive"}, [("red0", "red1"), ("old1", "old2")]),
    ],
)
def test_a_batch_of_one_with_other_negatives(static_model, params, rows):
    estimator = EmbeddingFinetuner(static_model, batch_size=1, device="cpu", **params)
    assert estimator.fit(rows).n_iter_ >= 4


@pytest.mark.parametrize(
    "params, rows",
    [
        ({"negatives": "corpus"}, [("a", "c"), ("b", "d")]),
        ({"negatives": "batch"}, [("a", "c", "e"), ("b", "d", "e")]),
        ({"negatives": "batch", "loss": "triplet"}, [("a", "c"), ("b", "d")]),
    ],
)
def test_adapter_with_a_batch_of_one(params, rows):
    estimator = AdapterFinetuner(
        INDEX, batch_size=1, epochs=1, validation_fraction=None, **params
    )
    assert estimator.fit(rows).history_[-1]["loss"] > 0


# models


@pytest.fixture
def model_instance(static_model):
    return SentenceTransformer(static_model, device="cpu")


def test_a_model_instance_is_to_be_saved_first(model_instance):
    message = r"(?s)SentenceTransformer .*model\.save_pretrained\('path'\).*'path'"
    for cls in ALL:
        with pytest.raises(TypeError, match=message):
            cls(model_instance).fit(["a", "b"], ["c", "d"])


def test_models_that_cannot_be_loaded(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "modules.json").write_text("{")
    for path in (MISSING, *map(str, tmp_path.iterdir()), str(tmp_path / "nowhere")):
        message = f"Could not load the (model|directory) {re.escape(repr(path))}"
        for cls in CLASSES:
            with pytest.raises(OSError, match=message + ".*save_pretrained"):
                cls(path).fit(["a", "b"], ["c", "d"])
        with pytest.raises(OSError, match=message):
            SentenceEncoder(path).transform(["a"])


def test_path_objects_of_missing_models(tmp_path):
    for cls in ALL:
        with pytest.raises(OSError, match="Could not load the model"):
            cls(Path(tmp_path / "nowhere")).fit(["a", "b"], ["c", "d"]).transform(["a"])


@pytest.mark.parametrize("cls", ALL)
def test_an_empty_model_id(cls):
    # Sentence Transformers takes it for a model without modules
    with pytest.raises((OSError, InvalidParameterError), match="''"):
        cls("").fit(["a", "b"], ["c", "d"]).transform(["a"])


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
        ({"a": [1, 0], "b": [1, 0, 0]}, ValueError, "'b'.* has 3 dim.* 'a' has 2"),
        (
            {"a": [1, 0], "b": [1, np.nan]},
            ValueError,
            "NaN or infinity, first in row 1",
        ),
        ({"a": [np.inf, 0]}, ValueError, "NaN or infinity, first in row 0"),
        ({"a": 1.0}, ValueError, "must be a matrix of numbers"),
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
