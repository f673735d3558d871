"""Files that are there, and empty or not what their names say, in every loader."""

import gzip
import json
import zipfile

import pytest

from skembft.datasets import (
    generate_pairs,
    load_beir,
    load_flag_embedding,
    load_qa_dataset,
    load_trec_qrels,
    load_trec_run,
)
from tests.datasets.files import write_beir

QA = {"queries": {"q": "é?"}, "corpus": {"d": "é"}, "relevant_docs": {"q": ["d"]}}
CONTENTS = {
    "qa": json.dumps(QA),
    "flag": '{"query": "é?", "pos": ["é"]}\n',
    "qrels": "q 0 é 1\n",
    "run": "q Q0 é 1 2.5 é\n",
    "corpus": '{"_id": "d", "text": "é"}\n',
    "queries": '{"_id": "q", "text": "é?"}\n',
    "tsv": "query-id\tcorpus-id\tscore\nq\td\t1\n",
}
BEIR = {"corpus": "corpus.jsonl", "queries": "queries.jsonl", "tsv": "qrels/test.tsv"}
LOADERS = {
    "qa": load_qa_dataset,
    "flag": load_flag_embedding,
    "qrels": load_trec_qrels,
    "run": load_trec_run,
}
kinds = pytest.mark.parametrize("kind", CONTENTS)


@pytest.fixture
def load(tmp_path):
    """Load what a kind of file holds, given its bytes."""
    (tmp_path / "qrels").mkdir()

    def load(kind, content, name=None):
        if kind not in BEIR:
            path = tmp_path / (name or f"{kind}.json")
            path.write_bytes(content)
            return LOADERS[kind](path)
        for other, file in BEIR.items():
            text = content if other == kind else CONTENTS[other].encode()
            (tmp_path / file).write_bytes(text)
        return load_beir(tmp_path)

    return load


@kinds
def test_gzip_under_another_name(load, kind):
    content = CONTENTS[kind].encode()
    assert load(kind, gzip.compress(content)) == load(kind, content)


@kinds
def test_text_under_the_name_of_a_gzip(load, kind):
    content = CONTENTS[kind].encode()
    expected = load(kind, content, name="file")
    found = load(kind, content, name="file.gz")
    if kind in ("qa", "flag"):
        assert found.pop("DESCR") != expected.pop("DESCR")  # which has the name
    assert found == expected


@kinds
def test_byte_order_mark(load, kind):
    content = CONTENTS[kind].encode()
    assert load(kind, b"\xef\xbb\xbf" + content) == load(kind, content)


WRONG = {
    "empty": b"",
    "blank": b" \n\n",
    "mark": b"\xef\xbb\xbf",
    "page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n",
    "pages": b"<!DOCTYPE html>\n<html>\n<body>404 Not Found</body>\n</html>\n",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\n",
    "NUL": b"\0" * 64,
    "deep": b"[" * 100_000,
    "numbers": b"1\n2\n",
    "null": b"null",
}


@kinds
@pytest.mark.parametrize("case", WRONG)
def test_what_is_something_else(load, kind, case):
    name = BEIR.get(kind, kind)
    with pytest.raises(ValueError, match=rf"{name}.*"):
        load(kind, WRONG[case])


@kinds
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_other_encodings(load, kind, encoding):
    content = CONTENTS[kind].encode(encoding)
    if kind == "qa":  # JSON tells its encoding
        assert load(kind, content) == load(kind, CONTENTS[kind].encode())
        return
    with pytest.raises(ValueError, match=rf"{BEIR.get(kind, kind)}"):
        load(kind, content)


@kinds
def test_a_zip_file(load, tmp_path, kind):
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("file", CONTENTS[kind])
    with pytest.raises(ValueError, match=rf"{BEIR.get(kind, kind)}"):
        load(kind, (tmp_path / "archive").read_bytes())


@kinds
@pytest.mark.parametrize("change", ["cut", "changed"])
def test_a_damaged_gzip(load, kind, change):
    content = bytearray(gzip.compress(CONTENTS[kind].encode() * 50))
    if change == "cut":
        del content[-12:]
    else:
        content[len(content) // 2] ^= 0xFF
    with pytest.raises(ValueError, match=rf"{BEIR.get(kind, kind)}.*"):
        load(kind, bytes(content))


@kinds
def test_nul_bytes_within(load, kind):
    content = CONTENTS[kind].encode().replace("é".encode(), b"\0").replace(b"d", b"\0")
    with pytest.raises(ValueError, match=rf"{BEIR.get(kind, kind)}"):
        load(kind, content)


@pytest.mark.parametrize("kind", LOADERS)
def test_a_directory(tmp_path, kind):
    with pytest.raises(IsADirectoryError, match="is a directory; pass a file"):
        LOADERS[kind](tmp_path)


def test_a_directory_within_a_folder(tmp_path):
    write_beir(tmp_path)
    (tmp_path / "corpus.jsonl").unlink()
    (tmp_path / "corpus.jsonl").mkdir()
    with pytest.raises(IsADirectoryError, match=r"corpus\.jsonl is a directory"):
        load_beir(tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "data.zip").touch()
    with pytest.raises(NotADirectoryError, match=r"data\.zip is a file; pass the fold"):
        load_beir(tmp_path / "data.zip")


def test_judgements_that_are_a_header_alone(load):
    with pytest.raises(ValueError, match=r"test\.tsv holds no judgement"):
        load("tsv", b"query-id\tcorpus-id\tscore\n")


def test_a_data_set_without_judgements(load):
    for empty in ({}, {"q": []}):
        content = json.dumps(QA | {"relevant_docs": empty}).encode()
        with pytest.raises(ValueError, match=r"qa\.json holds no judgement"):
            load("qa", content)


def test_halves_of_characters_in_an_answer(tmp_path):
    # two halves, as JSON's escapes leave them, are a character; one alone is none
    answer = "1. What is \ud83d\ude00?\n2. And caf\ud83d?"
    path = tmp_path / "pairs.json"
    data = generate_pairs(["Ein Gedicht über Bäume."], lambda prompt: answer, path=path)
    assert data.queries == ["What is \U0001f600?", "And caf\ufffd?"]
    assert load_qa_dataset(path).queries == data.queries
    text = path.read_text(encoding="utf-8")
    assert "über Bäume" in text and "\U0001f600" in text
