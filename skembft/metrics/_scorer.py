"""The scorer for searches and cross-validation."""

from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.utils.metadata_routing import MetadataRequest

from skembft._data.retrieval_data import RetrievalData
from skembft._utils.types import Data, Floats, MetricNames, OwnDocuments
from skembft.metrics._measures import check_metrics
from skembft.metrics._scoring import (
    Ranking,
    check_corpus,
    check_own,
    rank_estimator,
    read_for,
    unwrap,
)


class RetrievalScorer:
    """Score retrieval with scikit-learn's ``scorer(estimator, X, y)`` interface.

    One ranking serves any number of metrics. Works as `scoring` of `GridSearchCV`,
    `cross_validate` and their like, with metadata routing on or off: the corpus is held
    by the scorer, so that it is neither routed nor sliced.

    Parameters
    ----------
    metrics : str or list of str, default="ndcg@10"
        One name gives a float, a list gives a dict (for a search, name the metric that
        chooses: ``GridSearchCV(..., refit="ndcg@10")``).
    corpus : list of str or None, default=None
        Documents to retrieve from besides those of ``y``. Without it the pool is what
        the test fold happens to hold, and scores of different folds, test sizes and
        searches are not comparable.
    exclude_self : bool or dict of {query: document}, default=None
        Let no query retrieve the document that it is itself: the same text or id, or
        what the dict says. For data whose queries are documents of the corpus (BEIR's
        rule, as for ArguAna). Judgements stay as they are. Vectors with class labels
        never retrieve themselves. None means what the estimator has as `exclude_self`,
        and False where it has none.

    Examples
    --------
    >>> import numpy as np
    >>> from skembft import PrecomputedEncoder
    >>> from skembft.metrics import RetrievalScorer
    >>> index = PrecomputedEncoder({"q": [1.0, 0.1], "a": [0.9, 0], "b": [0, 1.0]})
    >>> RetrievalScorer("mrr@10", corpus=["a", "b"])(index, ["q"], ["b"])
    0.5
    >>> RetrievalScorer(["R@1", "R@2"], corpus=["a", "b"])(index, ["q"], ["b"])
    {'R@1': 0.0, 'R@2': 1.0}
    """

    _requests: dict[str, bool | str | None] = {"sample_weight": None}  # noqa: RUF012

    def __init__(
        self,
        metrics: MetricNames = "ndcg@10",
        *,
        corpus: Data = None,
        exclude_self: OwnDocuments | None = None,
    ) -> None:
        check_metrics(metrics)
        check_corpus(corpus)
        self.metrics = metrics
        self.corpus = corpus
        self.exclude_self = check_own(exclude_self)

    def __call__(
        self, estimator: Any, X: Data, y: Data = None, sample_weight: Data = None
    ) -> float | dict[str, float]:
        """Return the metric(s) of a fitted estimator on queries and their documents.

        Parameters
        ----------
        estimator : finetuner, encoder, Pipeline that ends in one, or fitted search
        X, y : data of any form
            See the guide on data forms. Steps of a `Pipeline` transform X, not the
            documents, as in ``Pipeline.score``.
        sample_weight : array-like of shape (n,), default=None
            Weight of every row of X; a query has the mean of its rows' weights. A
            search passes it on where ``set_score_request(sample_weight=True)`` asks.

        Returns
        -------
        float or dict of {str: float}
        """
        data, ranking = self._rank(estimator, X, y, sample_weight)
        weights = None if data.weights is None else data.weights[ranking.queries]
        means = {
            name: float(np.average(values, weights=weights))
            for name, values in ranking.values.items()
        }
        return means[self.metrics] if isinstance(self.metrics, str) else means

    def per_query(
        self, estimator: Any, X: Data, y: Data = None
    ) -> Floats | dict[str, Floats]:
        """Return the metric(s) of every distinct query.

        Parameters
        ----------
        estimator, X, y
            As in a call.

        Returns
        -------
        ndarray of shape (n_queries,), or dict of {str: ndarray}
            In order of the queries' first appearance in X; NaN for those without a
            relevant document, which a score leaves out.
        """
        data, ranking = self._rank(estimator, X, y)
        values = {}
        for name, found in ranking.values.items():
            values[name] = np.full(data.n_queries, np.nan)
            values[name][ranking.queries] = found
        return values[self.metrics] if isinstance(self.metrics, str) else values

    def set_score_request(self, *, sample_weight: bool | str | None) -> Self:
        """Say whether a search passes `sample_weight` on to this scorer.

        Where metadata routing is on.

        Parameters
        ----------
        sample_weight : bool, str or None
            True: yes; False: no; None: it is an error to pass it; a str: its name.

        Returns
        -------
        self : object
        """
        self._requests = {"sample_weight": sample_weight}
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """What this scorer asks for, as scikit-learn's searches want to know."""
        request = MetadataRequest(owner=self)
        for param, alias in self._requests.items():
            request.score.add_request(param=param, alias=alias)
        return request

    def _rank(
        self, estimator: Any, X: Data, y: Data, sample_weight: Data = None
    ) -> tuple[RetrievalData, Ranking]:
        estimator, X = unwrap(estimator, X)
        exclude_self = self.exclude_self
        if exclude_self is None:
            exclude_self = getattr(estimator, "exclude_self", False)
        data = read_for(estimator, X, y, self.corpus, exclude_self)
        data = replace(data, weights=data.query_weights(sample_weight))
        exclude = data.excluded(exclude_self)
        metrics = check_metrics(self.metrics)
        return data, rank_estimator(estimator, data, metrics, exclude=exclude)

    @property
    def __name__(self) -> str:  # asked for by scikit-learn's displays
        return str(self.metrics)

    def __repr__(self) -> str:
        corpus = ""
        if self.corpus is not None:
            size = len(self.corpus) if hasattr(self.corpus, "__len__") else "?"
            corpus = f", corpus=<{size} documents>"
        exclude = ""
        if isinstance(self.exclude_self, bool):
            exclude = f", exclude_self={self.exclude_self}"
        elif self.exclude_self is not None:
            exclude = f", exclude_self=<{len(self.exclude_self)} queries>"
        return f"{type(self).__name__}({self.metrics!r}{corpus}{exclude})"
