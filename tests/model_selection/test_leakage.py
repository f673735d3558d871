"""leakage_report, and its similarity computed by hand."""

import math
import re
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import model_selection
from sklearn.feature_extraction.text import TfidfVectorizer

from skembft.model_selection import _leakage, leakage_report, train_test_split
from tests.model_selection.containers import CONTAINERS, TABLES

TRAIN = (
    ["How do I reset my password?", "close the account", "Where is my invoice"],
    [{"settings": 2, "help": 0}, ["help desk", "phone"], "billing"],
)
TEST = (
    ["close the account", "how do I reset  my PASSWORD", "opening hours", "fees"],
    [["hours"], "log in", {"hours": 1, "settings": 0}, ["prices", "phone"]],
)
SPLIT = TRAIN[0], TEST[0], TRAIN[1], TEST[1]  # as train_test_split gives them


def test_planted_leaks_are_found():
    report = leakage_report(*SPLIT, corpus=["settings", "help", "phone"])
    assert report.n_train_queries == 3
    assert report.n_test_queries == 4
    assert report.duplicate_queries == ["close the account"]
    (near,) = report.near_duplicate_queries
    assert near[:2] == ("how do I reset  my PASSWORD", "How do I reset my password?")
    assert near[2] == pytest.approx(1.0) and near[2] <= 1
    assert report.shared_documents == ["phone"]
    assert report.queries_with_shared_documents == ["fees"]
    assert report.missing_documents == [
        *["help desk", "billing", "hours", "log in", "prices"]
    ]
    assert report.leaking_queries == [TEST[0][0], TEST[0][1], TEST[0][3]]
    shares = report.duplicate_share, report.near_duplicate_share
    assert shares == (0.25, 0.25) and report.shared_document_share == 0.25


def test_clean_data_have_no_leaks(pairs):
    queries, documents = pairs
    distinct = list(dict.fromkeys(documents))
    y = [f"{distinct.index(d)}: {d}" for d in documents]
    X_train, X_test, y_train, y_test = train_test_split(queries, y, random_state=0)
    report = leakage_report(X_train, X_test, y_train, y_test, corpus=y)
    assert report.duplicate_queries == []
    assert report.near_duplicate_queries == []
    assert report.shared_documents == report.queries_with_shared_documents == []
    assert report.missing_documents == report.leaking_queries == []
    shares = report.duplicate_share, report.near_duplicate_share
    assert (*shares, report.shared_document_share) == (0, 0, 0)


def test_what_a_split_returns_goes_in_as_it_is():
    X = [f"question number {i} of many" for i in range(40)]
    y = [f"answer {i % 20}" for i in range(40)]
    rows = list(zip(X, y, strict=True))
    assert leakage_report(*train_test_split(X, y, random_state=0)).leaking_queries == []
    assert leakage_report(*train_test_split(rows, random_state=0)).leaking_queries == []
    leaky = model_selection.train_test_split(X, y, random_state=0)  # scikit-learn's
    report = leakage_report(*leaky)
    assert report.n_train_queries == 30 and report.shared_document_share > 0.5
    X_train, X_test, y_train, y_test = leaky
    with pytest.raises(ValueError, match="X_train has 30 queries, but y_train has 10"):
        leakage_report(X_train, y_train, X_test, y_test)


def test_what_was_not_looked_for_is_none():
    report = leakage_report(*SPLIT, similarity=None)
    assert report.near_duplicate_queries is None and report.missing_documents is None
    assert report.leaking_queries == ["close the account", "fees"]
    assert report.near_duplicate_share == 0
    assert "near" not in repr(report) and "missing" not in repr(report)


def test_ids_are_no_texts():
    report = leakage_report([1, 2, 3], [3, 40], [7, 8, 9], [7, 10], corpus=[7, "8", 9])
    assert report.duplicate_queries == [3]
    assert report.near_duplicate_queries == []
    assert report.shared_documents == [7]
    assert report.queries_with_shared_documents == [3]
    assert report.missing_documents == [8, 10]


def test_tables_and_containers_give_the_same():
    def table(X, y):
        return [(q, d) for q, documents in zip(X, y, strict=True) for d in documents]

    X, X_test = ["one", "two", "three"], ["two", "four", "five"]
    y, y_test = [["a"], ["b", "c"], ["d"]], [["e"], ["c", "d"], ["f"]]
    expected = leakage_report(X, X_test, y, y_test)
    assert expected.shared_documents == ["c", "d"]
    assert expected.queries_with_shared_documents == ["four"]
    for make in TABLES.values():
        tables = make(table(X, y)), make(table(X_test, y_test))
        assert leakage_report(*tables) == expected
    for make in CONTAINERS.values():
        assert leakage_report(make(X), make(X_test), make(y), make(y_test)) == expected
    test = [("b?", "b"), ("c?", "c")]
    report = leakage_report(table(X, y), test, [1, 0, 1, 1])  # b is not relevant
    assert report.shared_documents == ["c"]


# an independent computation of the similarity


def plain(text):
    text = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[^a-z0-9äéßक-ह\u093e\u093f]+", " ", text).strip()


def trigrams(text):
    words = [f" {word} " for word in plain(text).split()]
    return Counter(word[i : i + 3] for word in words for i in range(len(word) - 2))


def cosines(queries, others):
    """The cosine of TF-IDF vectors of every query and other, by hand."""
    counts = {text: trigrams(text) for text in (*queries, *others)}
    used = [counts[text] for text in (*queries, *others) if counts[text]]
    n_with = Counter(gram for count in used for gram in count)
    vectors = {}
    for text, count in counts.items():
        vector = {
            gram: number * (math.log((1 + len(used)) / (1 + n_with[gram])) + 1)
            for gram, number in count.items()
        }
        norm = math.hypot(*vector.values()) or 1.0
        vectors[text] = {gram: value / norm for gram, value in vector.items()}
    return {
        (a, b): sum(v * vectors[b].get(gram, 0) for gram, v in vectors[a].items())
        for a in queries
        for b in others
    }


WORD = st.text("abcd", min_size=1, max_size=5)
SPACE = st.sampled_from([" ", "  ", " - ", "! ", "_"])
TEXT = st.lists(st.tuples(WORD, SPACE), min_size=0, max_size=4).map(
    lambda parts: "".join(word + space for word, space in parts)
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(TEXT, min_size=1, max_size=8, unique=True),
    st.lists(TEXT, min_size=1, max_size=8, unique=True),
    st.sampled_from([0.3, 0.6, 0.9, 1.0]),
    st.sampled_from([1, 7, 2**22]),
)
@pytest.mark.filterwarnings("ignore:An empty string")
def test_near_duplicates_are_those_of_the_definition(train, test, similarity, block):
    others = [query for query in test if query not in train]
    expected = cosines(others, train)
    assume(
        all(abs(c - similarity) > 1e-6 or similarity == 1 for c in expected.values())
    )
    best = {a: max(expected[a, b] for b in train) for a in others}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_leakage, "_BLOCK", block)  # queries compared at a time
        report = leakage_report(
            train, test, ["d"] * len(train), ["e"] * len(test), similarity=similarity
        )
    found = report.near_duplicate_queries
    assert {a for a, _, _ in found} == {
        a for a in others if best[a] > similarity - 1e-9
    }
    for a, b, value in found:
        assert value == pytest.approx(expected[a, b]) == pytest.approx(best[a])
    values = [value for _, _, value in found]
    assert values == sorted(values, reverse=True) and max(values, default=0) <= 1


@pytest.mark.parametrize("similarity", [0.01, 0.2, 0.5, 0.7, 0.85, 0.9, 0.97, 1.0])
@pytest.mark.parametrize("words", [3, 30, 600])  # of nearly equal and of unlike texts
def test_no_near_duplicate_is_missed(words, similarity, monkeypatch):
    """Against all cosines, of texts as near to each other as the threshold."""
    rng = np.random.default_rng(words)
    vocabulary = np.array(
        ["".join(rng.choice(list("abcdefghij"), 5)) for _ in range(words)]
    )
    frequency = 1 / np.arange(1, words + 1)
    train = [
        " ".join(rng.choice(vocabulary, 9, p=frequency / frequency.sum()))
        for _ in range(250)
    ]
    test = []
    for text in train[:200]:  # with none to all of its words changed
        parts = text.split()
        for place in rng.choice(9, rng.integers(10), replace=False):
            parts[place] = rng.choice(vocabulary)
        test.append(" ".join(parts))
    train, test = list(dict.fromkeys(train)), list(dict.fromkeys(test))
    others = [text for text in test if text not in set(train)]
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 3))
    vectors = vectorizer.fit_transform(others + train).toarray()
    expected = vectors[: len(others)] @ vectors[len(others) :].T
    monkeypatch.setattr(_leakage, "_BLOCK", 5000)
    report = leakage_report(
        train, test, ["d"] * len(train), ["e"] * len(test), similarity=similarity
    )
    found = {a: (b, value) for a, b, value in report.near_duplicate_queries}
    best = expected.max(axis=1)
    wanted = [a for a, v in zip(others, best, strict=True) if v >= similarity - 1e-9]
    assert set(found) == set(wanted)
    for a, (b, value) in found.items():
        row = expected[others.index(a)]
        np.testing.assert_allclose([value, row[train.index(b)]], row.max(), atol=1e-9)


@pytest.mark.parametrize(
    "a, b, near",
    [
        ("Straße", "STRASSE", True),
        ("ﬁle name", "file-name", True),
        ("caf\u00e9 hours", "cafe\u0301 hours", True),
        ("what is\u00a0this?", "What, is this", True),
        ("कि", "का", False),  # they differ in a mark, which is no punctuation
        ("???", "!", False),  # nothing to compare
        ("is x1 < x2 here", "is x1 > x2 here", False),  # nor are symbols
        ("error 404 in the log", "error 500 in the log", False),
    ],
)
def test_spellings(a, b, near):
    report = leakage_report([a], [b], ["d"], ["e"])
    assert [pair[:2] for pair in report.near_duplicate_queries] == [(b, a)] * near


# what is shown and refused


def test_report_shows_the_first_examples():
    X = [f"question number {word}" for word in ["one", "two", "six", "ten", "nil"]]
    report = leakage_report(X, X[:4], ["a" * 100] * 5, ["a" * 100] * 4, corpus=["b"])
    assert repr(report).splitlines() == [
        "Leakage from 5 training to 4 test queries",
        "  duplicate queries: 4 (100.0% of the test queries)",
        "    'question number one'",
        "    'question number two'",
        "    'question number six'",
        "    …",
        "  near-duplicate queries: 0 (0.0% of the test queries)",
        "  queries with shared documents: 4 (100.0% of the test queries), "
        "1 document(s)",
        f"    '{'a' * 58}…",
        "  relevant documents missing from the corpus: 1",
        f"    '{'a' * 58}…",
    ]


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"y_train": None}, ValueError, "requires y to be passed"),
        ({"y_test": TEST[1][1:]}, ValueError, "X_test has 4 queries, but y_test has 3"),
        ({"X_train": [None, "a", "b"]}, TypeError, r"X_train\[0\] must be a str"),
        ({"y_test": ["a", [], "b", "c"]}, ValueError, r"y_test\[1\] is empty"),
        ({"corpus": "a"}, TypeError, "corpus is the single str 'a'"),
        ({"similarity": 0.0}, ValueError, "similarity"),
        ({"similarity": 90}, ValueError, "similarity"),
        ({"similarity": "high"}, TypeError, "similarity"),
    ],
)
def test_report_on_bad_input(options, error, message):
    data = dict(
        zip(["X_train", "y_train", "X_test", "y_test"], TRAIN + TEST, strict=True)
    )
    with pytest.raises(error, match=message):
        leakage_report(**(data | options))
