"""load_docstrings."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from skembft.datasets import load_docstrings
from tests.datasets.files import KEYS


@pytest.fixture(scope="module")
def docstrings():
    return load_docstrings()


def test_docstrings_form(docstrings):
    n = len(docstrings.queries)
    assert 2500 <= n <= 3300
    assert set(docstrings) == KEYS
    assert docstrings.own_documents == {}
    for key in KEYS - {"own_documents", "DESCR"}:
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
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    assert process.stderr == b""
    assert json.loads(process.stdout) == docstrings
