"""What other libraries leave in cells, and containers that are no table yet."""

from collections import deque

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from sentence_transformers.sentence_transformer.readers import InputExample
from sklearn.model_selection import GridSearchCV

from skembft import EmbeddingFinetuner, PrecomputedEncoder, SentenceEncoder
from skembft.datasets import describe, generate_pairs
from skembft.metrics import RetrievalScorer
from skembft.mining import mine_hard_negatives
from skembft.model_selection import document_groups, train_test_split
from tests.data.forms import FORMS, N, adapter
from tests.finetuner.bad_input import ESTIMATORS, MISSING, both, estimators


def object_column(values):
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


# columns of texts

TEXT_COLUMNS = {
    "masked": np.ma.array,
    "string[python]": lambda v: pd.Series(v, dtype="string[python]"),
    "string[pyarrow]": lambda v: pd.Series(v, dtype="string[pyarrow]"),
    "large_string": lambda v: pd.Series(v, dtype=pd.ArrowDtype(pa.large_string())),
    "dictionary": lambda v: pd.Series(
        pa.array(v).dictionary_encode(),
        dtype=pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string())),
    ),
    "Categorical": pd.Categorical,
    "pandas array": lambda v: pd.array(v, dtype="string"),
    "polars Categorical": lambda v: pl.Series(v).cast(pl.Categorical),
    "polars Object": lambda v: pl.Series(v, dtype=pl.Object),
    "string_view": lambda v: pa.array(v, pa.string_view()),
    "pyarrow dictionary": lambda v: pa.array(v).dictionary_encode(),
    "scalars": lambda v: list(pa.array(v)),
    "0-d arrays": lambda v: list(map(np.array, v)),
    "deque": deque,
    "datasets numpy": lambda v: column_of(v, "numpy"),
    "datasets arrow": lambda v: column_of(v, "arrow"),
    "datasets torch": lambda v: column_of(v, "torch"),
}
if hasattr(np.dtypes, "StringDType"):  # from numpy 2 on
    TEXT_COLUMNS["StringDType"] = lambda v: np.array(v, dtype=np.dtypes.StringDType())


def column_of(values, format):
    return datasets.Dataset.from_dict({"c": values}).with_format(format)["c"]


@pytest.mark.parametrize("container", TEXT_COLUMNS)
def test_columns_of_texts(static_model, texts, container):
    make = TEXT_COLUMNS[container]
    queries, documents = texts
    expected = adapter(static_model).fit(queries, documents)
    found = adapter(static_model).fit(
        make(queries), make(documents), corpus=make(documents[:5])
    )
    np.testing.assert_array_equal(
        found.transform(make(queries)), expected.transform(queries)
    )
    assert found.score(make(queries), make(documents)) == expected.score(*texts)


# cells that hold several documents

CELLS = {
    "array": np.array,
    "objects": object_column,
    "tuple": tuple,
    "deque": deque,
    "Series": lambda v: pd.Series(v, index=range(9, 9 - len(v), -1)),
    "Index": pd.Index,
    "ExtensionArray": lambda v: pd.array(v, dtype="string"),
    "ArrowStringArray": lambda v: pd.Series(v).array,
    "Categorical": pd.Categorical,
    "polars": pl.Series,
    "pyarrow": pa.array,
    "scalar": pa.scalar,
    "scalars": lambda v: list(pa.array(v)),
}


@pytest.mark.parametrize("cell", CELLS)
def test_cells_of_documents(static_model, texts, cell):
    queries, y = FORMS["documents"](*texts)
    expected = adapter(static_model).fit(queries, y)
    cells = list(map(CELLS[cell], y))
    for column in (cells, object_column(cells), pd.Series(cells, dtype=object)):
        found = adapter(static_model).fit(queries, column)
        np.testing.assert_array_equal(
            found.transform(queries), expected.transform(queries)
        )
        assert found.score(queries, column) == expected.score(queries, y)


GROUPED = {
    "unique": lambda groups: groups.unique(),
    "list": lambda groups: groups.agg(list),
    "tuple": lambda groups: groups.agg(tuple),
    "tolist": lambda groups: groups.apply(lambda column: column.tolist()),
    "values": lambda groups: groups.apply(lambda column: column.to_numpy()),
    "Series": lambda groups: pd.Series(dict(iter(groups))),
}


@pytest.mark.parametrize("dtype", ["str", "object", "category", "string[pyarrow]"])
@pytest.mark.parametrize("how", GROUPED)
def test_groups_of_a_frame(static_model, texts, how, dtype):
    queries, y = FORMS["documents"](*texts)
    rows = [(q, d) for q, documents in zip(queries, y, strict=True) for d in documents]
    frame = pd.DataFrame(rows, columns=["query", "document"])
    frame["document"] = frame["document"].astype(dtype)
    groups = GROUPED[how](frame.groupby("query", sort=False)["document"])
    expected = adapter(static_model).fit(queries, y)
    found = adapter(static_model).fit(groups.index, groups)
    np.testing.assert_array_equal(found.transform(queries), expected.transform(queries))


def test_groups_of_other_frames(static_model, texts):
    queries, y = FORMS["documents"](*texts)
    rows = {"query": np.repeat(queries, 2), "document": np.ravel(y)}
    expected = adapter(static_model).fit(queries, y).transform(queries)
    polars = pl.DataFrame(rows).group_by("query", maintain_order=True)
    grouped = polars.agg(pl.col("document"))
    arrow = pa.table(rows).group_by("query", use_threads=False)
    table = arrow.aggregate([("document", "list")])
    for X, columns in (
        (grouped["query"], grouped["document"]),
        (table["query"], table["document_list"]),
    ):
        found = adapter(static_model).fit(X, columns).transform(queries)
        np.testing.assert_array_equal(found, expected)


@estimators
@pytest.mark.parametrize("how", [set, frozenset])
def test_groups_without_an_order(estimator, how):
    frame = pd.DataFrame({"query": ["a", "b", "b"], "document": ["c", "d", "e"]})
    groups = frame.groupby("query")["document"].agg(how)
    with pytest.raises(TypeError, match=r"y\[0\] .*not reproducible; pass a list"):
        ESTIMATORS[estimator]().fit(groups.index, groups)


@estimators
@pytest.mark.parametrize("cell", ["array", "tuple", "ArrowStringArray", "polars"])
def test_cells_of_a_table(estimator, cell):
    documents = object_column([CELLS[cell](["c"]), CELLS[cell](["d", "e"])])
    frame = pd.DataFrame({"query": ["a", "b"], "document": documents})
    with pytest.raises(TypeError, match=r"X\[0\]\[1\] must be a single item.*as y"):
        ESTIMATORS[estimator]().fit(frame)


@pytest.mark.parametrize("make", [np.int64, torch.tensor, pa.scalar, np.array])
def test_cells_of_ids_and_grades(make):
    grade = np.float32 if make is np.int64 else make
    index = PrecomputedEncoder((list(map(make, range(9))), np.eye(9)))
    y = [{i: 1.0, i + 1: 0.5} for i in range(4)]
    expected = adapter(index).fit([5, 6, 7, 8], y).transform([5, 6, 7, 8])
    ids = list(map(make, [5, 6, 7, 8]))
    found = adapter(index).fit(ids, [{i: grade(g) for i, g in r.items()} for r in y])
    np.testing.assert_array_equal(found.transform(ids), expected)
    rows = [(5, 0), (6, 1), (7, 2), (8, 3)]
    expected = adapter(index).fit(rows, [1, 0, 1, 1]).transform(ids)
    found = adapter(index).fit(
        [tuple(map(make, row)) for row in rows], list(map(grade, [1, 0, 1, 1]))
    )
    np.testing.assert_array_equal(found.transform(ids), expected)


# rows that are dicts, structured arrays

ROWS = {
    "list": list,
    "objects": object_column,
    "pandas": pd.Series,
    "polars": pl.Series,
    "pyarrow": pa.array,
    "iterable dataset": lambda rows: list(
        datasets.Dataset.from_list(rows).to_iterable_dataset()
    ),
    "structured": lambda rows: np.array(
        [tuple(row.values()) for row in rows],
        dtype=[(name, float if name == "label" else "U99") for name in rows[0]],
    ),
}


def dicts(rows, names):
    """Rows as dicts, whose keys are not in the order of a table."""
    return [dict(list(zip(names, row, strict=True))[::-1]) for row in rows]


@pytest.mark.parametrize("container", ROWS)
@pytest.mark.parametrize(
    "names", [("query", "document", "negative"), ("anchor", "positive", "negative_1")]
)
def test_rows_with_names(static_model, texts, container, names):
    X, _ = FORMS["triplet_table"](*texts)
    rows = ROWS[container](dicts(X, names))
    expected = adapter(static_model, loss="triplet").fit(X)
    found = adapter(static_model, loss="triplet").fit(rows)
    np.testing.assert_array_equal(found.transform(rows), expected.transform(X))
    assert found.score(rows) == expected.score(X)
    assert describe(rows) == describe(X)


@pytest.mark.parametrize("container", ["list", "objects", "structured", "pandas"])
def test_rows_with_names_and_labels(static_model, texts, container, any_gain):
    X, y = FORMS["labelled_table"](*texts)
    rows = [(*row, label) for row, label in zip(X, y, strict=True)]
    rows = ROWS[container](dicts(rows, ("query", "document", "label")))
    expected = adapter(static_model).fit(X, y)
    found = adapter(static_model, negatives="random", interpolation=None)
    found.fit(rows, X_val=rows)
    np.testing.assert_array_equal(found.transform(rows), expected.transform(X))
    assert found.score(rows) == expected.score(X, y)
    with pytest.raises(ValueError, match="X has a column 'label'.*y is passed too"):
        adapter(static_model).fit(rows, y)
    search = GridSearchCV(
        adapter(static_model), {"epochs": [1, 3]}, cv=3, error_score="raise"
    )
    scores = search.fit(X, y).cv_results_["mean_test_score"]
    found = search.fit(rows).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(found, scores)
    train, test = train_test_split(rows, random_state=0)
    assert len(train) + len(test) == 2 * N


BAD_ROWS = {
    "other keys": ([{"query": "a", "document": "b"}, {"query": "a"}], r"X\[1\] is .*"),
    "no dict": ([{"query": "a", "document": "b"}, "c"], r"X\[1\] is 'c', but X\[0\]"),
    "unknown": ([{"question": "a", "document": "b"}], r"missing: \['query'\]"),
    "more": ([{"query": "a", "pos": "b", "id": "c"}], r"not expected: \['id'\]"),
}


@estimators
@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_with_names(estimator, case):
    X, message = BAD_ROWS[case]
    with pytest.raises(ValueError, match=message):
        ESTIMATORS[estimator]().fit(X)


# what is no table yet

COLUMNS = {"query": ["a", "b"], "document": ["c", "d"]}
DATASET = datasets.Dataset.from_dict(COLUMNS)
SPLITS = {"train": DATASET, "test": DATASET}
NOT_YET = {
    "DatasetDict": (
        datasets.DatasetDict(SPLITS),
        r"DatasetDict, of the splits \['train', 'test'\].*pass .*X\['train'\]",
    ),
    "IterableDatasetDict": (
        datasets.IterableDatasetDict({"train": DATASET.to_iterable_dataset()}),
        r"of the splits \['train'\]; pass one of them: X\['train'\]",
    ),
    "IterableDataset": (DATASET.to_iterable_dataset(), r"no length; pass list\(X\)"),
    "LazyFrame": (pl.DataFrame(COLUMNS).lazy(), r"LazyFrame; pass X\.collect\(\)"),
    "reader": (pa.table(COLUMNS).to_reader(), r"pass X\.read_all\(\)"),
    "columns": (COLUMNS, r"X is a dict.*pandas\.DataFrame\(X\)"),
    "InputExample": ([InputExample(texts=["a", "b"])], r"X\[0\] .*pass .*item\.texts"),
}


@estimators
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", NOT_YET)
def test_what_is_no_table_yet(estimator, case):
    X, message = NOT_YET[case]
    with pytest.raises(TypeError, match=message):
        ESTIMATORS[estimator]().fit(X)
    with pytest.raises(TypeError, match=message.replace("X", "X_val")):
        ESTIMATORS[estimator]().fit(["a"], ["b"], X_val=X)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ["DatasetDict", "IterableDataset", "LazyFrame"])
def test_what_is_no_table_yet_at_other_doors(case):
    X, message = NOT_YET[case]
    for use in (describe, train_test_split, lambda X: document_groups(None, X)):
        with pytest.raises(TypeError, match=message):
            use(X)
    for name, use in (
        ("y", lambda X: document_groups(X)),
        ("corpus", lambda X: RetrievalScorer("ndcg@3", corpus=X)),
    ):
        with pytest.raises(TypeError, match=f"{name} is "):
            use(X)


def test_objects_that_hold_a_text(static_model):
    class Document:
        def __init__(self, page_content):
            self.page_content = page_content

    with pytest.raises(TypeError, match=r"y\[0\] .*item\.page_content"):
        adapter(static_model).fit(["a"], [Document("b")])
    with pytest.raises(TypeError, match=r"y\[0\]\[0\] .*row\['text'\]"):
        adapter(static_model).fit(["a"], [[{"text": "b"}]])
    with pytest.raises(TypeError, match=r"y\[0\]\['text'\] .*\{document: grade\}"):
        adapter(static_model).fit(["a"], [{"text": "b"}])
    with pytest.raises(TypeError, match=r"y\[0\]\[0\] .*flatten"):
        adapter(static_model).fit(["a"], [[["b"]]])


# texts that are not Unicode

HALF = "caf\ud83d"
SURROGATES = {
    "X": (["a", HALF], ["c", "d"], r"X\[1\]"),
    "y": (["a", "b"], ["c", HALF], r"y\[1\]"),
    "list": (["a", "b"], [["c"], ["d", HALF]], r"y\[1\]\[1\]"),
    "dict": (["a", "b"], [{"c": 1}, {"d": 0, HALF: 1}], r"document of y\[1\]"),
    "mixed": (["a", "b"], ["c", {"d": 0, HALF: 1}], r"document of y\[1\]"),
    "table": ([("a", "b"), ("c", HALF)], None, r"X\[1\]\[1\]"),
    "frame": (pd.DataFrame({"query": ["a", HALF], "pos": ["b", "c"]}, dtype=object),)
    + (None, r"X\[1\]\[0\]"),
}


@both
@pytest.mark.parametrize("case", SURROGATES)
def test_halves_of_surrogate_pairs(cls, case):
    X, y, name = SURROGATES[case]
    message = rf"{name} is 'caf.*half of a surrogate pair.*Repair it: .*'replace'"
    with pytest.raises(ValueError, match=message):
        cls(MISSING).fit(X, y)


def test_halves_of_surrogate_pairs_at_other_doors(static_model):
    encoder = SentenceEncoder(static_model)
    fitted = adapter(static_model).fit(["red0", "old1"], ["red1", "old2"])
    for use in (
        lambda: encoder.transform([HALF]),
        lambda: encoder.transform_documents([HALF]),
        lambda: encoder.warm([HALF]),
        lambda: fitted.retrieve(["red0"], [HALF]),
        lambda: fitted.score(["red0"], ["red1"], corpus=[HALF]),
        lambda: EmbeddingFinetuner(static_model).fit(["a"], ["b"], corpus=[HALF]),
        lambda: mine_hard_negatives(encoder, ["a"], ["b"], corpus=[HALF]),
        lambda: generate_pairs([HALF], str),
    ):
        with pytest.raises(ValueError, match=r"\[0\] is 'caf.*surrogate pair"):
            use()


def test_text_of_several_planes(static_model):
    texts = ["naïve 😀", "日本語", "𝒳\u0000", "e\u0301"]
    assert adapter(static_model).fit(texts, texts[::-1]).transform(texts).shape == (
        4,
        16,
    )
