"""What the two sides of a split share."""

import unicodedata
from collections.abc import Collection, Iterable, Sized
from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils._param_validation import Interval, validate_params

from skembft._data.items import check_items
from skembft._data.judgements import check_retrieval_data
from skembft._data.retrieval_data import RetrievalData
from skembft._utils.messages import shorten
from skembft._utils.types import Data, Floats, Ints, Item

_BLOCK = 2**22  # elements of the largest matrix of similarities: memory is set by this
_EXAMPLES = 3  # of each kind that a report shows


@dataclass(frozen=True, repr=False)
class LeakageReport:
    """What a training and a test set share; made by :func:`leakage_report`.

    All queries and documents are distinct. Shares are of the distinct test queries.

    Attributes
    ----------
    n_train_queries, n_test_queries : int
    duplicate_queries : list
        Test queries that are training queries too.
    near_duplicate_queries : list of (test query, training query, similarity) or None
        Other test queries with the training query that is most similar to them, the
        most similar first. None where they were not looked for.
    shared_documents : list
        Documents that are relevant to a training query and to a test query.
    queries_with_shared_documents : list
        Test queries to which one of these is relevant.
    missing_documents : list or None
        Relevant documents of either side that the corpus lacks: they cannot be
        retrieved. None without a corpus.
    duplicate_share, near_duplicate_share, shared_document_share : float
        Share of the test queries that each of the first three concerns.
    leaking_queries : list
        Test queries that any of the first three concerns.
    """

    n_train_queries: int
    n_test_queries: int
    duplicate_queries: list[Item]
    near_duplicate_queries: list[tuple[str, str, float]] | None
    shared_documents: list[Item]
    queries_with_shared_documents: list[Item]
    missing_documents: list[Item] | None

    @property
    def duplicate_share(self) -> float:
        return len(self.duplicate_queries) / self.n_test_queries

    @property
    def near_duplicate_share(self) -> float:
        return len(self.near_duplicate_queries or ()) / self.n_test_queries

    @property
    def shared_document_share(self) -> float:
        return len(self.queries_with_shared_documents) / self.n_test_queries

    @property
    def leaking_queries(self) -> list[Item]:
        """Test queries that leak in any of the three ways."""
        near = [query for query, _, _ in self.near_duplicate_queries or ()]
        found = [*self.duplicate_queries, *near, *self.queries_with_shared_documents]
        return list(dict.fromkeys(found))

    def __repr__(self) -> str:
        lines = [
            f"Leakage from {self.n_train_queries} training to {self.n_test_queries} "
            "test queries"
        ]
        lines += _section(
            "duplicate queries",
            _of_queries(self.duplicate_queries, self.duplicate_share),
            map(shorten, self.duplicate_queries),
        )
        if self.near_duplicate_queries is not None:
            lines += _section(
                "near-duplicate queries",
                _of_queries(self.near_duplicate_queries, self.near_duplicate_share),
                (
                    f"{similarity:.2f}: {shorten(test)} and {shorten(train)}"
                    for test, train, similarity in self.near_duplicate_queries
                ),
            )
        lines += _section(
            "queries with shared documents",
            _of_queries(self.queries_with_shared_documents, self.shared_document_share)
            + f", {len(self.shared_documents)} document(s)",
            map(shorten, self.shared_documents),
        )
        if self.missing_documents is not None:
            lines += _section(
                "relevant documents missing from the corpus",
                str(len(self.missing_documents)),
                map(shorten, self.missing_documents),
            )
        return "\n".join(lines)


def _of_queries(found: Sized, share: float) -> str:
    return f"{len(found)} ({share:.1%} of the test queries)"


def _section(title: str, summary: str, examples: Iterable[str]) -> list[str]:
    """Lines of one finding and of its first examples."""
    examples = list(examples)
    shown = [f"    {example}" for example in examples[:_EXAMPLES]]
    more = ["    …"] if len(examples) > _EXAMPLES else []
    return [f"  {title}: {summary}", *shown, *more]


@validate_params(
    {"similarity": [Interval(Real, 0, 1, closed="right"), None]},
    prefer_skip_nested_validation=True,
)
def leakage_report(
    X_train: Data,
    X_test: Data,
    y_train: Data = None,
    y_test: Data = None,
    *,
    corpus: Data = None,
    similarity: float | None = 0.9,
) -> LeakageReport:
    """Find what a training and a test set share, whatever made the split.

    Parameters
    ----------
    X_train, X_test, y_train, y_test : same forms as in ``fit``
        Queries and their relevant documents, texts or ids, in the order in which
        `train_test_split` gives them; y is None for a table of pairs without labels.
        Only relevant documents are compared.
    corpus : array-like of documents, default=None
        What is retrieved from: also find relevant documents that it lacks.
    similarity : float, default=0.9
        Queries at least as similar as this are near-duplicates: the cosine of the
        TF-IDF vectors of their character trigrams, without regard to case, punctuation
        and spacing. 1.0 finds only queries with the same trigrams. None looks for no
        near-duplicates, which takes the most time with many queries; pass it where
        queries are ids of type str, which would be compared like texts.

    Returns
    -------
    report : LeakageReport
        Print it, or read its attributes `duplicate_queries`,
        `near_duplicate_queries`, `shared_documents`, `queries_with_shared_documents`,
        `missing_documents`, `leaking_queries`, and the shares of the test queries.

    Raises
    ------
    TypeError, ValueError
        Bad data, as in ``fit``.

    See Also
    --------
    train_test_split : A split without shared documents and duplicate queries.

    Notes
    -----
    Near-duplicates are found without exception, and without comparing all pairs of
    queries: only those whose rarest trigrams agree can be similar enough [1]_. The
    higher `similarity`, the fewer these are, and the less time it takes.

    References
    ----------
    .. [1] R. Bayardo, Y. Ma, R. Srikant, "Scaling Up All Pairs Similarity Search",
       WWW 2007.

    Examples
    --------
    >>> from skembft.model_selection import leakage_report
    >>> report = leakage_report(
    ...     X_train=["reset my password", "close the account"],
    ...     X_test=["Reset my password!", "open an account"],
    ...     y_train=["settings", "help desk"],
    ...     y_test=["log in", "help desk"],
    ... )
    >>> report.shared_documents
    ['help desk']
    >>> report
    Leakage from 2 training to 2 test queries
      duplicate queries: 0 (0.0% of the test queries)
      near-duplicate queries: 1 (50.0% of the test queries)
        1.00: 'Reset my password!' and 'reset my password'
      queries with shared documents: 1 (50.0% of the test queries), 1 document(s)
        'help desk'
    """
    name = "leakage_report"
    train = check_retrieval_data(
        X_train, y_train, kind="id", name=name, suffix="_train"
    )
    test = check_retrieval_data(X_test, y_test, kind="id", name=name, suffix="_test")
    corpus = None if corpus is None else set(check_items(corpus, "corpus", "id"))

    known = set(train.queries)
    duplicates = [query for query in test.queries if query in known]
    near = None
    if similarity is not None:
        others = [query for query in test.queries if query not in known]
        near = _near_duplicates(others, train.queries, similarity)

    trained, tested = set(_relevant_documents(train)), _relevant_documents(test)
    shared = [document for document in tested if document in trained]
    missing = None
    if corpus is not None:
        relevant = dict.fromkeys([*_relevant_documents(train), *tested])
        missing = [document for document in relevant if document not in corpus]
    return LeakageReport(
        n_train_queries=train.n_queries,
        n_test_queries=test.n_queries,
        duplicate_queries=duplicates,
        near_duplicate_queries=near,
        shared_documents=shared,
        queries_with_shared_documents=_answered_by(test, set(shared)),
        missing_documents=missing,
    )


def _relevant_documents(data: RetrievalData) -> list[Item]:
    return [data.documents[i] for i in np.unique(data.judged.positive.indices)]


def _answered_by(data: RetrievalData, documents: Collection[Item]) -> list[Item]:
    """The queries to which one of some documents is relevant."""
    wanted = np.array([document in documents for document in data.documents])
    queries, relevant = data.judged.positive_coordinates()
    return [data.queries[i] for i in np.unique(queries[wanted[relevant]])]


def _near_duplicates(
    queries: Iterable[Item], others: Iterable[Item], similarity: float
) -> list[tuple[str, str, float]]:
    """[(query, the most similar other, similarity), …], the most similar first."""
    queries, plain_queries = _plain_texts(queries)
    others, plain_others = _plain_texts(others)
    if not queries or not others:
        return []
    vectorizer = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(3, 3), lowercase=False
    )
    vectors = vectorizer.fit_transform(plain_queries + plain_others)
    ours, theirs = vectors[: len(queries)], vectors[len(queries) :]
    least = max(similarity - 1e-9, 0.0)
    rarest, needed = _rarest_parts(theirs, least, vectors.getnnz(axis=0))
    found = []
    step = max(1, _BLOCK // len(others))
    for start in range(0, len(queries), step):
        block = ours[start : start + step]
        partial = (block @ rarest).tocoo()
        possible = partial.data >= needed[partial.col]
        rows, columns = (
            np.unique(places[possible]) for places in (partial.row, partial.col)
        )
        cosines = (block[rows] @ theirs[columns].T).tocoo()
        near = np.flatnonzero(cosines.data >= least)
        row, column = rows[cosines.row[near]], columns[cosines.col[near]]
        value = cosines.data[near]
        order = np.lexsort((column, -value, row))
        _, first = np.unique(row[order], return_index=True)
        found += [
            (queries[start + row[i]], others[column[i]], min(float(value[i]), 1.0))
            for i in order[first]
        ]
    return sorted(found, key=lambda pair: -pair[2])


def _rarest_parts(
    vectors: sparse.csr_matrix, least: float, frequencies: Ints
) -> tuple[sparse.csr_matrix, Floats]:
    """The rarest trigrams of unit vectors, and the least that cosines owe to them.

    Prefix filtering (Bayardo et al. 2007): let y = r + c, with the commonest trigrams
    in c as long as |c| < 0.75 least. A unit vector x has x·y <= x·r + |c| |x'|,
    where x' is x without the trigrams of r, so that |x'|² <= 1 - (x·r / |r|)². With
    x·r / |r| = sin a and |r| = sin b that is cos(a - b), so that x·y >= least only
    where a >= b - arccos(least). Few pairs of texts have such an x·r, and it costs
    little, as few texts share their rarest trigrams.

    Returns
    -------
    rarest : csr_matrix of shape (n_trigrams, n_vectors)
        The r as columns.
    needed : ndarray of shape (n_vectors,)
        What x·r must be at least.
    """
    rows = np.repeat(np.arange(vectors.shape[0]), np.diff(vectors.indptr))
    order = np.lexsort((-frequencies[vectors.indices], rows))  # the commonest first
    energy = np.append(0, np.cumsum(vectors.data[order] ** 2))
    is_rare = np.empty(vectors.nnz, dtype=bool)
    is_rare[order] = energy[1:] - energy[vectors.indptr[rows]] >= (0.75 * least) ** 2
    rarest = vectors.copy()
    rarest.data[~is_rare] = 0
    rarest.eliminate_zeros()
    squares = np.asarray(rarest.power(2).sum(axis=1)).ravel()
    length = np.sqrt(np.minimum(squares, 1.0))
    needed = length * np.sin(np.arcsin(length) - np.arccos(least))
    return rarest.T.tocsr(), needed - 1e-9  # for rounding


def _plain_texts(items: Iterable[Item]) -> tuple[list[str], list[str]]:
    """The texts among items, and the same without case, punctuation and spacing."""
    plain = {}
    for item in items:
        if isinstance(item, str):
            folded = unicodedata.normalize("NFKC", item).casefold()
            plain[item] = " ".join(folded.translate(_SEPARATORS).split())
    texts = [text for text in plain if plain[text]]
    return texts, [plain[text] for text in texts]


class _Separators(dict[int, str]):
    """Map punctuation and controls to a space, for `str.translate`.

    Symbols stay, and so do marks on letters: ``\\W`` would drop the vowels of Hindi.
    """

    def __missing__(self, code: int) -> str:
        is_separator = unicodedata.category(chr(code))[0] in "PZC"
        self[code] = " " if is_separator else chr(code)
        return self[code]


_SEPARATORS = _Separators()
