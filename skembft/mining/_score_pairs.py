"""Grades of pairs from a teacher."""

from __future__ import annotations

import os
import warnings
from numbers import Integral
from typing import Any

import numpy as np

from skembft._data.judgements import check_retrieval_data
from skembft._data.retrieval_data import RetrievalData
from skembft._utils.messages import shorten
from skembft._utils.types import Bools, Data, Floats, Ints, Item, Path
from skembft.mining._teacher import BATCH_SIZE, as_scorer


def score_pairs(
    teacher: Any,
    X: Data,
    y: Data = None,
    *,
    batch_size: int = BATCH_SIZE,
    device: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: Path | None = None,
) -> list[dict[Item, float]]:
    """Grade the documents of every query by a teacher, for losses that distil it.

    ``loss="distill_kl_div"`` and ``loss="margin_mse"`` learn the differences between
    the scores that a teacher, such as a CrossEncoder, gives to the documents of a
    query. They need several of them: `mine_hard_negatives` finds them.

    Only differences are learned, so every query's scores are shifted by a number of
    its own, and a grade above 0 still means relevant, in training, validation and
    scores: the highest score below the query's lowest relevant document becomes 0.
    Where nothing is below, that document becomes 1. So it does not matter whether a
    teacher gives probabilities or raw logits, which may be negative for what is
    relevant. A document that is judged not relevant, and that the teacher scores above
    a relevant one, counts as relevant; a warning counts them.

    Parameters
    ----------
    teacher : str, CrossEncoder or callable
        The name or directory of a CrossEncoder with one label; an object with
        ``predict(pairs)``; or a callable that takes a list of (query, document) pairs
        and gives one number for each, higher for what is more relevant. The latter two
        get all distinct pairs in one call. Of a CrossEncoder the scores are what its
        `predict` gives: after the activation that it is saved with, by default a
        sigmoid.
    X, y : same forms as in ``fit``
        Queries and their documents, such as `mine_hard_negatives` returns; see the
        guide on data forms. They are texts, or ids if a callable knows their texts.
    batch_size : int, default=32
        Pairs that a model given by name computes at a time.
    device : str, default=None
        Where that model computes: "cpu", "cuda", "mps", … None takes the best there is.
    trust_remote_code : bool, default=False
        Allow it to bring its own code. It runs with your rights.
    cache_dir : str or PathLike, default=None
        Directory where its scores are kept for all processes and for the next time; it
        is made if it does not exist. Within a process they are kept anyway, up to a
        million. A change of the model's files is another model. Scores of a callable
        or an object are not kept.

    Returns
    -------
    y_scored : list of dict
        For every row of `X` ``{document: grade}``, its documents in their order. Pass
        it to ``fit`` as `y` (of a table, with its queries as X).

    Raises
    ------
    ValueError, TypeError
        Bad data, as in ``fit``; no query with two documents; a teacher with several
        labels; scores that are NaN or infinite, or too few; a document judged not
        relevant with exactly the score of a relevant one.
    OSError
        A `teacher` that cannot be loaded or is no CrossEncoder, or a `cache_dir` that
        cannot be made.

    See Also
    --------
    mine_hard_negatives : Find the documents to be scored.

    References
    ----------
    S. Hofstätter et al., "Improving efficient neural ranking models with cross-
    architecture knowledge distillation", 2020, arXiv:2010.02666 (MarginMSE).

    M. Tamber et al., "Teaching dense retrieval models to specialize with listwise
    distillation and LLM data augmentation", 2025, arXiv:2502.19712.

    Examples
    --------
    >>> from skembft.mining import score_pairs
    >>> def shared_words(pairs):
    ...     return [len(set(q.split()) & set(d.split())) for q, d in pairs]
    >>> y = [{"a cat sat": 1, "a cat": 0, "a dog": 0}]
    >>> score_pairs(shared_words, ["the cat sat"], y)
    [{'a cat sat': 1.0, 'a cat': 0.0, 'a dog': -1.0}]
    """
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(
            f"batch_size must be a positive whole number, got {batch_size!r}."
        )
    score = as_scorer(
        teacher,
        "teacher",
        batch_size=batch_size,
        device=device,
        trust_remote_code=trust_remote_code,
        cache_dir=cache_dir,
    )
    reads_texts = isinstance(teacher, str | os.PathLike) or hasattr(teacher, "predict")
    kind = "text" if reads_texts else "id"
    data = check_retrieval_data(X, y, kind=kind, name="score_pairs")
    pairs = data.row_query[data.example_row], data.example_document
    keys = pairs[0] * len(data.documents) + pairs[1]
    distinct, of_example = np.unique(keys, return_inverse=True)
    query, document = np.divmod(distinct, len(data.documents))
    if len(query) == len(np.unique(query)):
        raise ValueError(
            "No query has two documents, so there is nothing to compare: find more "
            "with mine_hard_negatives, and pass what it returns as y."
        )
    scores = score(
        [
            (data.queries[q], data.documents[d])
            for q, d in zip(query.tolist(), document.tolist(), strict=True)
        ]
    )
    relevant = data.judged.grades(query, document[:, None])[:, 0] > 0
    lowest = np.full(data.n_queries, np.inf)  # score of a relevant document
    np.minimum.at(lowest, query[relevant], scores[relevant])
    _check_order(data, query, document, scores, ~relevant, lowest[query])
    grades = _shifted(query, scores, lowest)[of_example]
    graded: list[dict[Item, float]] = [{} for _ in data.row_query]
    for row, d, grade in zip(
        data.example_row.tolist(), pairs[1].tolist(), grades.tolist(), strict=True
    ):
        graded[row][data.documents[d]] = grade
    return graded


def _check_order(
    data: RetrievalData,
    query: Ints,
    document: Ints,
    scores: Floats,
    negative: Bools,
    lowest: Floats,
) -> None:
    """Refuse ties of what is relevant and what is not; warn of the wrong order."""

    def first(which: Ints) -> str:
        i = which[0]
        return (
            f"{scores[i]:g} for the query {shorten(data.queries[query[i]])} and the "
            f"document {shorten(data.documents[document[i]])}"
        )

    tied = np.flatnonzero(negative & (scores == lowest))
    if len(tied):
        raise ValueError(
            f"The teacher gives {len(tied)} document(s) that are not relevant exactly "
            f"the score of a relevant one, first {first(tied)}. If they are one text "
            "in two forms, leave one out; if its scores are cut off or rounded, as a "
            "sigmoid's at 1, let it give raw ones."
        )
    higher = np.flatnonzero(negative & (scores > lowest))
    if len(higher):
        warnings.warn(
            f"The teacher scores {len(higher)} document(s) that are not relevant above "
            f"a relevant one, first {first(higher)} (against "
            f"{lowest[higher[0]]:g}). They count as relevant. "
            "mine_hard_negatives(…, cross_encoder=teacher) leaves such documents out.",
            UserWarning,
            stacklevel=3,
        )


def _shifted(query: Ints, scores: Floats, lowest: Floats) -> Floats:
    """Scores less, of every query, the highest one below its lowest relevant one."""
    below = scores < lowest[query]  # all, where nothing is relevant
    zero = np.full(len(lowest), -np.inf)
    np.maximum.at(zero, query[below], scores[below])
    nothing = zero == -np.inf
    zero[nothing] = lowest[nothing]
    return scores - zero[query] + nothing[query]
