"""Two retrievers on the same queries: how much better one is, how sure, and where."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, validate_params
from sklearn.utils.validation import check_is_fitted

from skembft._utils.estimators import thawed
from skembft._utils.types import Data, MetricNames, OwnDocuments, RandomState
from skembft.encoders._sentence import as_encoder
from skembft.inspection._comparison import RetrievalComparison
from skembft.inspection._rankings import rank_both
from skembft.metrics._measures import HISTORY_METRICS, check_metrics
from skembft.metrics._scoring import unwrap


@validate_params(
    {
        "confidence_level": [Interval(Real, 0, 1, closed="neither")],
        "exclude_self": ["boolean", Mapping, None],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def compare_retrieval(
    before: Any,
    after: Any,
    X: Data,
    y: Data = None,
    corpus: Data = None,
    metrics: MetricNames = HISTORY_METRICS,
    *,
    confidence_level: float = 0.95,
    exclude_self: OwnDocuments | None = None,
    random_state: RandomState = None,
) -> RetrievalComparison:
    """Compare two retrievers on the same queries, documents and judgements.

    Use queries that neither has been trained on or chosen by: the numbers then say what
    to expect of new ones.

    Parameters
    ----------
    before : str, encoder, fitted finetuner, Pipeline, fitted search or None
        A str is the name or directory of a model: ``SentenceEncoder(name)``. None means
        what `after` was fitted over: its encoder or, with ``encoder=None``, the vectors
        as they are.
    after : str, encoder, fitted finetuner, Pipeline or fitted search
    X, y : same forms as in ``fit``
        Queries and their relevant documents.
    corpus : array-like of documents, default=None
        More documents to retrieve from, besides those of `y`.
    metrics : str or list of str, default=nDCG, MRR, MAP, recall, precision, hit rate
        The first is what `best` and `worst` go by.
    confidence_level : float, default=0.95
        Of the intervals of the differences.
    exclude_self : bool or dict of {query: document}, default=None
        As in :class:`skembft.metrics.RetrievalScorer`. None means what the finetuners
        have as `exclude_self`, for both sides; where they differ it must be given.
    random_state : int, RandomState instance or None, default=None
        Of the bootstrap and of the test.

    Returns
    -------
    comparison : RetrievalComparison

    Notes
    -----
    Intervals are bias-corrected and accelerated bootstrap intervals of the mean
    difference over queries [1]_, of 9,999 resamples. Where queries gain more than 256
    different amounts, resamples count groups of like gains, and what varies within a
    group is drawn from a normal distribution: that changes no probability by more than
    0.003, and a million queries take no longer than a few thousand. Of one query, and
    of queries that all gained the same, be it nothing, there is no interval: nothing
    tells how much another query would gain. Its ends are NaN, and shown as "–".

    P-values are of the two-sided paired randomisation test, which swaps the two values
    of random queries [2]_, [3]_: all 2ⁿ swaps of the n queries that differ where these
    are 13 at most, else 9,999 random ones and what was observed, so that none is below
    0.0001. Each metric is tested by itself: of twenty that do not differ, one has
    p < 0.05.

    A metric has the same interval and p-value whatever other metrics are asked for.
    Both regard queries as independent draws, and tell nothing of another random seed of
    the training.

    References
    ----------
    .. [1] B. Efron, "Better Bootstrap Confidence Intervals", Journal of the American
       Statistical Association 82, 1987.
    .. [2] M. Smucker, J. Allan, B. Carterette, "A Comparison of Statistical
       Significance Tests for Information Retrieval Evaluation", CIKM 2007.
    .. [3] R. A. Fisher, "The Design of Experiments", 1935.

    Examples
    --------
    >>> from skembft import PrecomputedEncoder
    >>> from skembft.inspection import compare_retrieval
    >>> documents = {"a": [1, 0], "b": [0, 1]}
    >>> before = PrecomputedEncoder({"q1": [1, 0.5], "q2": [1, 0.9]}, documents)
    >>> after = PrecomputedEncoder({"q1": [1, 0.5], "q2": [0.9, 1]}, documents)
    >>> comparison = compare_retrieval(
    ...     before, after, ["q1", "q2"], ["a", "b"], metrics="mrr@10"
    ... )
    >>> comparison.rows[0]["difference"]
    0.25
    >>> comparison.best(1)[0].query
    'q2'
    """
    parsed = check_metrics(metrics)
    seed = check_random_state(random_state).randint(2**31 - 1)
    after, X_after = unwrap(as_encoder(after), X)
    if before is None:
        before, X_before = _untouched(after), X_after
    else:
        before, X_before = unwrap(as_encoder(before), X)
    rankings = rank_both(
        (before, X_before), (after, X_after), y, corpus, parsed, exclude_self
    )
    first, second = (side.values for side in rankings.sides)
    return RetrievalComparison(rankings, first, second, confidence_level, seed)


def _untouched(after: Any) -> Any:
    """What a finetuner was fitted over; None where that is vectors."""
    after = thawed(after)
    if not hasattr(after, "_checked_encoder"):
        raise TypeError(
            f"before=None means what after was fitted over, and {type(after).__name__} "
            "has no encoder: pass the name of its model, or another retriever."
        )
    check_is_fitted(after)
    return after._checked_encoder()
