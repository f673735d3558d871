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


# judgements of what the files lack

HEADER = "query-id\tcorpus-id\tscore"


def test_beir_leaves_unknown_ids_out_with_one_warning(tmp_path):
    known = load_beir(write_beir(tmp_path))
    qrels = (tmp_path / "qrels" / "test.tsv").read_text().split("\n")
    more = [f"q3\tx{i}\t1" for i in range(4)] + ["y1\td1\t1", "y2\tx1\t0"]
    write_beir(tmp_path, qrels=qrels + more)
    with pytest.warns(UserWarning) as caught:
        data = load_beir(tmp_path)
    assert data == known
    (warning,) = caught
    assert warning.filename == __file__
    assert str(warning.message) == (
        f"{tmp_path / 'qrels' / 'test.tsv'}: 6 of 11 judgements are left out; "
        "documents not in corpus.jsonl: 4 ('x0', 'x1', 'x2', …); queries not in "
        "queries.jsonl: 2 ('y1', 'y2'). strict=True refuses such judgements."
    )


@pytest.mark.parametrize("remaining", [[], ["q3\td2\t0"], ["q3\td2\t-1"]])
@pytest.mark.parametrize("grade", [1, 0])
def test_beir_leaves_out_a_query_that_loses_what_is_relevant(
    tmp_path, remaining, grade
):
    qrels = [HEADER, "q1\td2\t1", f"q3\tx1\t{grade}", *remaining]
    write_beir(tmp_path, qrels=qrels)
    with pytest.warns(UserWarning, match=r"document, so left out too: 1 \('q3'\)\."):
        data = load_beir(tmp_path)
    assert data.query_ids == ["q1"]
    assert data.relevant == [{"Pears are green": 1}]
    assert len(data.corpus) == 5
    with pytest.warns(UserWarning):
        assert load_beir(tmp_path, return_X_y=True) == (data.queries, data.relevant)


@pytest.mark.filterwarnings("error")
def test_beir_query_with_nothing_relevant_that_lost_nothing_stays(tmp_path):
    write_beir(tmp_path, qrels=[HEADER, "q1\td2\t1", "q3\td2\t0"])
    assert load_beir(tmp_path).query_ids == ["q1", "q3"]


def test_beir_with_nothing_left(tmp_path):
    write_beir(tmp_path, qrels=[HEADER, "q1\tx1\t1", "y1\td1\t1"])
    with pytest.raises(ValueError, match=r"test\.tsv: 2 of 2 .*No query is left: are"):
        load_beir(tmp_path)


@pytest.mark.parametrize(
    "bad, message",
    [
        ("q9\td1\t1", r"names the query 'q9', not in queries\.jsonl"),
        ("q1\td9\t1", r"names the document 'd9', not in corpus\.jsonl"),
        ("q1\td9\t0", r"names the document 'd9', not in corpus\.jsonl"),
    ],
)
def test_beir_strict(tmp_path, bad, message):
    write_beir(tmp_path, qrels=[HEADER, "q1\td1\t1", bad])
    with pytest.raises(ValueError, match=rf"test\.tsv, line 3 {message}"):
        load_beir(tmp_path, strict=True)


# queries that are documents


def test_beir_as_arguana_is(tmp_path):
    """Titles tell documents from queries, ids do not; one judged document is gone."""
    write_beir(
        tmp_path,
        corpus=[
            f'{{"_id": "{i}", "title": "Zoos", "text": "{text}"}}'
            for i, text in [("a", "pro"), ("b", "con"), ("c", "so-so")]
        ],
        queries=[
            '{"_id": "c", "text": "so-so"}',
            '{"_id": "a", "text": "pro"}',
            '{"_id": "b", "text": "con"}',
            '{"_id": "e", "text": "no document"}',
        ],
        qrels=[HEADER, "a\tb\t1", "b\tgone\t1", "c\ta\t1", "e\ta\t1"],
    )
    with pytest.warns(UserWarning, match="1 of 4 judgements"):
        data = load_beir(tmp_path)
    assert data.query_ids == ["c", "a", "e"]
    assert data.own_documents == {"so-so": "Zoos so-so", "pro": "Zoos pro"}
    assert list(data.own_documents) == data.queries[:2]
    assert set(data.own_documents.values()) <= set(data.corpus)


def test_beir_own_document_of_a_repeated_text_is_the_first(tmp_path):
    write_beir(
        tmp_path,
        queries=[f'{{"_id": "d{i}", "text": "pear"}}' for i in (9, 2, 5)],
        qrels=[HEADER, "d9\td1\t1", "d2\td1\t1", "d5\td1\t1"],
    )
    assert load_beir(tmp_path).own_documents == {"pear": "Pears are green"}


def test_beir_without_own_documents(tmp_path):
    assert load_beir(write_beir(tmp_path)).own_documents == {}


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


def test_beir_titles(tmp_path):
    """pandas writes a missing title as NaN; what is no string is refused."""
    write_beir(tmp_path)
    path, first = tmp_path / "corpus.jsonl", '{"_id": "d1", "text": "plain", "title": '
    others = path.read_text(encoding="utf-8").splitlines()[1:]

    def write(title):
        text = "\n".join([first + title + "}", *others])
        path.write_text(text, encoding="utf-8")

    for title in ("NaN", "null", '""'):
        write(title)
        assert load_beir(tmp_path).corpus[0] == "plain"
    for title in ('["a"]', "1", "true", "{}"):
        write(title)
        with pytest.raises(ValueError, match="line 1.* has a title that is no string"):
            load_beir(tmp_path)
