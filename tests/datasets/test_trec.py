"""load_trec_qrels and load_trec_run: pytrec_eval as the oracle."""

import gzip
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from skembft.datasets import load_trec_qrels, load_trec_run
from skembft.metrics import evaluate

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


def test_only_ascii_white_space_separates_columns(tmp_path):
    path = write_qrels(tmp_path, "q1 0 rue\u00a0Foch\u2003\t1\n")
    assert load_trec_qrels(path) == {"q1": {"rue\u00a0Foch\u2003": 1}}


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


# runs

RUN = """q1 Q0 d1 2 0.5 bm25
q1\tQ0\td2\t1\t7\tbm25
  q2   0  d1   9 -1e-3   bm25\x20

q1 Q0 d3 3 1E2 other
"""


@pytest.mark.parametrize("name", ["run.txt", "run", "run.gz", "run.txt.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_run(tmp_path, name, end):
    path = write_qrels(tmp_path, RUN.replace("\n", end), name)
    expected = {"q1": {"d1": 0.5, "d2": 7.0, "d3": 100.0}, "q2": {"d1": -0.001}}
    for found in (load_trec_run(path), load_trec_run(str(path))):
        assert found == expected
        assert list(found["q1"]) == list(expected["q1"])
        assert {type(s) for scores in found.values() for s in scores.values()} == {
            float
        }


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.tuples(ID, ID),
        st.tuples(st.integers(0, 2), st.floats(allow_nan=False, allow_infinity=False)),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([" ", "\t", " \t "]),
)
def test_run_as_pytrec_eval_reads_it(retrieved, space):
    rows = [[q, "Q0", d, "1", str(s), "tag"] for (q, d), (_, s) in retrieved.items()]
    text = "\n".join(map(space.join, rows))
    with tempfile.TemporaryDirectory() as folder:
        run = load_trec_run(write_qrels(Path(folder), text))
    assert run == pytrec_eval.parse_run(io.StringIO(text))


def test_run_is_what_evaluate_takes(tmp_path):
    run = load_trec_run(write_qrels(tmp_path, RUN))
    qrels = {"q1": {"d1": 1}, "q2": {"d1": 1}}
    measured = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(run)
    mean = np.mean([values["recip_rank"] for values in measured.values()])
    assert evaluate(qrels, run, "mrr@10") == {"mrr@10": pytest.approx(mean)}


def test_run_comments_are_skipped(tmp_path):
    path = write_qrels(tmp_path, "# by hand\nq#1 Q0 d1 1 2 tag\n#q2 Q0 d1 1 2 tag\n")
    assert load_trec_run(path) == {"q#1": {"d1": 2.0}}


@pytest.mark.parametrize(
    "bad, message",
    [
        ("q1 Q0 d4 1 0.5", "must be query id, Q0, document id, rank, finite.*d4"),
        ("q1 Q0 d4 1 0.5 my run", "must be query id, Q0, document id, rank, finite"),
        ("q1 0 d4 1", "must be query id, Q0, document id, rank, finite score"),
        ("q1 Q0 d4 1 high bm25", "must be query id, Q0, .*high"),
        ("q1 Q0 d4 1 nan bm25", "must be query id, Q0, .* finite score .*nan"),
        ("q1 Q0 d4 1 -inf bm25", "must be query id, Q0, .* finite score .*inf"),
        ("q1 Q0 d2 4 1 a", "retrieves the document 'd2' for the query 'q1' a second"),
    ],
)
@pytest.mark.parametrize("name", ["run.txt", "run.gz"])
def test_run_malformed_line(tmp_path, bad, message, name):
    path = write_qrels(tmp_path, RUN + bad, name)
    with pytest.raises(ValueError, match=rf"{name}, line 6 {message}"):
        load_trec_run(path)


@pytest.mark.parametrize("text", ["", "\n \n", "# nothing\n"])
def test_run_without_a_result(tmp_path, text):
    with pytest.raises(ValueError, match=r"qrels\.txt holds no result"):
        load_trec_run(write_qrels(tmp_path, text))


def test_run_not_utf8_and_missing(tmp_path):
    (tmp_path / "run").write_bytes(b"q1 Q0 d1 1 1 a\nq1 Q0 d\xe9 1 1 a\n")
    with pytest.raises(ValueError, match="run, line 2 is not UTF-8"):
        load_trec_run(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_trec_run(tmp_path / "nothing")
