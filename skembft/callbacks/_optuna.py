"""Pruning the trials of an Optuna study."""

import math
import os
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

from sklearn.callback import CallbackContext
from sklearn.utils._param_validation import HasMethods, validate_params

from skembft._finetuner.base import BaseFinetuner
from skembft._finetuner.history import Entry
from skembft._utils.optional import import_optional
from skembft.callbacks._base import FinetunerCallback, is_epoch, watched
from skembft.metrics._measures import check_metrics

_NOT_RAISED = (
    "error_score must be 'raise' in cross_val_score and searches: otherwise "
    "scikit-learn takes the pruning of a trial for a failed fit, and goes on."
)


class OptunaPruning(FinetunerCallback):
    """Callback that reports every epoch to an Optuna trial, which may end the fit.

    Make one in the objective, for its trial, and set it on the finetuner: alone, in a
    `Pipeline`, in `cross_val_score` or in a search; or on the outermost pipeline or
    search. Where the study prunes the trial, `fit` raises `optuna.TrialPruned`.

    Read more in the :doc:`guide on tuning </tuning>`.

    Parameters
    ----------
    trial : optuna.trial.Trial
        Of a study with ``direction="maximize"``.
    scoring : str, default=None
        The metric to report, of the finetuner's own validation. None means the
        finetuner's `scoring`.

    Raises
    ------
    ValueError
        In ``fit``, before anything is trained: the finetuner has no validation data or
        not this metric, or the study does not maximise one objective.
    RuntimeError
        In ``fit`` in a process other than the trial's, where its study may not hear.
    optuna.TrialPruned
        At the end of the epoch after which the study prunes. What the finetuner was
        before it still is, and checkpoints that it saved stay.

    See Also
    --------
    EarlyStopping : Ends a training that has stopped improving, whatever others do.

    Notes
    -----
    The value of an epoch is its best evaluation; an epoch without any has none, and a
    refit is not reported. Optuna's step is the number of epochs before, which begins at
    a multiple of the finetuner's `epochs` with every further training: the next fold of
    a cross-validation, or the next of the negatives that ``negatives="auto"`` compares.
    So equal steps are of equal folds and epochs in all trials of the same `epochs`.

    ``cross_val_score`` and searches need ``error_score="raise"``: otherwise
    scikit-learn takes the pruning of a trial for a failed fit.

    Examples
    --------
    >>> import numpy as np
    >>> from skembft import AdapterFinetuner
    >>> from skembft.callbacks import OptunaPruning
    >>> def objective(trial):
    ...     rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    ...     finetuner = AdapterFinetuner(None, learning_rate=rate, random_state=0)
    ...     finetuner.set_callbacks(OptunaPruning(trial))
    ...     return finetuner.fit(queries, documents).validation_score_
    >>> study = optuna.create_study(direction="maximize")  # doctest: +SKIP
    >>> study.optimize(objective, n_trials=20)  # doctest: +SKIP
    """

    @validate_params(
        {"trial": [HasMethods(["report", "should_prune"])], "scoring": [str, None]},
        prefer_skip_nested_validation=True,
    )
    def __init__(self, trial: Any, scoring: str | None = None) -> None:
        super().__init__()
        if scoring is not None:
            check_metrics(scoring)
        self.trial = trial
        self.scoring = scoring
        self._process = os.getpid()
        self._last = -1  # the last step that was reported
        self._pruned = False
        # of every fit that is running, by its context
        self._fits: WeakKeyDictionary[CallbackContext, _Fit] = WeakKeyDictionary()

    def setup(self, estimator: Any, context: CallbackContext) -> None:
        """Refuse what could not end in a pruned trial."""
        super().setup(estimator, context)
        if os.getpid() != self._process:
            raise RuntimeError(
                "OptunaPruning reports from the process of its trial, and this is "
                "another one. Run trials in parallel, not the folds of a trial: "
                "study.optimize in several processes with one storage, and n_jobs=1 "
                "inside of the objective."
            )
        study = getattr(self.trial, "study", None)  # a FixedTrial has none
        directions = [d.name.lower() for d in getattr(study, "directions", [])]
        if directions not in ([], ["maximize"]):
            raise ValueError(
                "OptunaPruning reports metrics of which more is better, and the "
                f"study's direction is {' and '.join(directions)}: "
                "optuna.create_study(direction='maximize')."
            )
        if getattr(estimator, "error_score", "raise") != "raise" or self._pruned:
            raise ValueError(_NOT_RAISED)

    def on_fit_task_begin(
        self, estimator: Any, context: CallbackContext, *, fitted_estimator: Any = None
    ) -> None:
        """Look whether there is something to watch, before the first epoch."""
        if is_epoch(estimator, context) and context.task_id == 0:
            watched(self, fitted_estimator, self.scoring or fitted_estimator.scoring)

    def on_fit_task_end(
        self, estimator: Any, context: CallbackContext, *, fitted_estimator: Any = None
    ) -> None:
        """Report the evaluations of an epoch; raise where the study prunes."""
        if not is_epoch(estimator, context):
            return
        fit = self._fits.setdefault(context.parent, _Fit())
        if not self._report(fit, fitted_estimator) or not self.trial.should_prune():
            return
        self._pruned = True
        optuna = import_optional("optuna", "OptunaPruning", "optuna")
        raise optuna.TrialPruned(f"The trial was pruned at step {self._last}.")

    def _report(self, fit: "_Fit", fitted: BaseFinetuner) -> bool:
        """Report what is new of a fit; return whether anything was."""
        metric = self.scoring or fitted.scoring
        new = fitted.history_[fit.n_seen :]
        fit.n_seen += len(new)
        for (negatives, epoch), entries in groupby(new, _epoch_of):
            if negatives not in fit.starts:
                length = getattr(fitted, "epochs", 1)
                fit.starts[negatives] = math.ceil((self._last + 1) / length) * length
            self._last = fit.starts[negatives] + epoch - 1
            self.trial.report(max(entry[metric] for entry in entries), self._last)
        return len(new) > 0

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_fits"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _fits=WeakKeyDictionary())


class _Fit:
    """What has been reported of a fit."""

    def __init__(self) -> None:
        self.n_seen = 1  # entries of its history, the untouched model's first
        self.starts: dict[str | None, int] = {}  # the first steps, by the negatives


def _epoch_of(entry: Entry) -> tuple[str | None, int]:
    """The training and the epoch, from 1, of an evaluation."""
    return entry.get("negatives"), math.ceil(entry["epoch"])
