"""Ending a training when a metric has stopped improving."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any
from weakref import WeakKeyDictionary

from sklearn.callback import CallbackContext
from sklearn.utils._param_validation import Interval, validate_params

from skembft._finetuner.base import BaseFinetuner
from skembft._finetuner.history import Entry
from skembft._utils.types import Data
from skembft.callbacks._base import FinetunerCallback, is_epoch, watched
from skembft.metrics import RetrievalScorer
from skembft.metrics._measures import check_metrics


class EarlyStopping(FinetunerCallback):
    """Callback that ends training when a metric has stopped improving.

    Set it on a finetuner, wherever that is: alone, in a `Pipeline`, in a search or in
    `cross_validate`. It may also be set on the outermost search or pipeline, which pass
    it on to the finetuners inside (`HalvingGridSearchCV` does not).

    With `X_val` and `y_val` the model as it is after every epoch is scored on them; of
    the five adapters of ``validation_fraction="auto"`` the first. Being held by the
    callback, they are neither sliced into folds nor routed. Without them the callback
    watches the finetuner's own validation (`validation_fraction`, or `X_val` in `fit`),
    as `n_iter_no_change` does, in epochs.

    A callback stops training and chooses nothing: where ``negatives="auto"`` compares
    several, each is stopped for itself. What a finetuner keeps is the best
    evaluation of its own validation; where it has none, the weights of the last epoch,
    `n_iter_no_change` epochs past the best one. A refit is not stopped.

    Parameters
    ----------
    X_val, y_val : same forms as X and y of ``fit``, default=None
        What to score the model on. None watches the finetuner's own validation.
    corpus : array-like of documents, default=None
        More documents to retrieve from, with `X_val`.
    scoring : str, default=None
        The metric. None means the finetuner's `scoring`.
    n_iter_no_change : int, default=5
        Stop after so many epochs without improvement, counted from the untouched model.
    tol : float, default=0.0
        What a metric must gain to have improved.

    Raises
    ------
    ValueError
        In ``fit``, before anything is trained, where there is nothing to watch.

    Notes
    -----
    Scoring `X_val` encodes their texts anew every epoch where the whole model is
    trained. A pickled estimator carries its callbacks, and so `X_val`. After a resumed
    checkpoint the epochs before it count only in the finetuner's own validation.

    Examples
    --------
    >>> import numpy as np
    >>> from skembft import AdapterFinetuner
    >>> from skembft.callbacks import EarlyStopping
    >>> rng = np.random.RandomState(0)
    >>> documents = rng.normal(size=(80, 8))
    >>> queries = documents[:, ::-1] + rng.normal(size=(80, 8))
    >>> finetuner = AdapterFinetuner(None, validation_fraction=None, epochs=500)
    >>> stopping = EarlyStopping(queries[60:], documents[60:], n_iter_no_change=3)
    >>> finetuner = finetuner.set_callbacks(stopping).fit(queries[:60], documents[:60])
    >>> finetuner.best_epoch_ < 500
    True
    """

    @validate_params(
        {
            "X_val": "no_validation",
            "y_val": "no_validation",
            "corpus": "no_validation",
            "scoring": [str, None],
            "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
            "tol": [Interval(Real, 0, None, closed="left")],
        },
        prefer_skip_nested_validation=True,
    )
    def __init__(
        self,
        X_val: Data = None,
        y_val: Data = None,
        *,
        corpus: Data = None,
        scoring: str | None = None,
        n_iter_no_change: int = 5,
        tol: float = 0.0,
    ) -> None:
        super().__init__()
        if scoring is not None:
            check_metrics(scoring)
        if X_val is None and (y_val is not None or corpus is not None):
            raise ValueError("y_val and corpus go with X_val, which is None.")
        self.X_val, self.y_val, self.corpus = X_val, y_val, corpus
        self.scoring = scoring
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        # of every fit that is running, by its context: fits share a callback
        self._scores: WeakKeyDictionary[
            CallbackContext, dict[str | None, list[Entry]]
        ] = WeakKeyDictionary()

    def on_fit_task_begin(
        self, estimator: Any, context: CallbackContext, *, fitted_estimator: Any = None
    ) -> None:
        """Look at the untouched model, before the first epoch."""
        if is_epoch(estimator, context) and context.task_id == 0:
            self._without_gain(context, fitted_estimator)

    def on_fit_task_end(
        self, estimator: Any, context: CallbackContext, *, fitted_estimator: Any = None
    ) -> bool:
        """Return whether to stop, at the end of an epoch."""
        if not is_epoch(estimator, context):
            return False
        return self._without_gain(context, fitted_estimator) >= self.n_iter_no_change

    def _without_gain(self, context: CallbackContext, fitted: BaseFinetuner) -> float:
        """Number of epochs between the best evaluation and the last one."""
        metric = self.scoring or fitted.scoring
        history = self._history(context, fitted, metric)
        best = history[0]
        for entry in history:
            if entry[metric] > best[metric] + self.tol:
                best = entry
        return history[-1]["epoch"] - best["epoch"]

    def _history(
        self, context: CallbackContext, fitted: BaseFinetuner, metric: str
    ) -> Sequence[Entry]:
        """Entries with "epoch" and the metric, the untouched model's first.

        Where negatives are compared, those of the present ones.
        """
        negatives = getattr(fitted, "negatives_", None)
        if self.X_val is not None:
            scorer = RetrievalScorer(metric, corpus=self.corpus)
            runs = self._scores.setdefault(context.parent, {})
            untouched = next(iter(runs.values()), [])[:1]
            history = runs.setdefault(negatives, untouched)
            score = scorer(fitted, self.X_val, self.y_val)
            history.append({"epoch": len(history), metric: score})
            return history
        hint = "Pass EarlyStopping(X_val, y_val), or set"
        history = watched(self, fitted, metric, hint)
        return [e for e in history if e.get("negatives") in (None, negatives)]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_scores"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _scores=WeakKeyDictionary())
