import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from skembft import (
    AdapterFinetuner,
    APIEncoder,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.datasets import (
    describe,
    load_beir,
    load_docstrings,
    load_qa_dataset,
    load_trec_qrels,
    save_qa_dataset,
)
from skembft.metrics import evaluate

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"
needs_real_data = pytest.mark.skipif(
    not REAL_DATA.is_dir(), reason="the real data sets are not here"
)
KEYS = {"queries", "relevant", "corpus", "query_ids", "corpus_ids", "DESCR"}


# load_docstrings


@pytest.fixture(scope="module")
def docstrings():
    return load_docstrings()


def test_docstrings_form(docstrings):
    n = len(docstrings.queries)
    assert 2500 <= n <= 3300
    assert set(docstrings) == KEYS
    for key in KEYS - {"DESCR"}:
        assert len(docstrings[key]) == n
        assert all(type(text) is str for text in docstrings[key])
    assert docstrings.query_ids == sorted(set(docstrings.query_ids))
    assert docstrings.query_ids == docstrings.corpus_ids
    assert docstrings.relevant == docstrings.corpus
    assert str(n) in docstrings.DESCR


def test_docstrings_are_useful_pairs(docstrings):
    pairs = list(zip(docstrings.queries, docstrings.relevant, strict=True))
    assert len(set(pairs)) == len(pairs)
    for query, document in pairs:
        assert query == " ".join(query.split())
        assert len(query.split()) >= 3
        assert len(document.split()) >= 20
        assert query not in " ".join(document.split())
        assert document == document.strip()
        assert "\n\n\n" not in document and " \n" not in document
        assert not re.match(r"[\w.]+\([^)]*\)$", query)  # a signature
        assert "-----" not in query  # the title of a section
        assert not re.search(r"^\.\. deprecated::", document, re.M)


def test_docstrings_cover_the_three_libraries(docstrings):
    counts = Counter(name.split(".")[0] for name in docstrings.query_ids)
    assert set(counts) == {"numpy", "scipy", "sklearn"}
    assert min(counts.values()) > 400


@pytest.mark.parametrize(
    "name, query",
    [
        ("numpy.add", "Add arguments element-wise."),  # one signature first
        ("scipy.special.j0", "Bessel function of the first kind of order 0."),
        ("numpy.array", "Create an array."),  # a signature of two lines
        ("sklearn.svm.LinearSVC", "Linear Support Vector Classification."),
        ("sklearn.utils.check_array", None),  # not under its longer name
        ("numpy.linalg.norm", "Matrix or vector norm."),
    ],
)
def test_docstrings_known_names(docstrings, name, query):
    row = docstrings.query_ids.index(name)
    assert query is None or docstrings.queries[row] == query


@pytest.mark.parametrize("part", ["tests", "conftest", "externals", "_"])
def test_docstrings_only_public_names(docstrings, part):
    for name in docstrings.query_ids:
        assert not any(
            piece == part or (part == "_" and piece.startswith("_"))
            for piece in name.split(".")
        )


def test_docstrings_return_X_y(docstrings):
    queries, relevant = load_docstrings(return_X_y=True)
    assert queries == docstrings.queries
    assert relevant == docstrings.relevant


def test_docstrings_in_a_fresh_process(docstrings):
    # The same pairs although some docstrings of scipy hold numbers drawn at import
    # and some estimators exist only after an experiment was switched on; no warning,
    # no output, no global random number drawn by the imports.
    code = """
import json, random, warnings
import numpy as np
from sklearn.experimental import enable_halving_search_cv, enable_iterative_imputer
from skembft.datasets import load_docstrings
warnings.simplefilter("error")
state = random.getstate(), np.random.get_state()[1].tolist()
data = load_docstrings()
assert state == (random.getstate(), np.random.get_state()[1].tolist())
print(json.dumps(data))
"""
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    assert process.stderr == b""
    assert json.loads(process.stdout) == docstrings


# load_beir


def write_beir(folder, *, corpus=None, queries=None, qrels=None):
    """Write a small BEIR folder; each argument replaces the lines of one file."""
    corpus = corpus or [
        '{"_id": "d1", "title": "Apples", "text": "are red"}',
        '{"_id": "d2", "title": "", "text": " Pears are green\\u2028"}',
        '{"_id": "d3", "text": "Apples are red"}',
        '{"_id": "d4", "title": null, "text": ""}',
        '{"_id": "d5", "title": "Plums", "text": "", "metadata": {"url": 1}}',
    ]
    queries = queries or [
        '{"_id": "q1", "text": "colour of pears", "metadata": {}}',
        '{"_id": "q2", "text": "never judged"}',
        '{"_id": "q3", "text": "colour of apples é"}',
    ]
    qrels = qrels or [
        "query-id\tcorpus-id\tscore",
        "q3\td1\t1",
        "q3\td3\t2",
        "q3\td2\t0",
        "q1\td2\t1",
        "q1\td5\t-1",
    ]
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "corpus.jsonl").write_text("\n".join(corpus), encoding="utf-8")
    (folder / "queries.jsonl").write_text("\n".join(queries), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels), encoding="utf-8")
    return folder


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


# load_trec_qrels


QRELS = """q1 0 d1 2
q1\t0\td2\t0
  q2   Q0  d1   1\x20

q1 0 d3 -1
"""


def write_qrels(folder, text, name="qrels.txt"):
    path = folder / name
    content = text.encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["qrels.txt", "qrels", "qrels.gz", "qrels.txt.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_qrels(tmp_path, name, end):
    path = write_qrels(tmp_path, QRELS.replace("\n", end), name)
    expected = {"q1": {"d1": 2, "d2": 0, "d3": -1}, "q2": {"d1": 1}}
    for found in (load_trec_qrels(path), load_trec_qrels(str(path))):
        assert found == expected
        assert list(found) == list(expected)
        assert all(type(g) is int for grades in found.values() for g in grades.values())


ID = st.text("abcé1-_.", min_size=1, max_size=4)


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(st.tuples(ID, ID), st.integers(0, 4), min_size=1, max_size=12),
    st.sampled_from([" ", "\t", " \t "]),
)
def test_qrels_as_pytrec_eval_reads_them(judged, space):
    rows = [[q, "0", d, str(grade)] for (q, d), grade in judged.items()]
    text = "\n".join(map(space.join, rows))
    with tempfile.TemporaryDirectory() as folder:
        qrels = load_trec_qrels(write_qrels(Path(folder), text))
    assert qrels == pytrec_eval.parse_qrel(io.StringIO(text))
    run = {q: {d: float(len(d)) for d in "abc1"} for q in qrels}
    measured = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)
    mean = np.mean([values["ndcg_cut_10"] for values in measured.values()])
    assert evaluate(qrels, run, "ndcg@10") == {"ndcg@10": pytest.approx(mean, abs=1e-9)}


def test_qrels_comments_are_skipped(tmp_path):
    path = write_qrels(tmp_path, "# made by hand\nq#1 0 d1 1\n#q2 0 d1 1\n")
    assert load_trec_qrels(path) == {"q#1": {"d1": 1}}


@pytest.mark.parametrize(
    "bad, message",
    [
        ("q1 0 d4", "must be query id, iteration, document id and integer grade.*d4"),
        ("q1 0 d4 1 run", "must be query id, iteration, document id"),
        ("q1 0 d4 high", "must be query id, iteration, document id .*high"),
        ("q1 0 d4 1.0", "must be query id, iteration, document id"),
        ("query-id\tcorpus-id\tscore", "must be query id, iteration, document id"),
        ("q1 7 d2 1", "judges the document 'd2' for the query 'q1' a second time"),
    ],
)
@pytest.mark.parametrize("name", ["qrels.txt", "qrels.gz"])
def test_qrels_malformed_line(tmp_path, bad, message, name):
    path = write_qrels(tmp_path, QRELS + bad, name)
    with pytest.raises(ValueError, match=rf"{name}, line 6 {message}"):
        load_trec_qrels(path)


@pytest.mark.parametrize("text", ["", "\n \n", "# nothing\n"])
def test_qrels_without_a_judgement(tmp_path, text):
    path = write_qrels(tmp_path, text)
    with pytest.raises(ValueError, match=r"qrels\.txt holds no judgement"):
        load_trec_qrels(path)


def test_qrels_not_utf8_and_missing(tmp_path):
    (tmp_path / "qrels").write_bytes(b"q1 0 d1 1\nq1 0 d\xe9 1\n")
    with pytest.raises(ValueError, match="qrels, line 2 is not UTF-8"):
        load_trec_qrels(tmp_path / "qrels")
    for name in ("nothing", "nothing.gz"):
        with pytest.raises(FileNotFoundError, match=name):
            load_trec_qrels(tmp_path / name)


# describe


DESCRIBED = (
    ["old red", "wet", "old red", "shy and big dog", "cat"],
    [
        {"a b": 2, "c": 1, "a": 0},
        "a b c",
        ["a b", "d"],
        {"a b": 0, "c": -1},
        {"a": 1},
    ],
)


def test_description_by_hand():
    found = describe(*DESCRIBED, corpus=["a b", "e f g h", "i"])
    assert found.n_rows == 5
    assert found.n_queries == 4
    assert found.n_repeated_queries == 1
    assert found.n_queries_without_document == 1
    assert found.n_documents == 7  # a b, c, a, a b c, d, e f g h, i
    assert found.n_documents_without_query == 2
    assert found.n_judged_negatives == 3
    # a b, c and d; a b c; none; a
    assert found.relevant_per_query == {"min": 0, "median": 1, "mean": 1.25, "max": 3}
    assert found.length_unit == "words"
    assert found.query_lengths == {
        **{"min": 1, "median": 1.5, "max": 4},
        "95%": pytest.approx(np.percentile([2, 1, 4, 1], 95)),
    }
    assert found.document_lengths == {
        **{"min": 1, "median": 1, "max": 4},
        "95%": pytest.approx(np.percentile([2, 1, 1, 3, 1, 4, 1], 95)),
    }
    assert found.max_seq_length is None
    assert found.truncated_queries is None and found.truncated_documents is None
    assert repr(found).splitlines() == [
        "Retrieval data of 5 row(s)",
        "  queries: 4, of them 1 in several rows, 1 without a relevant document",
        "  documents: 7, of them 2 relevant to no query",
        "  relevant documents per query: min 0, median 1, mean 1.25, max 3",
        "  judged negatives: 3",
        "  words per query: min 1, median 1.5, 95% 3.7, max 4",
        "  words per document: min 1, median 1, 95% 3.7, max 4",
    ]


GRADES = st.dictionaries(
    st.integers(0, 6).map("document number {}".format),
    st.integers(-1, 2),
    min_size=1,
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcde"), GRADES), min_size=1, max_size=8))
def test_description_counts_distinct_pairs(rows):
    highest = {}
    for query, grades in rows:
        for document, grade in grades.items():
            pair = query, document
            highest[pair] = max(grade, highest.get(pair, grade))
    positive = {pair for pair, grade in highest.items() if grade > 0}
    n_relevant = [sum(q == query for q, _ in positive) for query in dict(rows)]
    found = describe(*map(list, zip(*rows, strict=True)))
    assert found.n_rows == len(rows)
    assert found.n_queries == len(n_relevant)
    times = Counter(query for query, _ in rows).values()
    assert found.n_repeated_queries == sum(count > 1 for count in times)
    assert found.n_queries_without_document == n_relevant.count(0)
    assert found.n_documents == len({document for _, document in highest})
    asked = {document for _, document in positive}
    assert found.n_documents_without_query == found.n_documents - len(asked)
    assert found.n_judged_negatives == len(highest) - len(positive)
    assert found.relevant_per_query == {
        "min": min(n_relevant),
        "median": np.median(n_relevant),
        "mean": pytest.approx(np.mean(n_relevant)),
        "max": max(n_relevant),
    }


def table(values):
    return {"query": values[0], "document": values[1], "negative": values[2]}


@pytest.mark.parametrize(
    "make", [pd.DataFrame, pl.DataFrame, datasets.Dataset.from_dict]
)
def test_description_of_tables(make):
    columns = ["one", "two", "two"], ["a b", "c", "a b"], ["c", "d", "e"]
    found = describe(make(table(columns)))
    assert found == describe(list(zip(*columns, strict=True)))
    assert (found.n_rows, found.n_queries, found.n_documents) == (3, 2, 4)
    assert found.n_judged_negatives == 3
    labelled = describe([("one", "a"), ("one", "b")], [1.0, 0.0])
    assert (labelled.n_judged_negatives, labelled.n_documents_without_query) == (1, 1)


def token_counts(path, texts, role, **prompts):
    """What Sentence Transformers itself makes of every text, one at a time."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(path, device="cpu")
    model.max_seq_length = 10**6
    prompt = prompts.get(f"{role}_prompt", "")
    return [
        int(model.preprocess([text], prompt=prompt)["attention_mask"].sum())
        for text in texts
    ]


def check_tokens(found, queries, documents, limit):
    for name, counts in (("query", queries), ("document", documents)):
        assert getattr(found, f"{name}_lengths") == {
            "min": min(counts),
            "median": np.median(counts),
            "95%": pytest.approx(np.percentile(counts, 95)),
            "max": max(counts),
        }
    assert found.length_unit == "tokens"
    assert found.max_seq_length == limit
    shares = found.truncated_queries, found.truncated_documents
    for share, counts in zip(shares, (queries, documents), strict=True):
        assert share == np.mean(np.array(counts) > limit)


def test_tokens_are_those_of_the_model(minilm):
    queries = ["Resetting unbelievable passwords!", "", "naïve " * 300, "x " * 254]
    documents = ["one two", "x " * 254, "x " * 255, "un-tokenizable " * 100]
    with pytest.warns(UserWarning, match="An empty string"):
        found = describe(queries, documents, corpus=documents[1:], encoder=minilm)
    # special tokens count: 254 words fit into 256 places, 255 do not
    check_tokens(
        found,
        token_counts(minilm, queries, "query"),
        token_counts(minilm, documents, "document"),
        256,
    )
    assert (found.truncated_queries, found.truncated_documents) == (1 / 4, 2 / 4)
    assert repr(found).splitlines()[-1] == (
        "  cut at 256 tokens: 25.0% of the queries, 50.0% of the documents"
    )


@pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")
def test_tokens_of_every_estimator_over_a_model(bert_model, pairs):
    queries, documents = pairs
    prompts = {"query_prompt": "find: ", "document_prompt": "this is "}
    expected = (
        token_counts(bert_model, queries, "query", **prompts),
        token_counts(bert_model, list(dict.fromkeys(documents)), "document", **prompts),
    )
    options = {**prompts, "max_seq_length": 5}
    encoder = SentenceEncoder(bert_model, **options)
    whole = EmbeddingFinetuner(bert_model, **options, epochs=1, random_state=0)
    adapter = AdapterFinetuner(encoder, epochs=1, random_state=0)
    for estimator in (
        encoder,
        whole,
        whole.fit(queries, documents),
        adapter,
        adapter.fit(queries, documents),
        AdapterFinetuner(adapter),
        CorpusFinetuner(encoder).fit(queries, documents),
        FrozenEstimator(adapter),
    ):
        check_tokens(describe(*pairs, encoder=estimator), *expected, 5)
    by_name = describe(*pairs, encoder=AdapterFinetuner(bert_model))
    assert by_name == describe(*pairs, encoder=Path(bert_model))
    assert by_name.max_seq_length == 32 and by_name.truncated_documents == 0


def test_fitted_finetuners_need_no_other_model(bert_model, pairs, tmp_path):
    path = shutil.copytree(bert_model, tmp_path / "model")
    expected = describe(*pairs, encoder=bert_model)
    whole = EmbeddingFinetuner(path, epochs=1, random_state=0)
    options = {"epochs": 1, "validation_fraction": None, "random_state": 0}
    adapter = AdapterFinetuner(clone(whole), **options).fit(*pairs)
    whole.fit(*pairs)
    shutil.rmtree(path)
    assert describe(*pairs, encoder=whole) == expected
    assert describe(*pairs, encoder=adapter) == expected


def test_tokens_of_a_model_without_a_limit(static_model, pairs):
    found = describe(*pairs, encoder=SentenceEncoder(static_model, query_prompt="old "))
    assert found.max_seq_length is None
    assert found.truncated_queries == found.truncated_documents == 0
    counts = [len(query.split()) for query in pairs[0]]
    assert found.query_lengths["max"] == max(counts) + 1
    assert "cut" not in repr(found)


def test_texts_are_tokenized_in_portions(static_model, pairs, monkeypatch):
    expected = describe(*pairs, encoder=static_model)
    monkeypatch.setattr("skembft.datasets._describe._PORTION", 7)
    assert describe(*pairs, encoder=static_model) == expected


def test_describing_leaves_the_model_as_it_was(bert_model, pairs):
    queries, documents = pairs
    long = [" ".join([*queries[:12], "q"])]
    before = SentenceEncoder(bert_model, max_store_bytes=0).transform(long)
    describe(long, ["a"], encoder=bert_model)
    after = SentenceEncoder(bert_model, max_store_bytes=0).transform(long)
    np.testing.assert_array_equal(after, before)


def test_ids_have_no_lengths():
    index = PrecomputedEncoder({"q": [1.0, 0], "a": [1.0, 0], 3: [0, 1.0]})
    for encoder in (index, AdapterFinetuner(index)):
        found = describe(["q"], [["a", 3]], encoder=encoder)
        assert (
            found.length_unit is found.query_lengths is found.document_lengths is None
        )
        assert repr(found).splitlines()[-1] == "  judged negatives: 0"
    assert describe([1, 2], ["a", "b"]).length_unit is None
    assert describe(["a", "b"], ["a", "b"]).length_unit == "words"


@pytest.mark.parametrize(
    "encoder, message",
    [
        (APIEncoder(len), "tokens of APIEncoder cannot be counted.*encoder=None"),
        (AdapterFinetuner(APIEncoder(len)), "tokens of AdapterFinetuner cannot be"),
        (AdapterFinetuner(None), "describe takes texts or ids, and this encoder takes"),
    ],
)
def test_encoders_without_tokens(encoder, message):
    with pytest.raises(ValueError, match=message):
        describe(["q"], ["a"], encoder=encoder)


@pytest.mark.parametrize(
    "X, y, options, error, message",
    [
        (["q"], None, {}, ValueError, "requires y to be passed"),
        (["q"], [[]], {}, ValueError, r"y\[0\] is empty"),
        (["q"], ["a"], {"corpus": [None]}, TypeError, r"corpus\[0\] must be a str"),
        ([1], ["a"], {"encoder": "nowhere"}, TypeError, r"X\[0\] must be a str"),
        (["q"], ["a"], {"encoder": "./nowhere"}, OSError, "Could not load the model"),
    ],
)
def test_describing_bad_data(X, y, options, error, message):
    with pytest.raises(error, match=message):
        describe(X, y, **options)


# load_qa_dataset, save_qa_dataset


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
            {"relevant_docs": {"e": ["x"]}},
            "names the query 'e', not in queries",
        ),
        (
            {"relevant_docs": {"a": ["x", "w"]}},
            r"relevant_docs\['a'\] names the document 'w', not in corpus",
        ),
        ({"relevant_docs": {"a": [["x"]]}}, r"names the document \['x'\]"),
        ({"mode": "image"}, "the mode is 'image'; only 'text' is known"),
    ],
)
def test_qa_wrong_content(tmp_path, change, message):
    path = write_json(tmp_path, QA | change)
    with pytest.raises(ValueError, match=rf"data\.json: .*{message}"):
        load_qa_dataset(path)


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
    assert path.read_text(encoding="utf-8") == json.dumps(content, indent=4)
    assert list(tmp_path.iterdir()) == [path]


def test_save_then_load(tmp_path):
    path = tmp_path / "data.json"
    queries = ["same", "same", "", "a\ud800\n\u2028\U0001f600"]
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


@pytest.mark.parametrize("form", [tuple, np.array, lambda x: np.array(x, dtype=object)])
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
        (["q"], [{"a": np.nan}], [], ValueError, "must be a number, got nan"),
        (["q"], [None], [], TypeError, r"relevant\[0\] must be a list, got None"),
        (["q"], [{"a", "b"}], [], TypeError, r"relevant\[0\] must be a list, got \{"),
        ("q", ["a"], [], TypeError, "queries must be a list, got 'q'"),
        (["q"], "a", [], TypeError, "relevant must be a list, got 'a'"),
        (["q"], {"a": 1}, [], TypeError, r"relevant must be a list, got \{'a': 1\}"),
        (["q"], ["a"], {"a"}, TypeError, r"corpus must be a list, got \{'a'\}"),
        (iter("q"), ["a"], [], TypeError, "queries must be a list, got <"),
        (["q"], ["a", "b"], [], ValueError, "differ in length: 1 and 2"),
        (["q", "r"], ["a", []], [], ValueError, r"relevant\[1\] has no relevant"),
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
