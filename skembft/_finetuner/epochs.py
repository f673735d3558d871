"""Epochs, as scikit-learn's callbacks see them."""

import math
from collections.abc import Callable
from typing import Any

from skembft._utils.types import Data


class EpochTasks:
    """Tell scikit-learn's callbacks of every epoch, and hear when to stop.

    Parameters
    ----------
    estimator : estimator
    X, y : as passed to fit
    n_epochs : float
        The most epochs that a fit may train; infinity where it is not known.
    """

    def __init__(self, estimator: Any, X: Data, y: Data, n_epochs: float) -> None:
        self.estimator, self.X, self.y = estimator, X, y
        most = int(n_epochs) if math.isfinite(n_epochs) else None
        self.root = estimator._init_callback_context(max_subtasks=most)
        self.root.call_on_fit_task_begin(estimator=estimator, X=X, y=y)
        self.current: Any = None  # a context of scikit-learn's, as `root`
        self.refitting = False
        # () -> the fitted attributes as they are now
        self.attributes: Callable[[], dict[str, Any]] | None = None

    def begin(self) -> None:
        name = "refit-epoch" if self.refitting else "epoch"
        self.current = self.root.subcontext(task_name=name)
        self.current.call_on_fit_task_begin(
            estimator=self.estimator,
            X=self.X,
            y=self.y,
            reconstruction_attributes=self.attributes,
        )

    def end(self) -> bool:
        """Return whether a callback asks to stop.

        A refit is not stopped: how long it takes has been chosen.
        """
        stop = self.current.call_on_fit_task_end(
            estimator=self.estimator,
            X=self.X,
            y=self.y,
            reconstruction_attributes=self.attributes,
        )
        return stop and not self.refitting

    def close(self) -> None:
        self.root.call_on_fit_task_end(estimator=self.estimator, X=self.X, y=self.y)
