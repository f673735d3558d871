"""What can be wrong with X, y and corpus, whatever the estimator."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa


def frame(**columns):
    return pd.DataFrame(columns)


# (X, error, message)
X_CASES = {
    "None": (None, TypeError, "X must be a list, array or Series, got NoneType"),
    "str": ("a", TypeError, r"X is the single str 'a'; pass a list: \[X\]"),
    "bytes": (b"a", TypeError, r"X is the single bytes b'a'; pass a list"),
    "number": (3, TypeError, "X must be a list, array or Series, got int"),
    "0-d": (np.array("a"), TypeError, "X is a 0-d array; pass a list"),
    "dict": ({"a": "b"}, TypeError, "X is a dict; pass a list with one item a row"),
    "set": ({"a", "b"}, TypeError, r"X is a set, .* not reproducible; .*sorted\(X\)"),
    "frozenset": (frozenset("ab"), TypeError, r"pass sorted\(X\)"),
    "generator": (
        lambda: (x for x in ("a",)),
        TypeError,
        r"got generator; pass list\(X\)",
    ),
    "iterator": (lambda: iter("ab"), TypeError, r"pass list\(X\)"),
    "empty": ([], ValueError, "X is empty"),
    "empty array": (np.array([], dtype=str), ValueError, "X is empty"),
    "empty table": (np.empty((0, 2), dtype=str), ValueError, "X is empty"),
    "empty Series": (pd.Series([], dtype=str), ValueError, "X is empty"),
    "empty polars": (pl.Series([], dtype=pl.String), ValueError, "X is empty"),
    "item None": (["a", None], TypeError, r"X\[1\] must be .*, got None; drop the row"),
    "item nan": (["a", np.nan], TypeError, r"X\[1\] must be .*, got nan; drop the row"),
    "item NA": (["a", pd.NA], TypeError, r"X\[1\] .*, got <NA>; drop the row"),
    "item NaT": (["a", pd.NaT], TypeError, r"X\[1\] .*, got NaT; drop the row"),
    "item bytes": (["a", b"b"], TypeError, r"X\[1\] .*b'b'; decode it: .*'utf-8'"),
    "item number": (["a", 1.5], TypeError, r"X\[1\] must be .*, got 1\.5; .*"),
    "item bool": (["a", True], TypeError, r"X\[1\] must be .*, got True"),
    "item set": (["a", {"b"}], TypeError, r"X\[1\] .*set is not reproducible"),
    "item list": (["a", ["b", "c"]], TypeError, r"X\[1\] must be .*\['b', 'c'\]"),
    "item dict": (["a", {"b": 1}], TypeError, r"X\[1\] must be .*\{'b': 1\}"),
    "object array": (
        np.array(["a", None], dtype=object),
        TypeError,
        r"X\[1\] .*got None",
    ),
    "bytes array": (np.array([b"a", b"b"]), TypeError, r"X\[0\] .*decode it"),
    "Series": (pd.Series(["a", None]), TypeError, r"X\[1\] .*drop the row"),
    "polars": (pl.Series(["a", None]), TypeError, r"X\[1\] .*drop the row"),
    "pyarrow": (pa.array(["a", None]), TypeError, r"X\[1\] .*drop the row"),
}
TABLE_CASES = {
    "one column": ([("a",), ("b",)], r"X is a table with 1 column.*row\[0\] for row"),
    "(n, 1)": (np.array([["a"], ["b"]]), r"X is a table with 1 column"),
    "empty row": ([(), ()], r"X is a table with 0 column"),
    "ragged": ([("a", "b"), ("c", "d", "e")], r"X\[1\] has 3 items, but X\[0\] has 2"),
    "short": ([("a", "b", "c"), ("d", "e")], r"X\[1\] has 2 items, but X\[0\] has 3"),
    "frame of one": (frame(query=["a"]), r"missing: \['document'\]"),
    "frame of texts": (frame(text=["a"]), r"missing: \['query', 'document'\]"),
    "frame of more": (
        frame(query=["a"], document=["b"], id=[3]),
        r"not expected: \['id'\]. Rename or select columns",
    ),
    "polars frame": (pl.DataFrame({"query": ["a"]}), r"missing: \['document'\]"),
    "arrow table": (
        pa.table({"query": ["a"], "document": ["b"], "rank": [1]}),
        r"not expected: \['rank'\]",
    ),
    "empty frame": (frame(query=[], document=[]), "X is empty"),
    "empty polars": (pl.DataFrame({"query": [], "document": []}), "X is empty"),
    "empty arrow": (pa.table({"query": [], "document": []}), "X is empty"),
}
CELL_CASES = {
    "None": ([("a", "b"), ("c", None)], r"X\[1\]\[1\] must be .*, got None; drop"),
    "query": ([("a", "b"), (None, "d")], r"X\[1\]\[0\] must be .*, got None; drop"),
    "negative": ([("a", "b", "c"), ("a", "b", None)], r"X\[1\]\[2\] .*, got None"),
    "nan": ([("a", "b"), ("c", np.nan)], r"X\[1\]\[1\] must be .*, got nan; drop"),
    "bytes": ([("a", b"b")], r"X\[0\]\[1\] .*decode it"),
    "number": ([("a", 0.5)], r"X\[0\]\[1\] must be .*, got 0\.5"),
    "list": ([("a", ["b"])], r"X\[0\]\[1\] must be .*\['b'\]"),
    "set": ([("a", {"b"})], r"X\[0\]\[1\] .*set is not reproducible"),
    "frame": (
        frame(query=["a", "b"], document=["c", None]),
        r"X\[1\]\[1\] .*drop the row",
    ),
    "polars": (
        pl.DataFrame({"query": ["a", None], "document": ["c", "d"]}),
        r"X\[1\]\[0\] .*drop the row",
    ),
    "str row": ([("a", "b"), "cd"], r"X\[1\] is 'cd', but X\[0\] is a row of 2 items"),
    "None row": ([("a", "b"), None], r"X\[1\] is None, but X\[0\] is a row"),
    "set row": ([("a", "b"), {"c", "d"}], r"X\[1\] is \{.*but X\[0\] is a row"),
}
Y_CASES = {
    "None": (
        None,
        ValueError,
        "requires y to be passed, but the target y is None.*relevant document",
    ),
    "str": ("ab", TypeError, r"y is the single str 'ab'; pass a list: \[y\]"),
    "dict": (
        {"a": "b"},
        TypeError,
        r"y is a dict; .*y = \[relevant\[query\] for query in X\]",
    ),
    "set": ({"a", "b"}, TypeError, r"y is a set, .*pass sorted\(y\)"),
    "generator": (
        lambda: (x for x in ("a", "b")),
        TypeError,
        r"got generator; pass list\(y\)",
    ),
    "number": (1, TypeError, "y must be a list, array or Series, got int"),
    "frame": (frame(document=["a", "b"]), TypeError, r"y is a DataFrame; pass one col"),
    "polars": (pl.DataFrame({"d": ["a", "b"]}), TypeError, r"y is a DataFrame; pass"),
    "short": (["a"], ValueError, "X has 2 queries, but y has 1 items"),
    "long": (["a"] * 3, ValueError, "X has 2 queries, but y has 3 items"),
    "empty": ([], ValueError, "X has 2 queries, but y has 0 items"),
    "item None": (["a", None], TypeError, r"y\[1\] must be .*, got None; drop the row"),
    "item nan": (["a", np.nan], TypeError, r"y\[1\] must be .*, got nan; drop the row"),
    "item number": (["a", 0.0], TypeError, r"y\[1\] must be .*, got 0\.0"),
    "item bytes": (["a", b"b"], TypeError, r"y\[1\] .*decode it"),
    "item set": (["a", {"b"}], TypeError, r"y\[1\] .*set is not reproducible"),
    "no document": (["a", []], ValueError, r"y\[1\] is empty: .*Leave the row"),
    "no grade": (["a", {}], ValueError, r"y\[1\] is empty: .*Leave the row"),
    "empty array": (["a", np.array([])], ValueError, r"y\[1\] is empty"),
    "None in a list": (
        ["a", ["b", None]],
        TypeError,
        r"y\[1\]\[1\] .*, got None; drop",
    ),
    "bytes in a list": (["a", ("b", b"c")], TypeError, r"y\[1\]\[1\] .*decode it"),
    "list in a list": (["a", [["b"]]], TypeError, r"y\[1\]\[0\] must be .*\['b'\]"),
    "key None": (["a", {None: 1}], TypeError, r"document of y\[1\] .*, got None; drop"),
    "key nan": (["a", {np.nan: 1}], TypeError, r"document of y\[1\] .*, got nan; drop"),
    "grade str": (
        ["a", {"b": "1"}],
        TypeError,
        r"y\[1\]\['b'\] must be a number, .*'1'",
    ),
    "grade None": (
        ["a", {"b": None}],
        TypeError,
        r"y\[1\]\['b'\] must be a number, got",
    ),
    "grade nan": (["a", {"b": np.nan}], ValueError, r"y\[1\]\['b'\] must be finite"),
    "grade inf": (["a", {"b": np.inf}], ValueError, r"y\[1\]\['b'\] must be finite"),
    # rows of one type are read together
    "list: none": ([["a"], []], ValueError, r"y\[1\] is empty: .*Leave the row"),
    "list: None": ([["a"], ["b", None]], TypeError, r"y\[1\]\[1\] .*, got None; drop"),
    "dict: none": ([{"a": 1}, {}], ValueError, r"y\[1\] is empty: .*Leave the row"),
    "dict: None": ([{"a": 1}, {None: 1}], TypeError, r"of y\[1\] .*, got None; drop"),
    "dict: str": ([{"a": 1}, {"b": "1"}], TypeError, r"y\[1\]\['b'\] must be a number"),
    "dict: nan": ([{"a": 1}, {"b": np.nan}], ValueError, r"y\[1\]\['b'\] must be fin"),
}
LABEL_CASES = {
    "short": ([1], ValueError, "X has 2 rows, but y has 1 labels"),
    "long": ([1, 0, 1], ValueError, "X has 2 rows, but y has 3 labels"),
    "None": ([1, None], TypeError, r"y\[1\] must be a number, got None"),
    "str": ([1, "0"], TypeError, r"y\[1\] must be a number, got '0'"),
    "nan": ([1, np.nan], ValueError, r"y\[1\] must be finite, got nan"),
    "inf": ([1, np.inf], ValueError, r"y\[1\] must be finite, got inf"),
    "text": (["a", "b"], TypeError, r"y\[0\] must be a number, got 'a'"),
    "dict": ({"a": 1}, TypeError, "y is a dict; pass a list with one item a row"),
    "generator": (lambda: (x for x in (1, 0)), TypeError, r"pass list\(y\)"),
}
CORPUS_CASES = {
    "str": ("ab", TypeError, r"corpus is the single str 'ab'; pass a list: \[corpus\]"),
    "generator": (lambda: (x for x in ("a",)), TypeError, r"pass list\(corpus\)"),
    "set": ({"a"}, TypeError, r"corpus is a set, .*pass sorted\(corpus\)"),
    "dict": ({"1": "a"}, TypeError, "corpus is a dict; pass a list"),
    "frame": (frame(document=["a"]), TypeError, r'corpus\["document"\]'),
    "None": (["a", None], TypeError, r"corpus\[1\] .*, got None; drop the row"),
    "nan": (pd.Series(["a", np.nan]), TypeError, r"corpus\[1\] .*drop the row"),
    "bytes": (["a", b"b"], TypeError, r"corpus\[1\] .*decode it"),
    "number": (["a", 0.5], TypeError, r"corpus\[1\] must be .*, got 0\.5"),
    "rows": ([("a", "b")], TypeError, r"corpus\[0\] must be .*\('a', 'b'\)"),
}
