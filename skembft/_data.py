"""One validation function and one internal representation for all forms of data.

Whatever a user passes as ``X`` and ``y`` becomes a :class:`RetrievalData`: distinct
queries, distinct documents, and which document was judged relevant to which query.
"""

import numbers
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse

from skembft._utils import check_finite, shorten

KINDS = ("text", "id", "vector")  # what a query or a document is


# --------------------------------------------------------------------------------------
# relevance: which documents answer which queries


class JudgedRelevance:
    """Relevance judgements as sparse matrices (n_queries, n_documents)."""

    self_index = None

    def __init__(self, positive, negative):
        positive.sort_indices()
        self.positive = positive  # grades above 0
        self.negative = negative  # 1 where judged and not positive

    @classmethod
    def from_triples(cls, queries, documents, grades, shape):
        """Merge repeated judgements of a pair into the highest grade."""
        queries, documents = np.asarray(queries), np.asarray(documents)
        grades = np.asarray(grades, dtype=np.float64)
        keys = queries.astype(np.int64) * shape[1] + documents
        order = np.lexsort((-grades, keys))
        keys, first = np.unique(keys[order], return_index=True)
        grades = grades[order][first]
        rows, columns = np.divmod(keys, shape[1])
        positive = grades > 0

        def matrix(mask, values):
            return sparse.csr_array(
                (values[mask], (rows[mask], columns[mask])), shape=shape
            )

        return cls(matrix(positive, grades), matrix(~positive, np.ones_like(grades)))

    @property
    def n_relevant(self):
        """Number of relevant documents of every query."""
        return np.diff(self.positive.indptr)

    @cached_property
    def _keys(self):
        """Sorted ``query * n_documents + document`` of all positives."""
        queries = np.repeat(np.arange(self.positive.shape[0]), self.n_relevant)
        return queries * self.positive.shape[1] + self.positive.indices

    def grades(self, queries, documents):
        """Grades of `documents` (n, k) for `queries` (n,); 0 where not relevant."""
        out = np.zeros(documents.shape)
        if len(self._keys):
            wanted = queries[:, None] * self.positive.shape[1] + documents
            at = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
            hit = (self._keys[at] == wanted) & (documents >= 0)
            out[hit] = self.positive.data[at][hit]
        return out

    def ideal(self, k):
        """The k highest grades of every query, best first, padded with 0."""
        out = np.zeros((self.positive.shape[0], k))
        indptr, data = self.positive.indptr, self.positive.data
        for i in range(len(out)):
            best = np.sort(data[indptr[i] : indptr[i + 1]])[::-1][:k]
            out[i, : len(best)] = best
        return out

    def known_positives(self, queries, column_of):
        """Coordinates (row, column) of known positives among a set of columns.

        `column_of` maps every document to its column, or to -1.
        """
        rows = self.positive[queries]
        columns = column_of[rows.indices]
        found = columns >= 0
        row = np.repeat(np.arange(len(queries)), np.diff(rows.indptr))
        return row[found], columns[found]

    def is_positive(self, queries, documents):
        """Whether each document is a known positive of its query, elementwise."""
        return self.grades(queries, documents[:, None])[:, 0] > 0

    def judged_negatives(self, query):
        """Documents judged not relevant to one query."""
        start, stop = self.negative.indptr[query : query + 2]
        return self.negative.indices[start:stop]

    def take(self, queries):
        return JudgedRelevance(self.positive[queries], self.negative[queries])


class LabelRelevance:
    """Rows with equal class labels are relevant to one another, not to themselves.

    Nothing quadratic is stored: a judgement is a comparison of two labels.
    """

    def __init__(self, labels, rows=None):
        self.labels = labels  # of every document
        self.self_index = np.arange(len(labels)) if rows is None else rows
        self._members = np.argsort(labels, kind="stable")
        self._counts = np.bincount(labels)
        self._starts = np.cumsum(self._counts) - self._counts

    @property
    def n_relevant(self):
        return self._counts[self.labels[self.self_index]] - 1

    def grades(self, queries, documents):
        rows = self.self_index[queries][:, None]
        same = self.labels[rows] == self.labels[documents]
        return (same & (documents != rows) & (documents >= 0)).astype(np.float64)

    def ideal(self, k):
        return (np.arange(k) < self.n_relevant[:, None]).astype(np.float64)

    def known_positives(self, queries, column_of):
        documents = np.flatnonzero(column_of >= 0)
        labels = self.labels[self.self_index[queries]]
        row, at = np.nonzero(labels[:, None] == self.labels[documents])
        return row, column_of[documents[at]]  # the row itself is masked too

    def is_positive(self, queries, documents):
        return self.labels[self.self_index[queries]] == self.labels[documents]

    def judged_negatives(self, query):
        return np.empty(0, dtype=np.int64)

    def partners(self, queries, documents, rng):
        """One random other row of the same label for every query that has one."""
        allowed = np.zeros(len(self.labels), dtype=bool)
        allowed[documents] = True
        members = self._members[allowed[self._members]]
        counts = np.bincount(self.labels[members], minlength=len(self._counts))
        starts = np.cumsum(counts) - counts
        labels = self.labels[self.self_index[queries]]
        keep = counts[labels] > 1
        queries, labels = queries[keep], labels[keep]
        # every row knows its place in its class; step over it by 1 … count - 1
        place = np.empty(len(self.labels), dtype=np.int64)
        place[members] = np.arange(len(members)) - starts[self.labels[members]]
        step = 1 + (rng.random_sample(len(queries)) * (counts[labels] - 1)).astype(int)
        place = (place[self.self_index[queries]] + step) % counts[labels]
        return queries, members[starts[labels] + place]

    def take(self, queries):
        return LabelRelevance(self.labels, self.self_index[queries])


# --------------------------------------------------------------------------------------
# the internal representation


@dataclass(frozen=True)
class RetrievalData:
    """Distinct queries and documents, their relevance, and the training examples.

    Attributes
    ----------
    queries, documents : list of str or id, or ndarray of shape (n, d)
        Distinct, in order of first appearance; documents of `corpus` come last.
    relevance : JudgedRelevance or LabelRelevance
    row_query : ndarray of shape (n_rows,)
        Index of the query of every row of X.
    example_row, example_document, example_grade : ndarray of shape (n_examples,)
        What the rows say, row by row, most relevant document first.
    pool : ndarray
        Indices of the documents that training may see.
    n_negatives : int
        Explicit negatives of an example: the width of a table less 2, or 1 when
        some document was judged not relevant.
    labelled : bool
        Whether rows are pairs with a similarity or 0/1 label.
    """

    queries: object
    documents: object
    relevance: object
    row_query: np.ndarray
    example_row: np.ndarray
    example_document: np.ndarray
    example_grade: np.ndarray
    pool: np.ndarray
    n_negatives: int = 0
    labelled: bool = False

    @property
    def n_queries(self):
        return len(self.queries)

    @cached_property
    def answerable(self):
        """Indices of the queries that have a relevant document."""
        return np.flatnonzero(self.relevance.n_relevant > 0)

    def subset(self, queries):
        """The rows of some queries; documents keep their indices, `pool` shrinks."""
        queries = np.sort(queries)
        new_index = np.full(self.n_queries, -1)
        new_index[queries] = np.arange(len(queries))
        rows = np.flatnonzero(new_index[self.row_query] >= 0)
        new_row = np.full(len(self.row_query), -1)
        new_row[rows] = np.arange(len(rows))
        kept = new_row[self.example_row] >= 0
        dropped = np.setdiff1d(
            self.example_document[~kept], self.example_document[kept]
        )
        if isinstance(self.relevance, LabelRelevance):
            dropped = np.setdiff1d(self.pool, self.relevance.self_index[queries])
        if isinstance(self.queries, np.ndarray):
            kept_queries = self.queries[queries]
        else:
            kept_queries = [self.queries[i] for i in queries]
        return replace(
            self,
            queries=kept_queries,
            relevance=self.relevance.take(queries),
            row_query=new_index[self.row_query[rows]],
            example_row=new_row[self.example_row[kept]],
            example_document=self.example_document[kept],
            example_grade=self.example_grade[kept],
            pool=np.setdiff1d(self.pool, dropped),
        )

    def query_weights(self, sample_weight):
        """Mean weight of the rows of every query."""
        if sample_weight is None:
            return None
        weights = np.asarray(sample_weight, dtype=np.float64)
        if weights.shape != self.row_query.shape:
            raise ValueError(
                f"sample_weight has shape {weights.shape}, expected one weight a row: "
                f"{self.row_query.shape}."
            )
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise ValueError("sample_weight must be finite and not negative.")
        total = np.bincount(self.row_query, weights, minlength=self.n_queries)
        return total / np.bincount(self.row_query, minlength=self.n_queries)

    # ---- training examples

    def positive_pairs(self, use_all_docs, rng):
        """Query and document indices of the positive pairs.

        With class labels there are too many pairs to list: every call draws one
        partner a row.
        """
        if isinstance(self.relevance, LabelRelevance):
            return self.relevance.partners(np.arange(self.n_queries), self.pool, rng)
        positive = np.flatnonzero(self.example_grade > 0)
        if not use_all_docs:
            _, first = np.unique(self.example_row[positive], return_index=True)
            positive = positive[first]
        return self.row_query[self.example_row[positive]], self.example_document[
            positive
        ]

    def labelled_pairs(self, use_all_docs, rng):
        """Query indices, document indices and labels; derived where data have none."""
        if self.labelled:
            rows = self.example_row
            return self.row_query[rows], self.example_document, self.example_grade
        queries, documents = self.positive_pairs(use_all_docs, rng)
        count = max(self.n_negatives, 1)
        negatives = self.negatives(queries, count, rng)
        labels = np.repeat([1.0, 0.0], [len(queries), len(queries) * count])
        return (
            np.concatenate([queries, np.repeat(queries, count)]),
            np.concatenate([documents, negatives.ravel()]),
            labels,
        )

    def negatives(self, queries, count, rng):
        """`count` negatives for each of `queries`, shape (n, count).

        Judged negatives come first, repeated in turn where there are too few; a
        query without any gets random documents that are not known to be relevant.
        """
        out = self._random_negatives(np.repeat(queries, count), rng)
        out = out.reshape(len(queries), count)
        if self.n_negatives:
            for i, query in enumerate(queries):
                judged = self.relevance.judged_negatives(query)
                if len(judged):
                    start = rng.randint(len(judged)) if len(judged) > count else 0
                    out[i] = np.take(
                        judged, np.arange(start, start + count), mode="wrap"
                    )
        return out

    def _random_negatives(self, queries, rng):
        drawn = self.pool[rng.randint(len(self.pool), size=len(queries))]
        wrong = np.flatnonzero(self.relevance.is_positive(queries, drawn))
        for _ in range(20):
            if not len(wrong):
                return drawn
            drawn[wrong] = self.pool[rng.randint(len(self.pool), size=len(wrong))]
            still = self.relevance.is_positive(queries[wrong], drawn[wrong])
            wrong = wrong[still]
        for i in wrong:  # nearly every document is relevant: list the others
            same = np.full(len(self.pool), queries[i])
            others = self.pool[~self.relevance.is_positive(same, self.pool)]
            if not len(others):
                raise ValueError(
                    "Every document is relevant to the query "
                    f"{shorten(_item(self.queries, queries[i]))}, so it has no "
                    "negative: pass more documents as corpus=, or use a loss that "
                    "needs none."
                )
            drawn[i] = others[rng.randint(len(others))]
        return drawn


def _item(items, index):
    return f"row {index}" if isinstance(items, np.ndarray) else items[index]


# --------------------------------------------------------------------------------------
# reading containers


def to_list(values, name):
    """Return any 1-D or 2-D container of items as a plain list of Python objects.

    Lists, tuples, numpy arrays, pandas and polars Series, pyarrow columns and
    datasets' columns give the same result. What has no order or no length is an error.
    """
    if isinstance(values, str | bytes):
        raise TypeError(
            f"{name} is the single {type(values).__name__} {shorten(values)}; pass a "
            f"list: [{name}]."
        )
    if isinstance(values, Mapping):
        raise TypeError(
            f"{name} is a dict; pass a list with one item a row"
            + (
                ": y = [relevant[query] for query in X]."
                if name.startswith("y")
                else "."
            )
        )
    if isinstance(values, set | frozenset):
        raise TypeError(
            f"{name} is a set, whose order is not reproducible; pass sorted({name})."
        )
    if _is_frame(values):
        raise TypeError(
            f"{name} is a {type(values).__name__}; pass one column of it, for example "
            f'{name}["document"].'
        )
    if values is None or not hasattr(values, "__len__"):
        raise TypeError(
            f"{name} must be a list, array or Series, got {type(values).__name__}"
            + (f"; pass list({name})." if hasattr(values, "__iter__") else ".")
        )
    if isinstance(values, np.ndarray) and values.ndim == 0:
        raise TypeError(f"{name} is a 0-d array; pass a list.")
    for method in (
        "to_pylist",
        "tolist",
        "to_list",
    ):  # pyarrow, numpy and pandas, polars
        if hasattr(values, method):
            return getattr(values, method)()
    return list(values)


def _is_frame(values):
    columns = hasattr(values, "columns") or hasattr(values, "column_names")
    return columns and not isinstance(values, str)


def _frame_rows(frame):
    """Rows (query, document, negative, …) of a DataFrame with those columns."""
    names = getattr(frame, "column_names", None) or list(frame.columns)
    negatives = sorted(
        (n for n in names if str(n).startswith("negative")), key=_natural_key
    )
    unknown = [n for n in names if n not in ("query", "document", *negatives)]
    missing = [n for n in ("query", "document") if n not in names]
    if missing or unknown:
        raise ValueError(
            "A table of pairs holds the columns 'query', 'document' and, for explicit "
            "negatives, 'negative…', and nothing else"
            + (f"; missing: {missing}" if missing else "")
            + (f"; not expected: {unknown}" if unknown else "")
            + ". Rename or select columns, or pass a single column as X and y."
        )
    columns = [
        to_list(frame[name], f"X[{name!r}]")
        for name in ("query", "document", *negatives)
    ]
    return list(zip(*columns, strict=True))


def _natural_key(name):
    digits = "".join(c for c in str(name) if c.isdigit())
    return (int(digits) if digits else -1, str(name))


def _rows_of(X):
    """Return (rows, is_table): rows of items, or the items of a 1-D X."""
    if _is_frame(X):
        return _frame_rows(X), True
    rows = to_list(X, "X")
    if not rows:
        raise ValueError("X is empty: found 0 sample(s), at least 1 is required.")
    is_table = isinstance(rows[0], list | tuple | np.ndarray)
    if is_table:
        rows = [r.tolist() if isinstance(r, np.ndarray) else r for r in rows]
        _check_table(rows)
    return rows, is_table


def _check_table(rows):
    width = len(rows[0])
    if width < 2:
        raise ValueError(
            f"X is a table with {width} column(s); rows are (query, document) or "
            "(query, document, negative, …). For queries alone pass a 1-D list: "
            "[row[0] for row in X]."
        )
    for i, row in enumerate(rows):
        if not isinstance(row, list | tuple):
            raise TypeError(
                f"X[{i}] is {shorten(row)}, but X[0] is a row of {width} items: all "
                "rows of a table are tuples or lists."
            )
        if len(row) != width:
            raise ValueError(
                f"X[{i}] has {len(row)} items, but X[0] has {width}: all rows of a "
                "table have the same width."
            )


def check_item(item, name, kind):
    """Return one query or document as str or int, or raise an error that says why."""
    if isinstance(item, str):
        return str(item)  # also makes a str of numpy's str_
    is_int = isinstance(item, numbers.Integral) and not isinstance(item, bool)
    if kind == "id" and is_int:
        return int(item)
    wanted = "a str or an int id" if kind == "id" else "a str"
    missing = isinstance(item, numbers.Real) and item != item
    if item is None or missing or type(item).__name__ in ("NAType", "NaTType"):
        hint = "drop the row or fill it in"
    elif isinstance(item, bytes):
        hint = "decode it: value.decode('utf-8')"
    elif isinstance(item, set | frozenset):
        hint = "the order of a set is not reproducible; pass a list"
    elif isinstance(item, numbers.Number):
        hint = (
            "ids are understood with encoder=PrecomputedEncoder(…), vectors with "
            "encoder=None; otherwise pass texts"
        )
    else:
        hint = "see the guide on data forms"
    raise TypeError(f"{name} must be {wanted}, got {shorten(item)}; {hint}.")


def check_items(values, name, kind):
    """Return a list of checked queries or documents."""
    items = to_list(values, name)
    return [check_item(item, f"{name}[{i}]", kind) for i, item in enumerate(items)]


def check_queries(X, kind):
    """Return the queries of X, those of the first column where X is a table."""
    rows, is_table = _rows_of(X)
    if is_table:
        return [check_item(row[0], f"X[{i}][0]", kind) for i, row in enumerate(rows)]
    return [check_item(row, f"X[{i}]", kind) for i, row in enumerate(rows)]


def _check_grade(grade, name):
    if isinstance(grade, bool | np.bool_):
        return float(grade)
    if not isinstance(grade, numbers.Real):
        raise TypeError(f"{name} must be a number, got {shorten(grade)}.")
    if not np.isfinite(grade):
        raise ValueError(f"{name} must be finite, got {grade}.")
    return float(grade)


def _read_relevant(value, row, kind):
    """Return [(document, grade), …] of one item of y, most relevant first."""
    name = f"y[{row}]"
    if isinstance(value, Mapping):
        graded = [
            (
                check_item(d, f"document of {name}", kind),
                _check_grade(g, f"{name}[{d!r}]"),
            )
            for d, g in value.items()
        ]
        graded.sort(key=lambda item: -item[1])  # stable: ties keep insertion order
    elif isinstance(value, list | tuple | np.ndarray) or hasattr(value, "to_list"):
        documents = to_list(value, name)
        graded = [
            (check_item(d, f"{name}[{j}]", kind), 1.0) for j, d in enumerate(documents)
        ]
    else:
        graded = [(check_item(value, name, kind), 1.0)]
    if not graded:
        raise ValueError(
            f"{name} is empty: the query of row {row} has no relevant document. Leave "
            "the row out, or give its document."
        )
    return graded


# --------------------------------------------------------------------------------------
# from X and y to RetrievalData


class _Numbering(dict):
    """Number distinct items in order of first appearance."""

    def __missing__(self, item):
        self[item] = len(self)
        return self[item]


def check_retrieval_data(X, y, *, kind, corpus=None, name="estimator"):
    """Turn every form of texts or ids into a :class:`RetrievalData`.

    Parameters
    ----------
    X, y, corpus : see the guide on data forms
    kind : {"text", "id"}
    name : str
        Name of the estimator, for messages.
    """
    rows, is_table = _rows_of(X)
    if is_table:
        judged, n_negatives = _read_table(rows, y, kind)
    else:
        if y is None:
            raise ValueError(
                f"This {name} estimator requires y to be passed, but the target y is "
                "None: y holds the relevant document(s) of every query in X. Without "
                "y, X is a table of (query, document) rows."
            )
        judged, n_negatives = _read_queries(rows, y, kind), 0

    query_index, document_index = _Numbering(), _Numbering()
    row_query, example_row, example_document, example_grade = [], [], [], []
    for i, (query, graded) in enumerate(judged):
        row_query.append(query_index[query])
        for document, grade in graded:
            example_row.append(i)
            example_document.append(document_index[document])
            example_grade.append(grade)
    if corpus is not None:
        for document in check_items(corpus, "corpus", kind):
            document_index[document]  # noqa: B018 (numbers the document)
    _warn_empty(query_index, document_index)

    row_query = np.asarray(row_query)
    example_row = np.asarray(example_row)
    example_grade = np.asarray(example_grade, dtype=np.float64)
    example_document = np.asarray(example_document)
    relevance = JudgedRelevance.from_triples(
        row_query[example_row],
        example_document,
        example_grade,
        (len(query_index), len(document_index)),
    )
    return RetrievalData(
        queries=list(query_index),
        documents=list(document_index),
        relevance=relevance,
        row_query=row_query,
        example_row=example_row,
        example_document=example_document,
        example_grade=example_grade,
        pool=np.arange(len(document_index)),
        n_negatives=n_negatives or int(relevance.negative.nnz > 0),
        labelled=is_table and y is not None,
    )


def _read_queries(rows, y, kind):
    relevant = to_list(y, "y")
    if len(relevant) != len(rows):
        raise ValueError(
            f"X has {len(rows)} queries, but y has {len(relevant)} items: y holds the "
            "relevant document(s) of every query."
        )
    return [
        (check_item(query, f"X[{i}]", kind), _read_relevant(value, i, kind))
        for i, (query, value) in enumerate(zip(rows, relevant, strict=True))
    ]


def _read_table(rows, y, kind):
    """Return judged rows and the number of explicit negatives of a table."""
    width = len(rows[0])
    cells = [
        [check_item(cell, f"X[{i}][{j}]", kind) for j, cell in enumerate(row)]
        for i, row in enumerate(rows)
    ]
    if y is None:
        judged = [
            (row[0], [(row[1], 1.0), *((negative, 0.0) for negative in row[2:])])
            for row in cells
        ]
        return judged, width - 2
    if width != 2:
        raise ValueError(
            f"y was passed with a table of {width} columns; labels go with (query, "
            "document) pairs. Pass y=None for explicit negatives."
        )
    labels = to_list(y, "y")
    if len(labels) != len(rows):
        raise ValueError(f"X has {len(rows)} rows, but y has {len(labels)} labels.")
    labels = [_check_grade(label, f"y[{i}]") for i, label in enumerate(labels)]
    judged = [
        (row[0], [(row[1], label)]) for row, label in zip(cells, labels, strict=True)
    ]
    return judged, 0


def _warn_empty(queries, documents):
    what = [n for n, i in (("query", queries), ("document", documents)) if "" in i]
    if what:
        warnings.warn(
            f"An empty string is among the data as a {' and a '.join(what)}; it is "
            "kept and encoded like any text.",
            UserWarning,
            stacklevel=4,
        )


def check_vector_data(X, y, corpus=None):
    """Turn vectors with class labels or paired vectors into :class:`RetrievalData`.

    Parameters
    ----------
    X : ndarray of shape (n, d), already validated
    y : n class labels, or array-like of shape (n, d)
    corpus : array-like of shape (m, d) or None
        More document vectors.
    """
    if not _is_labels(y):
        return _paired_vectors(X, y, corpus)
    if corpus is not None:
        raise ValueError(
            "corpus= does not go with class labels, where the documents are the rows "
            "of X themselves; pass paired vectors as y."
        )
    labels = np.asarray(to_list(y, "y"))
    labels = labels.ravel()
    if len(labels) != len(X):
        raise ValueError(f"X has {len(X)} rows, but y has {len(labels)} labels.")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError("Input y contains NaN or infinity.")
    _, labels = np.unique(labels, return_inverse=True)
    rows = np.arange(len(X))
    return RetrievalData(
        queries=X,
        documents=X,
        relevance=LabelRelevance(labels),
        row_query=rows,
        example_row=rows,
        example_document=rows,
        example_grade=np.ones(len(X)),
        pool=rows,
    )


def _is_labels(y):
    shape = np.shape(y)
    return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)


def _paired_vectors(X, y, corpus):
    Y = check_vectors(y, "y", X.shape[1])
    if len(Y) != len(X):
        raise ValueError(f"X has {len(X)} rows, but y has {len(Y)} vectors.")
    extra = Y[:0] if corpus is None else check_vectors(corpus, "corpus", X.shape[1])
    queries, row_query = _distinct_rows(X)
    documents, at = _distinct_rows(np.concatenate([Y, extra]))
    rows, grades = np.arange(len(X)), np.ones(len(X))
    example_document = at[: len(Y)]
    return RetrievalData(
        queries=queries,
        documents=documents,
        relevance=JudgedRelevance.from_triples(
            row_query, example_document, grades, (len(queries), len(documents))
        ),
        row_query=row_query,
        example_row=rows,
        example_document=example_document,
        example_grade=grades,
        pool=np.arange(len(documents)),
    )


def check_vectors(vectors, name, width=None):
    """Return a finite float matrix, of the given width."""
    array = np.asarray(vectors)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} must be a matrix of numbers, one vector a row, got shape "
            f"{array.shape} and dtype {array.dtype}."
        )
    if width is not None and array.shape[1] != width:
        raise ValueError(
            f"{name} has vectors of width {array.shape[1]}, expected {width}."
        )
    if array.dtype.kind != "f" or array.dtype.itemsize < 4:
        array = array.astype(np.float32)
    check_finite(array, f"The vectors of {name}")
    return array


def _distinct_rows(matrix):
    """Distinct rows in order of first appearance, and the index of every row."""
    matrix = np.ascontiguousarray(matrix)
    index = _Numbering()
    at = np.asarray([index[row.tobytes()] for row in matrix], dtype=np.int64)
    _, first = np.unique(at, return_index=True)
    return matrix[first], at
