"""load_qa_dataset and save_qa_dataset: the format of LlamaIndex."""

import json
import os

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skembft.datasets import load_beir, load_qa_dataset, save_qa_dataset
from tests.datasets.files import KEYS, REAL_DATA, needs_real_data, write_beir

QA = {
    "queries": {"a": "first", "b": "second", "c": "third", "d": "fourth"},
    "corpus": {"x": "one", "y": "two", "z": "one"},
    "relevant_docs": {"b": ["y", "x"], "a": ["x"], "c": []},
    "mode": "text",
}


def write_json(folder, content):
    path = folder / "data.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("with_mode", [True, False])
def test_qa(tmp_path, with_mode):
    content = dict(QA)
    if not with_mode:
        del content["mode"]
    data = load_qa_dataset(write_json(tmp_path, content))
    assert set(data) == KEYS
    assert data.query_ids == ["a", "b"]  # c and d have nothing relevant
    assert data.queries == ["first", "second"]
    assert data.relevant == [["one"], ["two", "one"]]
    assert data.corpus == ["one", "two", "one"]
    assert data.corpus_ids == ["x", "y", "z"]


def test_qa_return_X_y_and_str_path(tmp_path):
    queries, relevant = load_qa_dataset(str(write_json(tmp_path, QA)), return_X_y=True)
    assert (queries, relevant) == (["first", "second"], [["one"], ["two", "one"]])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"queries": ["first"]}, "'queries' must be an object, got a list"),
        ({"corpus": None}, "'corpus' must be an object, got a NoneType"),
        ({"queries": {"a": 1}}, r"queries\['a'\] must be a str, got 1"),
        ({"corpus": {"x": None}}, r"corpus\['x'\] must be a str, got None"),
        (
            {"relevant_docs": {"a": "x"}},
            r"relevant_docs\['a'\] must be a list, got 'x'",
        ),
        (
            {"relevant_docs": {"a": ["x", ["y"]]}},
            r"relevant_docs\['a'\] holds \['y'\]; ids of documents are strings",
        ),
        ({"relevant_docs": {"a": [1]}}, r"relevant_docs\['a'\] holds 1; ids of"),
        ({"mode": "image"}, "the mode is 'image'; only 'text' is known"),
    ],
)
def test_qa_wrong_content(tmp_path, change, message):
    path = write_json(tmp_path, QA | change)
    with pytest.raises(ValueError, match=rf"data\.json: .*{message}"):
        load_qa_dataset(path)


def test_qa_leaves_unknown_ids_out_with_one_warning(tmp_path):
    judged = {"b": ["y", "w", "x"], "a": ["x"], "c": [], "d": ["w", "v"], "e": ["x"]}
    path = write_json(tmp_path, QA | {"relevant_docs": judged})
    with pytest.warns(UserWarning) as caught:
        data = load_qa_dataset(path)
    assert data == load_qa_dataset(write_json(tmp_path, QA))
    (warning,) = caught
    assert warning.filename == __file__
    assert str(warning.message) == (
        f"{path}: 4 of 7 judgements are left out; documents not in corpus: 2 ('w', "
        "'v'); queries not in queries: 1 ('e'); queries left without a relevant "
        "document, so left out too: 1 ('d'). strict=True refuses such judgements."
    )


def test_qa_with_nothing_left(tmp_path):
    path = write_json(tmp_path, QA | {"relevant_docs": {"a": ["w"], "e": ["x"]}})
    with pytest.raises(ValueError, match=r"data\.json: 2 of 2 .*No query is left: are"):
        load_qa_dataset(path)


@pytest.mark.parametrize(
    "judged, message",
    [
        ({"e": ["x"]}, r"\['e'\] names the query 'e', not in queries\."),
        ({"a": ["x", "w"]}, r"\['a'\] names the document 'w', not in corpus\."),
    ],
)
def test_qa_strict(tmp_path, judged, message):
    path = write_json(tmp_path, QA | {"relevant_docs": judged})
    with pytest.raises(ValueError, match=rf"data\.json: relevant_docs{message}"):
        load_qa_dataset(path, strict=True)
    assert load_qa_dataset(write_json(tmp_path, QA), strict=True).query_ids == [
        "a",
        "b",
    ]


def test_qa_own_documents(tmp_path):
    assert load_qa_dataset(write_json(tmp_path, QA)).own_documents == {}
    corpus = QA["corpus"] | {"b": "Title: second", "d": "never judged"}
    data = load_qa_dataset(write_json(tmp_path, QA | {"corpus": corpus}))
    assert data.own_documents == {"second": "Title: second"}


@pytest.mark.parametrize("key", ["queries", "corpus", "relevant_docs"])
def test_qa_missing_key(tmp_path, key):
    content = {name: value for name, value in QA.items() if name != key}
    with pytest.raises(ValueError, match=f"'{key}' must be an object, got no such key"):
        load_qa_dataset(write_json(tmp_path, content))


def test_qa_not_an_object(tmp_path):
    with pytest.raises(ValueError, match=r"data\.json holds a list, not an object"):
        load_qa_dataset(write_json(tmp_path, []))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\xfa"])
def test_qa_not_json(tmp_path, content):
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.json is not a JSON file"):
        load_qa_dataset(path)


def test_qa_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        load_qa_dataset(tmp_path / "nothing.json")


def test_save_is_the_format_of_llamaindex(tmp_path):
    path = tmp_path / "data.json"
    save_qa_dataset(path, ["é?", "b?"], ["new", ["y", "x"]], ["x", "y", "x", "z"])
    content = {
        "queries": {"q0": "é?", "q1": "b?"},
        "corpus": {"d0": "x", "d1": "y", "d2": "z", "d3": "new"},
        "relevant_docs": {"q0": ["d3"], "q1": ["d1", "d0"]},
        "mode": "text",
    }
    text = path.read_text(encoding="utf-8")
    assert text == json.dumps(content, indent=4, ensure_ascii=False)
    assert list(tmp_path.iterdir()) == [path]


def test_save_then_load(tmp_path):
    path = tmp_path / "data.json"
    queries = ["same", "same", "", "a\n\u2028\U0001f600"]
    relevant = [["one"], ["two", "one"], [""], ["three"]]
    save_qa_dataset(path, queries, relevant, ["three", "one"])
    data = load_qa_dataset(path)
    assert data.queries == queries
    assert data.relevant == relevant
    assert data.corpus == ["three", "one", "two", ""]


@pytest.mark.parametrize(
    "item, documents",
    [
        ("a", ["a"]),
        (["b", "a", "b"], ["b", "a"]),
        (("b", "a"), ["b", "a"]),
        ({"a": 1, "b": 2, "c": 0, "d": 1, "e": -1}, ["b", "a", "d"]),
        ({"a": np.int64(1), "b": np.float32(1.5)}, ["b", "a"]),
        ({"a": True, "b": False}, ["a"]),
        (np.array(["b", "a"]), ["b", "a"]),
    ],
)
def test_save_forms_of_relevant(tmp_path, item, documents):
    path = tmp_path / "data.json"
    save_qa_dataset(path, ["q"], [item], [])
    assert load_qa_dataset(path).relevant == [documents]


@pytest.mark.parametrize(
    "form",
    [
        tuple,
        np.array,
        lambda x: np.array(x, dtype=object),
        pd.Series,
        pl.Series,
        pa.array,
        lambda x: pa.chunked_array([x]).dictionary_encode(),
    ],
)
def test_save_sequences(tmp_path, form):
    path = tmp_path / "data.json"
    save_qa_dataset(path, form(["q", "r"]), form(["a", "b"]), form(["c"]))
    data = load_qa_dataset(path)
    assert (data.queries, data.relevant) == (["q", "r"], [["a"], ["b"]])
    assert data.corpus == ["c", "a", "b"]


def test_save_a_beir_data_set(tmp_path):
    beir = load_beir(write_beir(tmp_path))
    path = tmp_path / "data.json"
    save_qa_dataset(path, beir.queries, beir.relevant, beir.corpus)
    data = load_qa_dataset(path)
    assert data.queries == beir.queries
    assert data.relevant == [["Pears are green"], ["Apples are red"]]
    assert data.corpus == list(dict.fromkeys(beir.corpus))


@pytest.mark.parametrize(
    "queries, relevant, corpus, error, message",
    [
        (["q", 1], ["a", "b"], [], TypeError, r"queries\[1\] must be a str, got 1"),
        (["q"], ["a"], ["a", None], TypeError, r"corpus\[1\] must be a str, got None"),
        (["q"], [["a", b"b"]], [], TypeError, r"relevant\[0\]\[1\] must be a str"),
        (["q"], [{1: 1}], [], TypeError, r"relevant\[0\]\[0\] must be a str, got 1"),
        (["q"], [{"a": "1"}], [], TypeError, r"\['a'\] must be a number, got '1'"),
        (["q"], [{"a": None}], [], TypeError, r"\['a'\] must be a number, got None"),
        (["q"], [{"a": np.nan}], [], ValueError, "must be finite, got nan"),
        (["q"], [None], [], TypeError, r"relevant\[0\] must be a list, .* got None"),
        (["q"], [{"a", "b"}], [], TypeError, r"relevant\[0\] is a set, whose order"),
        ("q", ["a"], [], TypeError, "queries is the single str 'q'"),
        (["q"], "a", [], TypeError, "relevant is the single str 'a'"),
        (["q"], {"a": 1}, [], TypeError, "relevant is a dict; pass a list"),
        (["q"], ["a"], {"a"}, TypeError, r"corpus is a set, .*pass sorted"),
        (
            iter("q"),
            ["a"],
            [],
            TypeError,
            r"queries must be a list, .*pass list\(queries\)",
        ),
        (["q"], ["a", "b"], [], ValueError, "differ in length: 1 and 2"),
        (["q", "r"], ["a", []], [], ValueError, r"relevant\[1\] has no relevant"),
        (["q", "\ud800"], ["a", "b"], [], ValueError, r"queries\[1\] .* surrogate"),
        (["q"], [["a", "\udfff"]], [], ValueError, r"relevant\[0\]\[1\] .* surrogate"),
        (["q"], ["a"], ["b", "\ud800"], ValueError, r"corpus\[1\] .* surrogate"),
        (["q"], [{"a": 0}], [], ValueError, r"relevant\[0\] has no relevant document"),
    ],
)
def test_save_wrong_input_writes_nothing(
    tmp_path, queries, relevant, corpus, error, message
):
    path = tmp_path / "data.json"
    path.write_text("before")
    with pytest.raises(error, match=message):
        save_qa_dataset(path, queries, relevant, corpus)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_save_into_a_missing_folder(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"data\.json: its folder does not exist"
    ):
        save_qa_dataset(tmp_path / "nothing" / "data.json", ["q"], ["a"], [])
    assert list(tmp_path.iterdir()) == []


def test_save_failing_at_the_end_leaves_nothing(tmp_path):
    path = tmp_path / "data.json"
    path.mkdir()  # cannot be replaced by a file
    with pytest.raises(OSError):
        save_qa_dataset(path, ["q"], ["a"], [])
    assert list(tmp_path.iterdir()) == [path]


def test_save_interrupted_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "data.json"
    save_qa_dataset(path, ["q"], ["a"], [])
    before = path.read_bytes()

    def interrupted(content, file, **kwargs):
        file.write('{"queries": ')
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dump", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_qa_dataset(path, ["r"], ["b"], [])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="file modes of POSIX")
def test_save_has_the_usual_file_mode(tmp_path):
    (tmp_path / "usual").touch()
    save_qa_dataset(tmp_path / "data.json", ["q"], ["a"], [])
    assert (tmp_path / "data.json").stat().st_mode == (
        tmp_path / "usual"
    ).stat().st_mode


# real data


@pytest.mark.realdata
@needs_real_data
@pytest.mark.parametrize(
    "name, n_queries, n_documents", [("train", 668, 334), ("val", 790, 395)]
)
def test_real_qa(tmp_path, name, n_queries, n_documents):
    data = load_qa_dataset(REAL_DATA / "llamaindex-10k" / f"{name}_dataset.json")
    assert len(data.queries) == n_queries
    assert len(data.corpus) == n_documents
    assert all(len(documents) == 1 for documents in data.relevant)
    copy = tmp_path / "copy.json"
    save_qa_dataset(copy, data.queries, data.relevant, data.corpus)
    again = load_qa_dataset(copy)
    assert again.queries == data.queries
    assert again.relevant == data.relevant
    assert again.corpus == data.corpus
