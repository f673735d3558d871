"""Hard negatives: documents that a model confuses with the relevant ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from skembft._data.items import check_items
from skembft._data.missing import warn_missing
from skembft._data.numbering import Numbering, find_own
from skembft._data.relevance import JudgedRelevance
from skembft._data.retrieval_data import RetrievalData
from skembft._utils.messages import shorten
from skembft._utils.types import Data, Floats, Ints, Item, ItemKind, OwnDocuments
from skembft._utils.vectors import to_array
from skembft.encoders._sentence import as_encoder
from skembft.metrics._scoring import item_kind, read_data, unwrap
from skembft.mining._candidates import N_NEGATIVES, RELATIVE_MARGIN, best_positive, mine

if TYPE_CHECKING:
    pass

_CHUNK = 50_000  # documents of a corpus that are encoded and compared at a time


def mine_hard_negatives(
    encoder: Any,
    X: Data,
    y: Data = None,
    *,
    corpus: Data = None,
    n_negatives: int = N_NEGATIVES,
    relative_margin: float = RELATIVE_MARGIN,
    exclude_self: OwnDocuments = False,
) -> list[dict[Item, float]]:
    """Find the documents most similar to every query that do not answer it.

    Documents known to be relevant to a query are never its negatives. Neither are
    those that score above 95 % of its best relevant document: they are probably
    relevant and only not judged so (NV-Retriever's positive-aware mining).

    Parameters
    ----------
    encoder : str, encoder, fitted finetuner, Pipeline or fitted search
        Whose index is searched; a str means ``SentenceEncoder(encoder)``.
    X, y : same forms as in ``fit``
        Queries and their relevant documents; see the guide on data forms.
    corpus : array-like of documents, or iterator of lists of documents, default=None
        Where to look, besides the documents of `y`. An iterator is read once, a list at
        a time, so that a corpus larger than memory can be mined.
    n_negatives : int, default=5
        The most negatives a query gets.
    relative_margin : float, default=0.05
        Candidates that score above ``(1 - relative_margin)`` times the best relevant
        document are left out. 0 leaves out only those above it.
    exclude_self : bool or dict of {query: document}, default=False
        Which document a query is itself, where only ids tell
        (``load_beir(…).own_documents``). It is never mined, nor is the same text or id.

    Returns
    -------
    y_mined : list of dict
        For every row of `X` ``{document: grade}``: the documents of the row in their
        order, then the mined negatives of its query with grade 0, hardest first. Pass
        it to ``fit`` as `y` (of a table, with its queries as X): it trains on the same
        pairs as before.

    Raises
    ------
    ValueError, TypeError
        Bad data, as in ``fit``.

    References
    ----------
    G. Moreira et al., "NV-Retriever: Improving text embedding models with effective
    hard-negative mining", 2024, arXiv:2407.15831.

    Examples
    --------
    >>> from skembft import PrecomputedEncoder
    >>> from skembft.mining import mine_hard_negatives
    >>> vectors = {"q": [1, 0.0], "a": [0.9, 0.1], "b": [0.6, 0.6], "c": [0, 1.0]}
    >>> index = PrecomputedEncoder(vectors)
    >>> mine_hard_negatives(index, ["q"], ["a"], corpus=["a", "b", "c"], n_negatives=1)
    [{'a': 1.0, 'b': 0.0}]
    """
    _check(n_negatives, relative_margin)
    encoder, X = unwrap(as_encoder(encoder), X)
    kind = item_kind(encoder)
    if kind == "vector":
        raise ValueError(
            "mine_hard_negatives needs texts or ids, and this encoder takes vectors: "
            "use AdapterFinetuner(encoder=None, negatives='hard') instead."
        )
    if corpus is not None and not hasattr(corpus, "__next__"):
        corpus = check_items(corpus, "corpus", kind)  # before anything is encoded
    if getattr(encoder, "_similarity", "cosine") == "dot":
        raise ValueError(
            f"mine_hard_negatives compares cosines, and this {type(encoder).__name__} "
            "ranks by dot product: mine with normalize=True, or with the encoder that "
            "a CorpusFinetuner was fitted over."
        )
    own = exclude_self or getattr(encoder, "exclude_self", False)
    data = read_data(encoder, X, y, own=own)
    if isinstance(corpus, list):
        place = Numbering((item, i) for i, item in enumerate(data.documents))
        named = place.of(corpus)
        warn_missing(list(place), len(data.documents), named, kind, "y")
    queries = to_array(encoder.transform(data.queries), "The query vectors")
    found = _Best(len(queries), n_negatives)
    ceiling = None
    for documents in _portions(dict.fromkeys(data.documents), corpus, kind):
        vectors = to_array(
            encoder.transform_documents(documents), "The document vectors"
        )
        if ceiling is None:  # the first portion holds the relevant documents
            ceiling = best_positive(queries, vectors, data.relevance)
            hide = data.relevance.hide_known
        else:
            hide = _known(data, documents, own).hide_known
        indices, scores = mine(
            queries, vectors, hide, ceiling, n_negatives, relative_margin
        )
        found.add(documents, indices, scores)
    return _graded(data, found)


def _check(n_negatives: int, relative_margin: float) -> None:
    if not isinstance(n_negatives, Integral) or n_negatives < 1:
        raise ValueError(
            f"n_negatives must be a positive whole number, got {n_negatives!r}."
        )
    if not isinstance(relative_margin, Real) or not 0 <= relative_margin < 1:
        raise ValueError(
            f"relative_margin must be in [0, 1), got {shorten(relative_margin)}."
        )


def _known(
    data: RetrievalData, documents: list[Item], own: OwnDocuments
) -> JudgedRelevance:
    """What is known of the queries among documents that y does not name."""
    place = {document: i for i, document in enumerate(documents)}
    none = np.empty(0, dtype=np.int64)
    shape = data.n_queries, len(documents)
    found = find_own(data.queries, place, own)
    return JudgedRelevance.from_triples(none, none, none.astype(float), shape, found)


def _portions(
    known: Collection[Item], corpus: Data, kind: ItemKind
) -> Iterator[list[Item]]:
    """Yield lists of distinct documents: those of y, then those only in the corpus."""
    yield list(known)
    if corpus is None:
        return
    is_iterator = hasattr(corpus, "__next__")
    for i, part in enumerate(corpus if is_iterator else [corpus]):
        name = f"corpus, list {i}" if is_iterator else "corpus"
        distinct = dict.fromkeys(check_items(part, name, kind))
        items = [item for item in distinct if item not in known]
        for start in range(0, len(items), _CHUNK):
            yield items[start : start + _CHUNK]


class _Best:
    """The best documents of every query over several portions.

    Attributes
    ----------
    documents : list
        Those that are among the best of some query; others are not kept.
    found : ndarray of shape (n_queries, k)
        Their indices in `documents`, best first; -1 where there are no more.
    """

    def __init__(self, n_queries: int, k: int) -> None:
        self.documents: list[Any] = []
        self.found = np.full((n_queries, k), -1)
        self.scores = np.full((n_queries, k), -np.inf, dtype=np.float32)

    def add(self, documents: list[Item], indices: Ints, scores: Floats) -> None:
        """Add what is best of a portion of documents, best first."""
        k = self.found.shape[1]
        numbers = Numbering((item, i) for i, item in enumerate(self.documents))
        used = np.unique(indices[indices >= 0])
        number = np.full(len(documents) + 1, -1)  # the last is that of -1
        number[used] = numbers.of([documents[i] for i in used.tolist()])
        found = np.hstack([self.found, number[indices]])
        scores = np.hstack([self.scores, scores])
        _drop_repeated(found, scores)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        self.scores = np.take_along_axis(scores, best, axis=1)
        found = np.take_along_axis(found, best, axis=1)
        kept = np.unique(found[found >= 0])
        self.found = np.where(found < 0, -1, np.searchsorted(kept, found))
        names = list(numbers)
        self.documents = [names[i] for i in kept.tolist()]


def _drop_repeated(found: Ints, scores: Floats) -> None:
    """Leave of the same number in a row the first, in place."""
    order = np.argsort(found, axis=1, kind="stable")
    numbers = np.take_along_axis(found, order, axis=1)
    row, place = np.nonzero((numbers[:, 1:] == numbers[:, :-1]) & (numbers[:, 1:] >= 0))
    column = order[row, place + 1]
    found[row, column], scores[row, column] = -1, -np.inf


def _graded(data: RetrievalData, best: _Best) -> list[dict[Item, float]]:
    """Of every row its own documents, in its order, and the negatives of its query."""
    graded: list[dict[Item, float]] = [{} for _ in data.row_query]
    for row, document, grade in zip(
        data.example_row.tolist(),
        data.example_document.tolist(),
        data.example_grade.tolist(),
        strict=True,
    ):
        graded[row][data.documents[document]] = max(grade, 0.0)
    mined = best.found.tolist()
    for documents, query in zip(graded, data.row_query.tolist(), strict=True):
        for i in mined[query]:
            if i >= 0:
                documents.setdefault(best.documents[i], 0.0)
    return graded
