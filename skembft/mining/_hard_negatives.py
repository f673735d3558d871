"""Hard negatives: documents that a model confuses with the relevant ones."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from sklearn.utils import check_random_state

from skembft._data.encoded import encode
from skembft._data.items import check_items
from skembft._data.missing import warn_missing
from skembft._data.numbering import Numbering, find_own
from skembft._data.relevance import JudgedRelevance
from skembft._data.retrieval_data import RetrievalData
from skembft._utils.messages import shorten
from skembft._utils.types import (
    Data,
    Floats,
    Ints,
    Item,
    ItemKind,
    OwnDocuments,
    RandomState,
)
from skembft.encoders._sentence import as_encoder
from skembft.metrics._scoring import check_own, item_kind, read_data, unwrap
from skembft.mining._candidates import (
    N_NEGATIVES,
    RELATIVE_MARGIN,
    ROUNDING,
    best_positive,
    highest_scores,
    mine,
)
from skembft.mining._selection import Best, choose
from skembft.mining._teacher import Scorer, as_scorer

_CHUNK = 50_000  # documents of a corpus that are encoded and compared at a time
_POOL = 10  # candidates a negative, where a teacher or chance chooses among them


def mine_hard_negatives(
    encoder: Any,
    X: Data,
    y: Data = None,
    *,
    corpus: Data = None,
    n_negatives: int = N_NEGATIVES,
    range_min: int = 0,
    range_max: int | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = RELATIVE_MARGIN,
    sampling_strategy: Literal["top", "random"] = "top",
    cross_encoder: Any = None,
    exclude_self: OwnDocuments = False,
    random_state: RandomState = None,
) -> list[dict[Item, float]]:
    """Find the documents most similar to every query that do not answer it.

    Documents known to be relevant to a query are never its negatives. Neither are
    those that score above 95 % of its best relevant document: they are probably
    relevant and only not judged so (NV-Retriever's positive-aware mining).

    Scores are cosines, or those of `cross_encoder`. The arguments that Sentence
    Transformers' function of this name has too mean what they mean there.

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
    range_min : int, default=0
        Pass over so many of the hardest candidates that are left by the bounds below.
    range_max : int, default=None
        Only so many documents, the most similar ones, are candidates, before the bounds
        below. None means all of them; with `cross_encoder` ``range_min + 10 *
        n_negatives``.
    max_score, min_score : float, default=None
        Candidates that score above or below are left out.
    absolute_margin : float, default=None
        Candidates that score above the best relevant document less this are left out.
    relative_margin : float, default=0.05
        Candidates that score above ``(1 - relative_margin)`` times the best relevant
        document are left out: more exactly, that are nearer to its score than this
        share of its size. 0 leaves out only those above it, None leaves out none.
    sampling_strategy : {"top", "random"}, default="top"
        Take the hardest candidates that are left, or draw from all of them: without a
        `range_max` from the ``10 * n_negatives`` hardest.
    cross_encoder : str, CrossEncoder or callable, default=None
        A teacher, as in `score_pairs`, that scores the candidates anew: bounds, margins
        and the order then go by its scores, and the margins keep their distance from
        the relevant document that it scores lowest. So it finds what is relevant and
        not judged so. Each pair is scored once.
    exclude_self : bool or dict of {query: document}, default=False
        Which document a query is itself, where only ids tell
        (``load_beir(…).own_documents``). It is never mined; of a query without one
        in the corpus the same text or id is not.
    random_state : int, RandomState instance or None, default=None
        Draws with ``sampling_strategy="random"``; the order of the corpus does not
        matter. None draws others in every call.

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
        Bad data, as in ``fit``, or bad scores of the teacher.
    OSError
        A `cross_encoder` that cannot be loaded.

    See Also
    --------
    score_pairs : Grades of what was mined, from a teacher.

    References
    ----------
    G. Moreira et al., "NV-Retriever: Improving text embedding models with effective
    hard-negative mining", 2024, arXiv:2407.15831.

    Y. Qu et al., "RocketQA: An optimized training approach to dense passage retrieval
    for open-domain question answering", 2021, arXiv:2010.08191 (negatives that a
    cross-encoder has denoised).

    Examples
    --------
    >>> from skembft import PrecomputedEncoder
    >>> from skembft.mining import mine_hard_negatives
    >>> vectors = {"q": [1, 0.0], "a": [0.9, 0.1], "b": [0.6, 0.6], "c": [0, 1.0]}
    >>> index = PrecomputedEncoder(vectors)
    >>> mine_hard_negatives(index, ["q"], ["a"], corpus=["a", "b", "c"], n_negatives=1)
    [{'a': 1.0, 'b': 0.0}]
    """
    _check_whole("n_negatives", n_negatives, 1)
    _check_window(range_min, range_max, n_negatives)
    _check_bounds(max_score, min_score, absolute_margin, relative_margin)
    if sampling_strategy not in ("top", "random"):
        raise ValueError(
            f"sampling_strategy must be 'top' or 'random', got {sampling_strategy!r}."
        )
    rng = None
    if sampling_strategy == "random":  # None never means the global random state
        seed = np.random.RandomState() if random_state is None else random_state
        rng = check_random_state(seed)
    encoder, X = unwrap(as_encoder(encoder), X)
    kind = item_kind(encoder)
    if kind == "vector":
        raise ValueError(
            "mine_hard_negatives needs texts or ids, and this encoder takes vectors: "
            "use AdapterFinetuner(encoder=None, negatives='hard') instead."
        )
    teacher = None
    if cross_encoder is not None:
        _check_reads(cross_encoder, kind)
        teacher = as_scorer(cross_encoder, "cross_encoder", load=True)
    if corpus is not None and not hasattr(corpus, "__next__"):
        corpus = check_items(corpus, "corpus", kind)  # before anything is encoded
    if getattr(encoder, "_similarity", "cosine") == "dot":
        raise ValueError(
            f"mine_hard_negatives compares cosines, and this {type(encoder).__name__} "
            "ranks by dot product: mine with normalize=True, or with the encoder that "
            "a CorpusFinetuner was fitted over."
        )
    own = check_own(exclude_self) or getattr(encoder, "exclude_self", False)
    data = read_data(encoder, X, y, own=own)
    if isinstance(corpus, list):
        place = Numbering((item, i) for i, item in enumerate(data.documents))
        named = place.of(corpus)
        warn_missing(list(place), len(data.documents), named, kind, "y")
    queries = encode(encoder, data.queries, "query")
    whole = range_max is None and teacher is None  # all documents are candidates
    if range_max is None:
        factor = 1 if teacher is None and rng is None else _POOL
        range_max = range_min + factor * n_negatives
    best = Best(len(queries), range_max)
    bounds: Floats | None = None
    for documents in _portions(dict.fromkeys(data.documents), corpus, kind):
        vectors = encode(encoder, documents, "document")
        if bounds is None:  # the first portion holds the relevant documents
            positive = best_positive(queries, vectors, data.relevance)
            margins = relative_margin, absolute_margin
            bounds = highest_scores(positive, *margins, max_score) + ROUNDING
            ceiling = bounds if whole else np.full_like(bounds, np.inf)
            hide = data.relevance.hide_known
        else:
            hide = _known(data, documents, own).hide_known
        best.add(documents, *mine(queries, vectors, hide, ceiling, range_max))
    assert bounds is not None
    scores: Floats = best.scores
    if teacher is not None:
        scores, positive = _score_again(teacher, data, best)
        bounds = highest_scores(positive, *margins, max_score)
    chosen = choose(best, scores, bounds, min_score, range_min, n_negatives, rng)
    return _graded(data, best.documents, chosen)


def _check_whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        wanted = "a positive" if least else "0 or a positive"
        raise ValueError(f"{name} must be {wanted} whole number, got {value!r}.")


def _check_window(range_min: int, range_max: int | None, n_negatives: int) -> None:
    _check_whole("range_min", range_min, 0)
    if range_max is None:
        return
    _check_whole("range_max", range_max, 1)
    if range_max < range_min + n_negatives:
        raise ValueError(
            f"range_max={range_max} leaves less than n_negatives={n_negatives} "
            f"candidates behind range_min={range_min}: raise range_max, or lower "
            "one of the others."
        )


def _check_bounds(
    max_score: float | None,
    min_score: float | None,
    absolute_margin: float | None,
    relative_margin: float | None,
) -> None:
    for name, value in [
        ("max_score", max_score),
        ("min_score", min_score),
        ("absolute_margin", absolute_margin),
    ]:
        if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
            raise ValueError(f"{name} must be a number or None, got {shorten(value)}.")
    if absolute_margin is not None and absolute_margin < 0:
        raise ValueError(f"absolute_margin must be 0 or more, got {absolute_margin}.")
    if max_score is not None and min_score is not None and min_score > max_score:
        raise ValueError(
            f"min_score={min_score} is above max_score={max_score}: no document is "
            "within them."
        )
    if relative_margin is None:
        return
    if not isinstance(relative_margin, Real) or not 0 <= relative_margin < 1:
        raise ValueError(
            "relative_margin must be in [0, 1) or None, got "
            f"{shorten(relative_margin)}."
        )


def _check_reads(cross_encoder: Any, kind: ItemKind) -> None:
    """Refuse ids for a model of texts; a callable may know their texts."""
    is_model = isinstance(cross_encoder, str | os.PathLike)
    if kind == "id" and (is_model or hasattr(cross_encoder, "predict")):
        raise ValueError(
            "cross_encoder reads texts, and this encoder knows ids: pass a callable "
            "that takes a list of (query id, document id) pairs and looks their texts "
            "up, or mine with an encoder of texts."
        )


def _score_again(
    score: Scorer, data: RetrievalData, best: Best
) -> tuple[Floats, Floats]:
    """A teacher's scores of the candidates, and its lowest of a relevant document."""
    query, place = np.nonzero(best.found >= 0)
    candidates = best.found[query, place].tolist()
    known_query, known = data.judged.positive_coordinates()
    values = score(
        [
            *(
                (data.queries[q], best.documents[d])
                for q, d in zip(query.tolist(), candidates, strict=True)
            ),
            *(
                (data.queries[q], data.documents[d])
                for q, d in zip(known_query.tolist(), known.tolist(), strict=True)
            ),
        ]
    )
    scores = np.full(best.found.shape, -np.inf)
    scores[query, place] = values[: len(query)]
    lowest = np.full(data.n_queries, np.inf)
    np.minimum.at(lowest, known_query, values[len(query) :])
    return scores, lowest


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


def _graded(
    data: RetrievalData, candidates: list[Item], chosen: Ints
) -> list[dict[Item, float]]:
    """Of every row its own documents, in its order, and the negatives of its query."""
    graded: list[dict[Item, float]] = [{} for _ in data.row_query]
    for row, document, grade in zip(
        data.example_row.tolist(),
        data.example_document.tolist(),
        data.example_grade.tolist(),
        strict=True,
    ):
        graded[row][data.documents[document]] = max(grade, 0.0)
    mined = chosen.tolist()
    for documents, query in zip(graded, data.row_query.tolist(), strict=True):
        for i in mined[query]:
            if i >= 0:
                documents.setdefault(candidates[i], 0.0)
    return graded
