"""The probability that a retrieved document is relevant, and cut-offs on it."""

from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags, check_scalar, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skembft._data.containers import to_rows
from skembft._data.encoded import encode
from skembft._data.items import check_items
from skembft._utils.estimators import DocLink, PlainParameters, tag_text_input
from skembft._utils.types import Bools, Data, Floats, Ints, OwnDocuments, Vectors
from skembft._utils.vectors import check_same_width, to_array, unit_rows
from skembft.calibration._levels import Levels
from skembft.calibration._thresholds import (
    conformal_cutoff,
    threshold_of_precision,
    threshold_of_recall,
)
from skembft.encoders._sentence import as_encoder
from skembft.metrics._ranking import random_ties, top_k
from skembft.metrics._scoring import (
    check_retriever,
    encode_with,
    item_kind,
    read_for,
    unwrap,
)

_BLOCK = 2**14  # pairs whose vectors are multiplied at a time


class RelevanceCalibrator(DocLink, PlainParameters, BaseEstimator):
    """Turn the scores of a retriever into probabilities of relevance.

    A cosine of 0.5 means one thing before a fine-tuning and another after it; a
    probability of 0.5 means that every second such document is relevant. The retriever
    is never fitted here: on queries that it has not seen, `fit` learns how often a
    retrieved document of a score is relevant.

    Read more in the :doc:`guide on calibration </calibration>`.

    Parameters
    ----------
    retriever : str, encoder, fitted finetuner, Pipeline or fitted search
        A str is the name or directory of a model: ``SentenceEncoder(name)``. What
        finetuners have as `exclude_self` holds here too.
    method : {"sigmoid", "isotonic"}, default="sigmoid"
        As in :class:`sklearn.calibration.CalibratedClassifierCV`, which does it.
        "sigmoid" rises strictly with the score. "isotonic" takes any shape, needs a
        thousand pairs and more, and gives one probability to a range of scores.
    k : int, default=10
        Documents of every query that are looked at: as many as you will retrieve.

    Attributes
    ----------
    calibrator_ : CalibratedClassifierCV
        Of a score (a column) the probability.
    classes_ : ndarray of shape (2,)
        0 (not relevant) and 1 (relevant), the columns of `predict_proba`.
    scores_, relevant_ : ndarray of shape (n_pairs,)
        Score and relevance of the pairs that `fit` has looked at.
    answer_scores_ : ndarray of shape (n_queries,)
        Of every held-out query with a relevant document the highest score of one that
        is among its `k` best; -inf where none is.
    n_relevant_ : int
        Relevant documents of all held-out queries, retrieved or not.

    See Also
    --------
    skembft.inspection.compare_retrieval : Which of two retrievers ranks better.

    Notes
    -----
    **What a probability refers to.** The pairs of a query and one of its `k` best
    documents, for queries like those of `fit` and their corpus. A document that nobody
    has judged counts as not relevant, as everywhere in retrieval; one is relevant if
    its grade is above 0. A query of which all grades are 0 counts with all its pairs:
    pass some, ``y=[…, {"some document": 0}]``, if users ask what the corpus does not
    answer. Another corpus, `k`, or kind of query, and above all another fit of the
    retriever, needs another `fit`.

    **Clones.** As in scikit-learn, `clone` (and so `cross_validate` and every search)
    makes unfitted copies of the retriever too. ``RelevanceCalibrator(FrozenEstimator(
    finetuner))`` keeps it fitted; encoders need no fit.

    References
    ----------
    J. Platt, "Probabilistic Outputs for Support Vector Machines", 1999.

    B. Zadrozny, C. Elkan, "Transforming Classifier Scores into Accurate Multiclass
    Probability Estimates", KDD 2002.

    V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World", 2005;
    A. Angelopoulos, S. Bates, "A Gentle Introduction to Conformal Prediction and
    Distribution-Free Uncertainty Quantification", arXiv:2107.07511.

    Examples
    --------
    >>> import numpy as np
    >>> from skembft import PrecomputedEncoder
    >>> from skembft.calibration import RelevanceCalibrator
    >>> rng = np.random.RandomState(0)
    >>> names = np.arange(60)
    >>> vectors = rng.normal(size=(60, 8))
    >>> near = vectors + 0.5 * rng.normal(size=(60, 8))
    >>> index = PrecomputedEncoder((names, near), (names, vectors))
    >>> calibrator = RelevanceCalibrator(index, k=5)
    >>> calibrator = calibrator.fit(names[:40], names[:40], corpus=names)
    >>> threshold = calibrator.threshold(precision=0.9)
    >>> indices, probabilities = calibrator.retrieve(
    ...     names[40:43], names, threshold=threshold
    ... )
    >>> indices
    array([[40, -1, -1, -1, -1],
           [41, -1, -1, -1, -1],
           [42, -1, -1, -1, -1]])
    """

    _doc_link_template = (
        "https://skembft.readthedocs.io/en/latest/api.html"
        "#skembft.calibration.{estimator_name}"
    )
    _parameter_constraints: dict = {
        "retriever": "no_validation",  # check_retriever says more
        "method": [StrOptions({"sigmoid", "isotonic"})],
        "k": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, retriever: Any, *, method: str = "sigmoid", k: int = 10) -> None:
        self.retriever = retriever
        self.method = method
        self.k = k

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Data, y: Data = None, *, corpus: Data = None) -> Self:
        """Learn from held-out queries how often a score means relevance.

        Parameters
        ----------
        X, y : same forms as in ``fit`` of the retriever
            Queries that the retriever was neither trained on nor chosen by, and their
            relevant documents.
        corpus : array-like of documents, default=None
            More documents to retrieve from, besides those of `y`: all that users
            search.

        Returns
        -------
        self : object

        Raises
        ------
        NotFittedError
            The retriever is not fitted.
        ValueError
            Bad data; none, or all, of the retrieved documents are relevant; with
            ``method="sigmoid"``, relevant documents score lower than others.
        """
        scores, relevant, answers, n_relevant = self._judge(X, y, corpus)
        if relevant.all() or not relevant.any():
            which = "all" if relevant.all() else "none"
            raise ValueError(
                f"Of the {len(relevant)} documents that the held-out queries retrieve "
                f"{which} are relevant, and nothing tells scores apart. Check that y "
                "names documents as corpus does, or set another k."
            )
        rows = np.arange(len(scores))  # nothing is fitted on folds
        calibrator = CalibratedClassifierCV(
            FrozenEstimator(_Score().fit()), method=self.method, cv=[(rows, rows)]
        ).fit(scores[:, None], relevant.astype(int))
        extremes = np.array([[scores.min()], [scores.max()]])
        low, high = calibrator.predict_proba(extremes)[:, 1]
        if low > high:
            raise ValueError(
                f"Of the {self.k} best documents of the held-out queries, relevant "
                "ones score lower than others: no cut-off on such scores makes sense. "
                "More queries or a larger k may tell more."
            )
        self.calibrator_ = calibrator
        self.classes_ = calibrator.classes_
        self.scores_, self.relevant_ = scores, relevant
        self.answer_scores_, self.n_relevant_ = answers, n_relevant
        self._levels = Levels(scores)
        return self

    def predict_proba(self, pairs: Data) -> Floats:
        """Return the probability that documents are relevant to queries.

        Parameters
        ----------
        pairs : table of n (query, document) rows
            Of a retriever of vectors an ndarray of shape (n, 2, d).

        Returns
        -------
        probabilities : ndarray of shape (n, 2)
            Of being not relevant, and of being relevant; see `classes_`.
        """
        check_is_fitted(self)
        queries, documents = _columns(pairs)
        retriever, queries = unwrap(as_encoder(self.retriever), queries)
        data = read_for(retriever, queries, documents)
        query_vectors, document_vectors, similarity = encode_with(retriever, data)
        if similarity == "cosine":
            query_vectors = unit_rows(query_vectors)
            document_vectors = unit_rows(document_vectors)
        scores = [
            np.einsum(
                "ij,ij->i",
                query_vectors[data.row_query[data.example_row[at]]],
                document_vectors[data.example_document[at]],
            )
            for at in gen_batches(len(data.example_row), _BLOCK)
        ]
        probability = self._probability(np.concatenate(scores))
        return np.column_stack([1 - probability, probability])

    def judge(
        self, X: Data, y: Data = None, *, corpus: Data = None
    ) -> tuple[Ints, Floats]:
        """Return relevance and probability of all pairs that queries retrieve.

        For `sklearn.metrics.brier_score_loss`,
        `sklearn.calibration.CalibrationDisplay.from_predictions` and their like: are
        the probabilities right for queries that `fit` has not seen either?

        Parameters
        ----------
        X, y, corpus : as in `fit`

        Returns
        -------
        relevant : int ndarray of shape (n_pairs,)
            1 where the document is relevant, of the `k` best of every query.
        probabilities : ndarray of shape (n_pairs,)
        """
        check_is_fitted(self)
        scores, relevant, _, _ = self._judge(X, y, corpus)
        return relevant.astype(int), self._probability(scores)

    def threshold(
        self,
        *,
        precision: float | None = None,
        recall: float | None = None,
        coverage: float | None = None,
    ) -> float:
        """Return the probability from which on documents pass; ask for one thing.

        Parameters
        ----------
        precision : float in (0, 1], default=None
            The lowest threshold at which so large a share of the held-out pairs that
            pass is relevant.
        recall : float in (0, 1], default=None
            The highest threshold at which so large a share of all relevant documents
            of the held-out queries passes. Those that are not among the `k` best of
            their query count as well: they never pass.
        coverage : float in (0, 1), default=None
            For "the answer is not in the corpus": a new query that has an answer there
            retrieves it, or one of them, above the threshold with a probability of at
            least `coverage`. Where nothing passes, say that there is no answer.

        Returns
        -------
        threshold : float
            For `retrieve`.

        Raises
        ------
        ValueError
            It cannot be reached; the message names the highest value that can.

        Notes
        -----
        Precision and recall are those of the pairs in `fit`, over all queries together;
        of new queries they differ by chance, in both directions. A score that differs
        from one of these by a millionth of the highest, as the same pair's does in
        another batch, counts as equal to it, in all that this class computes.

        The coverage is a guarantee of split conformal prediction (references of the
        class): with n held-out queries that have an answer, the cut-off is the score
        that ``ceil((n + 1) * coverage)`` of their answers reach. It holds whatever the
        model and the distribution of scores, if a new query is exchangeable with the
        held-out ones (drawn alike, and the retriever has seen neither) and retrieves
        `k` documents of the same corpus. It is a mean over draws of held-out queries
        and of new ones, no promise for every single query or draw: of 100 held-out
        queries one gets 0.9 with a standard deviation of 0.03. Without ties of scores
        the probability is at most ``coverage + 1 / (n + 1)``; with
        ``method="isotonic"`` all scores of a level pass together, and it may be higher.
        """
        check_is_fitted(self)
        wanted = {"precision": precision, "recall": recall, "coverage": coverage}
        given = {name: value for name, value in wanted.items() if value is not None}
        if len(given) != 1:
            raise ValueError(
                "threshold takes exactly one of precision, recall and coverage, got "
                f"{given or 'none'}."
            )
        [(name, value)] = given.items()
        boundaries = "neither" if name == "coverage" else "right"
        _check_share(value, name, boundaries)
        if coverage is not None:
            cutoff = conformal_cutoff(self.answer_scores_, coverage, self.k)
            return float(self._probability(np.array([cutoff]))[0])
        probability = self._probability(self.scores_)
        if precision is not None:
            return threshold_of_precision(self.relevant_, probability, precision)
        return threshold_of_recall(
            self.relevant_, probability, value, self.n_relevant_, self.k
        )

    def retrieve(
        self,
        X: Data,
        corpus: Data,
        k: int | None = None,
        *,
        threshold: float | None = None,
    ) -> tuple[Ints, Floats]:
        """Return the best documents of `corpus` for every query, with probabilities.

        Parameters
        ----------
        X : queries, as in `transform` of the retriever
        corpus : array-like of n_documents documents
            Or the matrix that `transform_documents` of the retriever made of them.
        k : int, default=None
            None means that of the calibrator, which its thresholds stand for.
        threshold : float in [0, 1], default=None
            Leave out documents that are relevant with a lower probability; see
            `threshold`. None leaves out none.

        Returns
        -------
        indices : int64 ndarray of shape (n, min(k, n_documents))
            Indices into `corpus`, best first; -1 where nothing else passes:
            ``row[row >= 0]`` is what does.
        probabilities : ndarray of the same shape
            That they are relevant; 0 where nothing passes.
        """
        check_is_fitted(self)
        if threshold is not None:
            _check_share(threshold, "threshold", "both")
        k = self.k if k is None else check_scalar(k, "k", Integral, min_val=1)
        indices, scores = _retrieve(self.retriever, X, corpus, k)
        probabilities = np.zeros(scores.shape)
        shown = indices >= 0
        probabilities[shown] = self._probability(scores[shown])
        if threshold is not None:
            fails = probabilities < threshold
            indices[fails], probabilities[fails] = -1, 0
        return indices, probabilities

    def _judge(
        self, X: Data, y: Data, corpus: Data
    ) -> tuple[Floats, Bools, Floats, int]:
        """What `fit` keeps: `scores_`, `relevant_`, `answer_scores_`, `n_relevant_`."""
        retriever, X = unwrap(as_encoder(self.retriever), X)
        try:
            check_retriever(retriever)
        except NotFittedError:
            raise NotFittedError(
                f"The retriever, {type(retriever).__name__}, is not fitted, and "
                "RelevanceCalibrator does not fit it: fit it on other queries first. A "
                "clone is not fitted either; FrozenEstimator(retriever) stays so."
            ) from None
        own: OwnDocuments = getattr(retriever, "exclude_self", False)
        data = read_for(retriever, X, y, corpus, own)
        exclude = data.excluded(own)
        if exclude is None:
            exclude = data.relevance.self_index
        queries, documents, similarity = encode_with(retriever, data)
        indices, scores = top_k(
            queries,
            documents,
            self.k,
            similarity=similarity,
            exclude=exclude,
            ties=random_ties(len(documents)),
        )
        scores = scores.astype(np.float64)
        relevant = data.relevance.grades(np.arange(data.n_queries), indices) > 0
        answers = np.where(relevant, scores, -np.inf).max(axis=1)
        shown, n_relevant = indices >= 0, data.relevance.n_relevant
        answers = answers[n_relevant > 0]
        return scores[shown], relevant[shown], answers, int(n_relevant.sum())

    def _probability(self, scores: Floats) -> Floats:
        """The probability of relevance of every score."""
        column = self._levels.snap(np.asarray(scores, dtype=np.float64))[:, None]
        return self.calibrator_.predict_proba(column)[:, 1] if len(column) else scores

    def __sklearn_tags__(self) -> Tags:
        return tag_text_input(super().__sklearn_tags__())


class _Score(ClassifierMixin, BaseEstimator):
    """A classifier whose decision is the only feature, for `CalibratedClassifierCV`."""

    def fit(self, X: Data = None, y: Data = None) -> Self:
        self.classes_ = np.array([0, 1])
        return self

    def decision_function(self, X: Vectors) -> Floats:
        return X[:, 0]


def _columns(pairs: Data) -> tuple[Data, Data]:
    """Queries and documents of a table of pairs, or of an array (n, 2, d)."""
    if getattr(pairs, "ndim", 0) == 3 and pairs.shape[1] == 2:
        return pairs[:, 0], pairs[:, 1]
    rows, is_table = to_rows(pairs, "pairs")
    if not is_table or len(rows[0]) != 2:
        raise ValueError(
            "pairs must be a table of (query, document) rows, or of vectors an array "
            "of shape (n, 2, d); see the guide on data forms."
        )
    return [row[0] for row in rows], [row[1] for row in rows]


def _check_share(value: float, name: str, boundaries: str) -> None:
    check_scalar(value, name, Real, min_val=0, max_val=1, include_boundaries=boundaries)
    if value != value:
        raise ValueError(f"{name} is NaN; pass a number between 0 and 1.")


def _retrieve(retriever: Any, X: Data, corpus: Data, k: int) -> tuple[Ints, Floats]:
    """What a finetuner's `retrieve` gives, of encoders too."""
    retriever, X = unwrap(as_encoder(retriever), X)
    if hasattr(retriever, "retrieve"):
        return retriever.retrieve(X, corpus, k)
    if getattr(corpus, "ndim", 1) == 2:
        documents = to_array(corpus, "The document vectors")
    else:
        corpus = check_items(corpus, "corpus", item_kind(retriever))
        documents = encode(retriever, corpus, "document")
    queries = encode(retriever, X, "query")
    check_same_width(queries, documents)
    return top_k(
        queries,
        documents,
        k,
        similarity=getattr(retriever, "_similarity", "cosine"),
    )
