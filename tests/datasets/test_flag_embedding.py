"""load_flag_embedding."""

import json

import pytest

from skembft.datasets import load_flag_embedding
from skembft.metrics import RetrievalScorer
from tests.data.forms import adapter, fitted_vectors
from tests.datasets.files import KEYS

ROWS = [
    {"query": "a fruit", "pos": ["pear", "plum"], "neg": ["nut", "pear"]},
    {"query": "a nut", "pos": ["nut"], "neg": [], "prompt": "Find: ", "type": "normal"},
    {"query": "é?", "pos": ["plum"], "pos_scores": [0.9]},
    {"query": "a fruit", "pos": ["fig"], "neg": ["nut"], "neg_scores": [0.1]},
]


def write_rows(folder, rows, name="train.jsonl"):
    path = folder / name
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_flag_embedding(tmp_path):
    path = write_rows(tmp_path, [*ROWS[:2], "", *ROWS[2:]])
    data = load_flag_embedding(path)
    assert set(data) == KEYS
    assert data.queries == ["a fruit", "a nut", "é?", "a fruit"]
    assert data.relevant == [
        {"pear": 1, "plum": 1, "nut": 0},
        {"nut": 1},
        {"plum": 1},
        {"fig": 1, "nut": 0},
    ]
    assert list(data.relevant[0]) == ["pear", "plum", "nut"]
    assert data.corpus == ["pear", "plum", "nut", "fig"]
    assert data.query_ids == ["q0", "q1", "q2", "q3"]
    assert data.corpus_ids == ["d0", "d1", "d2", "d3"]
    assert data.own_documents == {}
    X_y = load_flag_embedding(str(path), return_X_y=True)
    assert X_y == (data.queries, data.relevant)


def test_flag_embedding_in_a_fit(tmp_path, static_model, pairs):
    """The same judgements as rows (query, document, negative)."""
    queries, documents = (side[:12] for side in pairs)
    negatives = documents[1:] + documents[:1]
    rows = list(zip(queries, documents, negatives, strict=True))
    lines = [{"query": q, "pos": [d], "neg": [n]} for q, d, n in rows]
    data = load_flag_embedding(write_rows(tmp_path, lines))
    found = fitted_vectors(adapter(static_model), data.queries, data.relevant)
    assert (found == fitted_vectors(adapter(static_model), rows)).all()
    scorer = RetrievalScorer("ndcg@3")
    estimator = adapter(static_model).fit(rows)
    assert scorer(estimator, data.queries, data.relevant) == scorer(estimator, rows)


@pytest.mark.parametrize(
    "bad, message",
    [
        ("{", r' must be a JSON object with the string "query" .* got .\{'),
        ("[1]", r" must be a JSON object .*got '\[1\]'"),
        ({"pos": ["pear"]}, ' must be a JSON object with the string "query"'),
        (
            {"query": 1, "pos": ["pear"]},
            ' must be a JSON object with the string "query',
        ),
        ({"query": "q"}, ' has nothing in "pos": .*Delete the line'),
        ({"query": "q", "pos": [], "neg": ["nut"]}, ' has nothing in "pos"'),
        ({"query": "q", "pos": "pear"}, ': "pos" must be a list of strings, .*pear'),
        ({"query": "q", "pos": [["pear"]]}, r': "pos" must be a list of .*\[.pear'),
        ({"query": "q", "pos": [{"text": "x"}]}, r': "pos" must be a list of .*text'),
        ({"query": "q", "pos": ["a", None]}, r': "pos" must be a list of .*None\]'),
        ({"query": "q", "pos": ["a"], "neg": [3]}, r': "neg" must be a list of .*3'),
        ({"query": "q", "pos": ["a"], "neg": None}, ': "neg" must be a list of .*None'),
    ],
)
def test_flag_embedding_malformed_line(tmp_path, bad, message):
    path = write_rows(tmp_path, [ROWS[0], "", bad])
    with pytest.raises(ValueError, match=rf"train\.jsonl, line 3{message}"):
        load_flag_embedding(path)


def test_flag_embedding_empty_and_missing(tmp_path):
    with pytest.raises(ValueError, match=r"train\.jsonl holds no query"):
        load_flag_embedding(write_rows(tmp_path, [""]))
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_flag_embedding(tmp_path / "nothing")
