"""What callbacks on finetuners share: where they are set, and what they watch."""

import threading
from typing import Any

from sklearn.callback import CallbackContext

from skembft._finetuner.base import BaseFinetuner
from skembft._finetuner.history import History

# several searches of a process may use one callback
_passing_on = threading.Lock()


class FinetunerCallback:
    """A callback for finetuners, which may be set on what holds them instead.

    On a finetuner it stays there. Set on the outermost search or pipeline it is one of
    scikit-learn's auto-propagated callbacks for as long as that is fitted.
    """

    def __init__(self) -> None:
        self._n_passed_on = 0  # by how many estimators that are being fitted

    def setup(self, estimator: Any, context: CallbackContext) -> None:
        """Prepare for being passed on, where `estimator` is not a finetuner."""
        if isinstance(estimator, BaseFinetuner):
            return
        if context.parent is not None:
            raise TypeError(
                f"{type(self).__name__} is set on a {type(estimator).__name__} that is "
                "itself inside of another estimator: set it on the finetuner, or on "
                "the outermost estimator."
            )
        # which makes this one of scikit-learn's auto-propagated callbacks; on a
        # finetuner inside of a search they are refused
        with _passing_on:
            self._n_passed_on += 1
            self.max_propagation_depth = None

    def teardown(self, estimator: Any, context: CallbackContext) -> None:
        """Be what it was before `setup`, so that it can be set elsewhere."""
        if isinstance(estimator, BaseFinetuner) or context.parent is not None:
            return  # as `setup` has changed nothing
        with _passing_on:
            self._n_passed_on -= 1
            if not self._n_passed_on:
                del self.max_propagation_depth


def is_epoch(estimator: Any, context: CallbackContext) -> bool:
    """Whether a task is an epoch of a finetuner, and not one of its refit."""
    return isinstance(estimator, BaseFinetuner) and context.task_name == "epoch"


def watched(
    callback: FinetunerCallback, fitted: BaseFinetuner, metric: str, hint: str = ""
) -> History:
    """The history of a finetuner, if it has a metric; `hint` is another way to it."""
    who, history = type(callback).__name__, fitted.history_
    if history.metric is None:
        raise ValueError(
            f"{who} has nothing to watch: this {type(fitted).__name__} has no "
            f"validation data. {hint or 'Set'} validation_fraction, or pass X_val to "
            "fit."
        )
    if metric not in history[0]:
        recorded = [n for n in history[0] if "@" in n]
        raise ValueError(
            f"{who} watches {metric!r}, which history_ does not have. Set "
            f"scoring={metric!r} on the {type(fitted).__name__}, or watch one of "
            f"{', '.join(map(repr, recorded))}."
        )
    return history
