"""The evaluations of a training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from skembft.inspection import TrainingHistoryDisplay

Entry: TypeAlias = dict[str, Any]  # an evaluation


class History(list[Entry]):
    """The evaluations of a training, as a list of dicts that can plot itself.

    Parameters
    ----------
    entries : iterable of dict
        Each has "step", "epoch", "loss" and, with validation, the metrics; the first
        is the untouched model at step 0.
    metric : str or None
        The metric that chose the best step; None without validation.
    best_step : int
        The step whose weights were chosen; 0 is the untouched model.
    """

    def __init__(
        self,
        entries: Iterable[Entry] = (),
        *,
        metric: str | None = None,
        best_step: int | None = 0,
    ) -> None:
        super().__init__(entries)
        self.metric = metric
        self.best_step = best_step

    def plot(
        self, metric: str | None = None, *, ax: Any = None
    ) -> TrainingHistoryDisplay:
        """Draw the training loss and a validation metric, with the best step marked.

        Parameters
        ----------
        metric : str, default=None
            Any metric of the entries. None means the one that chose the best step.
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        display : TrainingHistoryDisplay
        """
        from skembft.inspection import TrainingHistoryDisplay

        display = TrainingHistoryDisplay(
            self,
            metric=metric or self.metric,
            best_step=self.best_step,
            standard_error=metric in (None, self.metric),
        )
        return display.plot(ax=ax)
