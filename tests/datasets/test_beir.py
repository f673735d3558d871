"""load_beir."""

import re

import pytest

from skembft.datasets import load_beir
from tests.datasets.files import KEYS, REAL_DATA, needs_real_data, write_beir


def test_beir(tmp_path):
    data = load_beir(write_beir(tmp_path))
    assert set(data) == KEYS
    assert data.query_ids == ["q1", "q3"]  # the order of queries.jsonl
    assert data.queries == ["colour of pears", "colour of apples é"]
    assert data.relevant == [
        {"Pears are green": 1, "Plums": -1},
        {"Apples are red": 2, "Pears are green": 0},
    ]
    assert all(type(g) is int for grades in data.relevant for g in grades.values())
    assert data.corpus == [
        "Apples are red",
        "Pears are green",
        "Apples are red",
        "",
        "Plums",
    ]
    assert data.corpus_ids == ["d1", "d2", "d3", "d4", "d5"]
    assert "test" in data.DESCR


def test_beir_return_X_y_and_str_path(tmp_path):
    data = load_beir(write_beir(tmp_path))
    queries, relevant = load_beir(str(tmp_path), "test", return_X_y=True)
    assert (queries, relevant) == (data.queries, data.relevant)


def test_beir_highest_grade_of_one_text_in_any_order(tmp_path):
    header = "query-id\tcorpus-id\tscore"
    write_beir(tmp_path, qrels=[header, "q1\td3\t2", "q1\td1\t1"])
    assert load_beir(tmp_path).relevant == [{"Apples are red": 2}]


def test_beir_line_ends_and_blank_lines(tmp_path):
    expected = load_beir(write_beir(tmp_path))
    for file in tmp_path.rglob("*.*"):
        content = file.read_bytes().replace(b"\n", b"\r\n")
        file.write_bytes(b"\xef\xbb\xbf" + content + b"\r\n\r\n")
    assert load_beir(tmp_path) == expected


def test_beir_missing_split_names_those_that_exist(tmp_path):
    write_beir(tmp_path)
    (tmp_path / "qrels" / "dev.tsv").touch()
    with pytest.raises(FileNotFoundError, match=r"train\.tsv.* are: dev, test\."):
        load_beir(tmp_path, "train")


def test_beir_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.*test\.tsv.* are: none\."):
        load_beir(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_beir_missing_file(tmp_path, name):
    (write_beir(tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(name)):
        load_beir(tmp_path)


GOOD_RECORD = '{"_id": "d1", "text": "a"}'


@pytest.mark.parametrize("file", ["corpus", "queries"])
@pytest.mark.parametrize(
    "bad, message",
    [
        ("{", r'must be a JSON object with the strings "_id" and "text", got .\{'),
        ("[1]", r"must be a JSON object .* got '\[1\]'"),
        ('{"_id": "d2"}', 'must be a JSON object with the strings "_id" and "text"'),
        ('{"_id": 2, "text": "a"}', "must be a JSON object with the strings"),
        ('{"_id": "d2", "text": null}', "must be a JSON object with the strings"),
        (GOOD_RECORD, "repeats the id 'd1'"),
    ],
)
def test_beir_malformed_record(tmp_path, file, bad, message):
    write_beir(tmp_path, **{file: [GOOD_RECORD, "", bad]})
    with pytest.raises(ValueError, match=rf"{file}\.jsonl, line 3 {message}"):
        load_beir(tmp_path)


def test_beir_not_utf8(tmp_path):
    write_beir(tmp_path)
    record = '\n{"_id": "d6", "text": "é"}'.encode("latin-1")
    with (tmp_path / "corpus.jsonl").open("ab") as file:
        file.write(record)
    with pytest.raises(ValueError, match=r"corpus\.jsonl, line 6 is not UTF-8"):
        load_beir(tmp_path)


@pytest.mark.parametrize(
    "bad, message",
    [
        ("q1\td1", "must be query id, document id and integer grade.*q1"),
        ("q1 d1 1", "must be query id, document id and integer grade"),
        ("q1\td1\t1\t1", "must be query id, document id and integer grade"),
        ("q1\td1\thigh", "must be query id, document id and integer grade.*high"),
        ("q1\td1\t0.5", "must be query id, document id and integer grade"),
        ("q9\td1\t1", r"names the query 'q9', not in queries\.jsonl"),
        ("q1\td9\t1", r"names the document 'd9', not in corpus\.jsonl"),
    ],
)
def test_beir_malformed_judgement(tmp_path, bad, message):
    write_beir(tmp_path, qrels=["query-id\tcorpus-id\tscore", "q1\td1\t1", bad])
    with pytest.raises(ValueError, match=rf"test\.tsv, line 3 {message}"):
        load_beir(tmp_path)


def test_beir_no_header(tmp_path):
    write_beir(tmp_path, qrels=["q1\td1\t1", "q3\td1\t1"])
    with pytest.raises(ValueError, match=r"test\.tsv, line 1 must be a header"):
        load_beir(tmp_path)


# real data


@pytest.mark.realdata
@needs_real_data
@pytest.mark.parametrize(
    "name, split, n_queries, n_documents, n_distinct",
    [
        ("nfcorpus", "train", 2590, 3633, 3593),
        ("nfcorpus", "dev", 324, 3633, 3593),
        ("nfcorpus", "test", 323, 3633, 3593),
        ("cranfield", "test", 225, 1400, 1399),
    ],
)
def test_real_beir(name, split, n_queries, n_documents, n_distinct):
    data = load_beir(REAL_DATA / name, split)
    assert len(data.queries) == len(data.relevant) == len(data.query_ids) == n_queries
    assert len(data.corpus) == len(data.corpus_ids) == n_documents
    assert len(set(data.corpus)) == n_distinct
    known = set(data.corpus)
    assert all(grades.keys() <= known for grades in data.relevant)


@pytest.mark.realdata
@needs_real_data
def test_real_beir_known_document():
    data = load_beir(REAL_DATA / "nfcorpus")
    assert data.corpus_ids[0] == "MED-10"
    assert data.corpus[0].startswith(
        "Statin Use and Breast Cancer Survival: A Nationwide Cohort Study from Finland "
        "Recent studies have suggested"
    )
    assert {g for grades in data.relevant for g in grades.values()} == {1, 2}
