"""What tests of data sets share: their keys, a small BEIR folder, the real ones."""

from pathlib import Path

import pytest

REAL_DATA = Path(__file__).parents[3] / "shared" / "data"
needs_real_data = pytest.mark.skipif(
    not REAL_DATA.is_dir(), reason="the real data sets are not here"
)
KEYS = {"queries", "relevant", "corpus", "query_ids", "corpus_ids"}
KEYS |= {"own_documents", "DESCR"}


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
