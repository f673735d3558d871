"""Evaluations during training: the best state, early stopping, what is told."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from skembft._finetuner.chance import Chance
from skembft._finetuner.divergence import check_growth, diverged
from skembft._finetuner.history import Entry, History
from skembft._utils.types import Floats
from skembft.exceptions import NoGainWarning

# validation queries below which chance decides
_FEW = 30
_TOO_FEW = (
    "So few queries tell little of it: pass X_val, or {more}; with "
    "validation_fraction=None nothing is asked."
)


class Monitor:
    """The history of a training run, its best state, and when to stop.

    A gain that chance may have made is none: `Chance` tells how sure it is.

    Parameters
    ----------
    metric : str
        What chooses the best state.
    patience : int or None
        Stop after so many evaluations without gain.
    validate : callable () -> dict of {metric: value of every query}, or None
        Scores the weights as they are now.
    snapshot : callable () -> state
        Copies the weights as they are now.
    growth : callable () -> float or None
        How many times larger the largest weight is than at the start, or than 1; None
        where nothing can diverge.
    advice : str
        What to try when training did not help.
    apart : int
        Epochs from an evaluation to the next, where no number of steps is set.
    weights : ndarray of shape (n_queries,) or None
        Of the queries in validation.
    in_folds : bool
        Whether all queries are in validation.
    """

    def __init__(
        self,
        metric: str,
        patience: int | None,
        validate: Callable[[], dict[str, Floats]] | None,
        snapshot: Callable[[], Any],
        growth: Callable[[], float | None],
        advice: str,
        apart: int,
        weights: Floats | None,
        in_folds: bool,
    ) -> None:
        self.metric = metric
        self.patience = patience
        self.validate = validate
        self.snapshot = snapshot
        self.growth = growth
        self.advice = advice
        self.apart = apart
        self.weights = weights
        self.in_folds = in_folds
        self.history: list[Entry] = []
        self.best_step, self.best_epoch = 0, 0.0
        self.best_score: float | None = None
        self.base_score: float | None = None
        self.best_state: Any = None  # of the trainer's kind, once there is one
        self.best_settings: dict[str, Any] = {}
        self.base_state: Any = None
        # of every query, by the metric
        self.values = self.base_values = np.empty(0)
        self.chance = Chance()
        self.trained_values = np.empty(0)  # at the best step, whatever share is kept
        self.run_settings: dict[str, Any] = {}  # of all evaluations of the present run
        self.run_score: float | None = None  # the best of it
        self.without_gain = 0
        self.steps_before = 0  # of the runs before the present one
        self.n_queries = 0  # of validation

    def start(self, **settings: Any) -> None:
        """Record the untouched model, which is a candidate like any other."""
        self._record(0, 0.0, None, settings)
        if self.validate is not None:
            self.base_score = self.best_score = self.history[0][self.metric]
            self.run_score = self.base_score
            if self.base_state is None:  # the trainer may have it already
                self.base_state = self.snapshot()
            self.best_state = self.base_state
            self.base_values = self.values

    def begin_run(self, **settings: Any) -> None:
        """Begin a run from the untouched model, to compare with those before.

        `settings` are recorded with every evaluation of it.
        """
        self.run_settings = settings
        if self.history:
            self.steps_before = self.history[-1]["step"]
            self.run_score, self.without_gain = self.base_score, 0

    def update(
        self,
        step: int,
        epoch: float,
        loss: float | np.floating | None,
        **settings: Any,
    ) -> bool:
        """Record an evaluation; return whether training should stop.

        `loss` is None where there is none; `settings` are recorded with the metrics.
        """
        if loss is not None and not np.isfinite(loss):
            raise diverged(f"The training loss became {loss} before step {step}")
        growth = self.growth()
        if growth is not None:
            check_growth(growth, step)
        step += self.steps_before
        settings = {**self.run_settings, **settings}
        self._record(step, epoch, None if loss is None else float(loss), settings)
        if self.validate is None:
            self.best_step, self.best_epoch = step, epoch
            self.best_settings = settings
            return False
        self.chance.add(self.values - self.base_values, self.weights)
        score = self.history[-1][self.metric]
        if self.best_score is None or score > self.best_score:
            self.best_step, self.best_epoch = step, epoch
            self._choose(settings)
            self.trained_values = self.values
        if self.run_score is None or score > self.run_score:
            self.run_score, self.without_gain = score, 0
        else:
            self.without_gain += 1
        return self.patience is not None and self.without_gain >= self.patience

    def consider(self, **settings: Any) -> None:
        """Choose the weights as they are now, in place of those of the best step."""
        settings = {**self.best_settings, **settings}
        self._record(self.best_step, self.best_epoch, None, settings)
        self._choose(settings)

    def _choose(self, settings: dict[str, Any]) -> None:
        self.best_score = self.history[-1][self.metric]
        self.best_state, self.best_settings = self.snapshot(), settings

    def finish(self, keep: bool = True) -> None:
        """Choose what is kept; warn when that is the untouched model.

        `keep` is whether the gain is sure enough.
        """
        if self.validate is None:
            self.best_state = self.snapshot()
            return
        if keep and self.best_step and self._is_better():
            return
        advice = self.advice
        if self.n_queries < _FEW:
            larger = "hold out more by a larger validation_fraction"
            advice = _TOO_FEW.format(more="label more" if self.in_folds else larger)
        warnings.warn(
            f"Training did not help: {self._why()}, so the untouched model is kept. "
            f"{advice}",
            NoGainWarning,
            stacklevel=6,
        )
        self.best_step, self.best_epoch, self.best_settings = 0, 0.0, {}
        self.best_score, self.best_state = self.base_score, self.base_state

    def _is_better(self) -> bool:
        assert self.best_score is not None and self.base_score is not None
        return self.best_score > self.base_score

    def _why(self) -> str:
        """Why the untouched model is kept."""
        score = f"validation {self.metric} of {self.base_score:.4f}"
        if not self.best_step:
            return (
                f"no evaluation beat the untouched model's {score}, over "
                f"{self.n_queries} queries"
            )
        gains = self.trained_values - self.base_values
        gain = np.average(gains, weights=self.weights)
        changed = np.count_nonzero(gains)
        return (
            f"a gain of {gain:.4f} over the untouched model's {score} may be "
            f"chance, p = {self.chance.p_value:.2f}: {changed} of "
            f"{self.n_queries} queries changed"
        )

    def attributes(self) -> dict[str, Any]:
        """The fitted attributes that tell of the training so far."""
        chose = None if self.validate is None else self.metric
        return {
            "history_": History(self.history, metric=chose, best_step=self.best_step),
            "n_iter_": max(entry["step"] for entry in self.history),
            "best_step_": self.best_step,
            "best_epoch_": float(self.best_epoch),
            "base_score_": self.base_score,
            "validation_score_": self.best_score,
        }

    def progress(self) -> dict[str, Any]:
        """What `restore` needs besides the best state, as JSON values."""
        names = ("history", "best_step", "best_epoch", "best_score", "base_score")
        run = ("best_settings", "run_score", "without_gain", "n_queries")
        values = ("base_values", "trained_values")
        return {
            **{name: getattr(self, name) for name in (*names, *run)},
            **{name: getattr(self, name).tolist() for name in values},
            "chance": self.chance.progress(),
        }

    def restore(self, progress: dict[str, Any], best_state: Any) -> None:
        """Go on where another monitor was."""
        progress = progress.copy()
        self.chance.restore(progress.pop("chance"))
        for name, value in progress.items():
            setattr(self, name, value)
        for name in ("base_values", "trained_values"):
            setattr(self, name, np.array(getattr(self, name)))
        self.best_state = best_state

    def _record(
        self, step: int, epoch: float, loss: float | None, settings: dict[str, Any]
    ) -> None:
        entry = {"step": step, "epoch": epoch, "loss": loss, **settings}
        if self.validate is not None:
            values = self.validate()
            for name, value in values.items():
                entry[name] = float(np.average(value, weights=self.weights))
            chosen_by = values[self.metric]
            self.values = np.asarray(chosen_by)
            self.n_queries = len(chosen_by)
            entry["standard_error"] = _standard_error(chosen_by, self.weights)
        self.history.append(entry)


def _standard_error(values: Floats, weights: Floats | None) -> float | None:
    """Of the mean of a sample; None where a single value tells nothing of it."""
    n = len(values)
    if n < 2:
        return None
    share = np.full(n, 1 / n) if weights is None else weights / weights.sum()
    deviations = share * (values - share @ values)
    return float(np.sqrt(n / (n - 1) * (deviations @ deviations)))
