"""Tables on disk give whole models what lists give, and their texts stay there."""

import datasets
import numpy as np
import pyarrow as pa
import pytest

from skembft import EmbeddingFinetuner
from skembft._data.judgements import check_retrieval_data
from skembft._data.stored_texts import StoredTexts

N = 12


@pytest.fixture
def columns(texts):
    queries, documents = texts
    queries, documents = queries[:N], documents[:N]
    return {
        "query": [*queries[:-2], queries[0], queries[3]],  # two come twice
        "document": [*documents[:-1], documents[5]],
        "negative": documents[3:] + documents[:3],
    }


def mapped(table, path):
    """A table of pyarrow as a memory map, in several chunks."""
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table, max_chunksize=7)
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def saved(table, path):
    datasets.Dataset(table).save_to_disk(str(path))
    return datasets.load_from_disk(str(path))


def shuffled(table, path):
    """A data set that looks its rows up: as select, filter and shuffle leave it."""
    order = np.random.RandomState(0).permutation(len(table))
    backwards = saved(table.take(np.argsort(order)), path)
    return backwards.select(order)


def large(table, path):
    schema = pa.schema([(name, pa.large_string()) for name in table.column_names])
    return mapped(table.cast(schema), path)


CONTAINERS = {"mapped": mapped, "saved": saved, "shuffled": shuffled, "large": large}


def finetuner(model, **params):
    params = {"epochs": 1, "batch_size": 4, "random_state": 0} | params
    return EmbeddingFinetuner(model, interpolation=None, **params)


def same_weights(found, expected):
    found, expected = found.model_.state_dict(), expected.model_.state_dict()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name].numpy(), tensor.numpy())


def rows_of(columns):
    return list(zip(*columns.values(), strict=True))


@pytest.mark.parametrize("container", CONTAINERS)
def test_tables_give_the_same(bert_model, columns, tmp_path, any_gain, container):
    expected = finetuner(bert_model).fit(rows_of(columns))
    table = CONTAINERS[container](pa.table(columns), tmp_path / "rows")
    found = finetuner(bert_model).fit(table)
    same_weights(found, expected)
    assert found.history_ == expected.history_
    assert found.score(table) == expected.score(rows_of(columns))


@pytest.mark.parametrize(
    "params",
    [
        {"loss": "triplet", "negatives": "random"},
        {"negatives": "hard"},
        {"side": "query"},
        {"trainable": 1},
        {"loss": "denoising_auto_encoder"},
        {"trainer_params": {"dataloader_num_workers": 2}},
    ],
    ids=str,
)
def test_pairs_of_every_kind(bert_model, columns, tmp_path, any_gain, params):
    del columns["negative"]
    table = mapped(pa.table(columns), tmp_path / "rows")
    params = {"validation_fraction": None, **params}
    expected = finetuner(bert_model, **params).fit(rows_of(columns))
    same_weights(finetuner(bert_model, **params).fit(table), expected)


def test_a_checkpoint_goes_on_with_either(bert_model, columns, tmp_path):
    table = mapped(pa.table(columns), tmp_path / "rows")
    params = {
        "validation_fraction": None,
        "save_checkpoints": True,
        "checkpoint_save_steps": 1,
        "model_output_path": str(tmp_path / "out"),
    }
    whole = finetuner(bert_model, **params).fit(table)
    again = finetuner(bert_model, resume_from_checkpoint=True, **params)
    same_weights(again.fit(rows_of(columns)), whole)
    assert again.history_ == whole.history_


def test_labels_and_a_corpus(bert_model, columns, tmp_path):
    labels = np.linspace(0, 1, N)
    pairs = list(zip(columns["query"], columns["document"], strict=True))
    corpus = [*columns["negative"], "one more"]
    params = {"loss": "cosine_similarity", "validation_fraction": None}
    expected = finetuner(bert_model, **params).fit(pairs, labels, corpus=corpus)
    names = {"anchor": columns["query"], "pos": columns["document"], "score": labels}
    table = mapped(pa.table(names), tmp_path / "rows")
    stored = mapped(pa.table({"text": corpus}), tmp_path / "corpus")["text"]
    for known in corpus, stored:
        found = finetuner(bert_model, **params).fit(table, corpus=known)
        same_weights(found, expected)


def test_columns_as_x_and_y(bert_model, columns, tmp_path, any_gain):
    expected = finetuner(bert_model).fit(columns["query"], columns["document"])
    table = mapped(pa.table(columns), tmp_path / "rows")
    dataset = shuffled(pa.table(columns), tmp_path / "dataset")
    for stored in table, dataset:
        found = finetuner(bert_model).fit(stored["query"], stored["document"])
        same_weights(found, expected)


# ---- what is read


def read(X, y=None, **params):
    return check_retrieval_data(X, y, kind="text", stored=True, **params)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("own", [False, {"q": "d"}])
def test_the_data_are_the_same(columns, tmp_path, container, own):
    columns["query"][4] = columns["document"][7]  # it is itself a document
    own = {columns["query"][2]: columns["document"][9]} if own else own
    table = CONTAINERS[container](pa.table(columns), tmp_path / "rows")
    corpus = columns["document"][::-1]
    expected = read(rows_of(columns), corpus=corpus, own=own)
    found = read(table, corpus=corpus, own=own)
    assert isinstance(found.queries, StoredTexts)
    assert isinstance(found.documents, StoredTexts)
    for data in found, expected, found.subset(np.arange(3, 8)):
        assert len(data.queries) == data.n_queries
    assert list(found.queries) == list(expected.queries)
    assert list(found.documents) == list(expected.documents)
    kept = np.array([3, 1, 9])
    assert list(found.subset(kept).queries) == expected.subset(kept).queries
    for name in ("row_query", "example_row", "example_document", "pool", "corpus"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_array_equal(found.example_grade, expected.example_grade)
    np.testing.assert_array_equal(found.own_documents(), expected.own_documents())
    assert (found.own_documents() >= 0).any()
    assert (found.n_negatives, found.labelled) == (1, False)


def test_texts_are_read_in_any_order(tmp_path):
    texts = ["", "ß", "a" * 100, "日本", "z", "ß", "\0", "a\0"]
    table = mapped(pa.table({"query": texts, "document": texts}), tmp_path / "rows")
    with pytest.warns(UserWarning, match="empty string is among the data as a query"):
        found = read(table).documents
    assert list(found) == ["", "ß", "a" * 100, "日本", "z", "\0", "a\0"]
    assert [found[i] for i in (5, 0, -1)] == ["\0", "", "a\0"]
    assert list(found[::-2]) == ["a\0", "z", "a" * 100, ""]
    assert list(found[np.array([6, 1])]) == ["a\0", "ß"]


def test_what_is_transformed_is_read_as_it_says(columns):
    dataset = datasets.Dataset.from_dict(columns)
    upper = dataset.with_transform(
        lambda rows: {n: [t.upper() for t in c] for n, c in rows.items()}
    )
    assert read(upper).queries[0] == columns["query"][0].upper()
    assert isinstance(read(dataset).queries, StoredTexts)


@pytest.mark.parametrize("value", [None, 3])
def test_what_is_no_text_is_named(bert_model, columns, value):
    columns["document"] = [value if i == 5 else i for i in range(N)]
    with pytest.raises(TypeError, match=r"X\['?document|X\[\d+\]\[1\]"):
        finetuner(bert_model).fit(pa.table(columns))


def test_columns_that_nothing_expects(bert_model, columns):
    table = pa.table(columns | {"id": list(range(N))})
    with pytest.raises(ValueError, match=r"not expected: \['id'\]"):
        finetuner(bert_model).fit(table)
    with pytest.raises(ValueError, match="X has 12 queries, but y has 11"):
        finetuner(bert_model).fit(table["query"], table["document"][:-1])
    with pytest.raises(ValueError, match="is empty"):
        finetuner(bert_model).fit(pa.table(columns)[:0])
