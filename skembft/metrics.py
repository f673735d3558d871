"""Information-retrieval metrics: trec_eval's values, scikit-learn's interface.

Metric names always carry their cut-off: ``ndcg@10``, ``mrr@10``, ``map@100``,
``recall@100``, ``precision@10``, ``hit_rate@5``; the spellings of ir_measures
(``nDCG@10``, ``RR@10``, ``AP@100``, ``R@5``, ``P@5``, ``Success@5``) mean the same.
"""

import numbers
from collections.abc import Mapping

import numpy as np

from skembft._measures import check_metrics, query_values
from skembft._scoring import rank_estimator, unwrap
from skembft._utils import shorten

__all__ = ["RetrievalScorer", "evaluate"]


def evaluate(qrels, run, metrics="ndcg@10", *, per_query=False, exclude_self=False):
    """Compute metrics of a run as trec_eval does with ``-c``.

    Scores are compared as float32, ties are broken by document id, descending, and
    every query of `qrels` counts: one without results or relevant documents counts 0.

    Parameters
    ----------
    qrels : dict of {query: {document: grade}}
        Relevance judgements; a document is relevant when its grade is above 0.
    run : dict of {query: {document: score}}
        Scores of retrieved documents. Queries that `qrels` lacks are ignored.
    metrics : str or list of str, default="ndcg@10"
    per_query : bool, default=False
        Return the values of every query instead of their means.
    exclude_self : bool, default=False
        Leave out of a query's results the document with the id of the query, as BEIR
        does where queries are documents themselves (ArguAna). Judgements stay as they
        are.

    Returns
    -------
    dict of {str: float}
        Keys are the names of the metrics as given. With `per_query` a dict of
        {query: {name: float}}, in the order of `qrels`.

    Raises
    ------
    ValueError
        Where a name is unknown, a score is NaN or infinite, or `qrels` is empty.

    References
    ----------
    trec_eval, https://github.com/usnistgov/trec_eval

    Examples
    --------
    >>> from skembft.metrics import evaluate
    >>> qrels = {"q1": {"d1": 1, "d2": 2}, "q2": {"d3": 1}}
    >>> run = {"q1": {"d1": 0.9, "d2": 0.8}, "q2": {"d1": 0.7, "d3": 0.6}}
    >>> evaluate(qrels, run, ["mrr@10", "R@1"])
    {'mrr@10': 0.75, 'R@1': 0.25}
    >>> evaluate(qrels, run, "mrr@10", per_query=True)
    {'q1': {'mrr@10': 1.0}, 'q2': {'mrr@10': 0.5}}
    """
    parsed = check_metrics(metrics)
    for name, mapping in (("qrels", qrels), ("run", run)):
        if not isinstance(mapping, Mapping) or not all(
            isinstance(value, Mapping) for value in mapping.values()
        ):
            raise TypeError(
                f"{name} must be a dict of dicts, {{query: {{document: number}}}}, "
                f"got {shorten(mapping)}."
            )
    if not qrels:
        raise ValueError("qrels is empty: there is no query to evaluate.")
    longest = max(map(len, [*qrels.values(), *run.values(), ()]))
    depth = min(max(k for _, k in parsed.values()), longest)
    shape = (len(qrels), depth)
    grades, ideal, n_relevant = np.zeros(shape), np.zeros(shape), np.zeros(len(qrels))
    for i, (query, judged) in enumerate(qrels.items()):
        _check_numbers(judged, f"qrels[{query!r}]")
        ranked = _ranked_documents(run.get(query, {}), query)
        if exclude_self:
            ranked = [document for document in ranked if document != query]
        ranked = ranked[:depth]
        grades[i, : len(ranked)] = [max(judged.get(d, 0), 0) for d in ranked]
        positive = sorted((g for g in judged.values() if g > 0), reverse=True)
        ideal[i, : len(positive[:depth])] = positive[:depth]
        n_relevant[i] = len(positive)
    values = query_values(parsed, grades, ideal, n_relevant)
    if per_query:
        rows = zip(*(value.tolist() for value in values.values()), strict=True)
        rows = (dict(zip(values, row, strict=True)) for row in rows)
        return dict(zip(qrels, rows, strict=True))
    return {name: float(value.mean()) for name, value in values.items()}


def _ranked_documents(scores, query):
    _check_numbers(scores, f"run[{query!r}]")
    try:
        documents = sorted(scores, reverse=True)
    except TypeError:
        raise TypeError(
            f"run[{query!r}] mixes document ids of different types: ties are broken by "
            "id, so make all of them str."
        ) from None
    values = np.asarray([scores[d] for d in documents], dtype=np.float64)
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"run[{query!r}] has a score beyond the range of float32.")
    return [documents[i] for i in np.argsort(-values, kind="stable")]


def _check_numbers(mapping, name):
    for document, value in mapping.items():
        if not isinstance(value, numbers.Real | np.bool_):
            raise TypeError(f"{name}[{document!r}] must be a number, got {value!r}.")
        if not np.isfinite(value):
            raise ValueError(f"{name}[{document!r}] must be finite, got {value}.")


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
    exclude_self : bool, default=False
        Let no query retrieve the document that is the same text or id: for data whose
        queries are documents of the corpus (BEIR's rule, as for ArguAna). Judgements
        stay as they are. Vectors with class labels never retrieve themselves.

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

    def __init__(self, metrics="ndcg@10", *, corpus=None, exclude_self=False):
        check_metrics(metrics)
        self.metrics = metrics
        self.corpus = corpus
        self.exclude_self = exclude_self

    def __call__(self, estimator, X, y=None):
        """Return the metric(s) of a fitted estimator on queries and their documents.

        Parameters
        ----------
        estimator : finetuner, encoder, Pipeline that ends in one, or fitted search
        X, y : data of any form
            See the guide on data forms. Steps of a `Pipeline` transform X, not the
            documents, as in ``Pipeline.score``.

        Returns
        -------
        float or dict of {str: float}
        """
        _, ranking = self._rank(estimator, X, y)
        means = {name: float(v.mean()) for name, v in ranking.values.items()}
        return means[self.metrics] if isinstance(self.metrics, str) else means

    def per_query(self, estimator, X, y=None):
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

    def _rank(self, estimator, X, y):
        estimator, X = unwrap(estimator, X)
        return rank_estimator(
            estimator,
            X,
            y,
            check_metrics(self.metrics),
            corpus=self.corpus,
            exclude_self=self.exclude_self,
        )

    @property
    def __name__(self):  # asked for by scikit-learn's displays
        return str(self.metrics)

    def __repr__(self):
        corpus = ""
        if self.corpus is not None:
            size = len(self.corpus) if hasattr(self.corpus, "__len__") else "?"
            corpus = f", corpus=<{size} documents>"
        exclude = ", exclude_self=True" if self.exclude_self else ""
        return f"{type(self).__name__}({self.metrics!r}{corpus}{exclude})"
