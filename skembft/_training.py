"""What both finetuners share while they train: validation, history, callbacks."""

import warnings

import numpy as np

HISTORY_METRICS = (
    "ndcg@10",
    "mrr@10",
    "map@100",
    "recall@10",
    "precision@10",
    "hit_rate@10",
)
# no sane training makes its largest weight so many times larger than it was (or than
# 1); in what is left of float32's digits the model that it started from is lost
_MAX_GROWTH = 1e4


def diverged(what):
    """Return the error that says that training has diverged, and what to do."""
    return ValueError(
        f"{what}: training has diverged. Lower learning_rate, or check the data and "
        "loss_params."
    )


def largest_weight(parameters):
    """The largest of torch parameters' absolute values; NaN where one is NaN."""
    import torch

    with torch.no_grad():
        # many times faster than the norm of order infinity
        ends = [torch.stack(torch.aminmax(p)) for p in parameters if p.numel()]
        return torch.stack(ends).abs().max().item() if ends else 0.0


class History(list):
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

    def __init__(self, entries=(), *, metric=None, best_step=0):
        super().__init__(entries)
        self.metric = metric
        self.best_step = best_step

    def plot(self, metric=None, *, ax=None):
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
            self, metric=metric or self.metric, best_step=self.best_step
        )
        return display.plot(ax=ax)


class Monitor:
    """The history of a training run, its best state, and when to stop.

    Parameters
    ----------
    metric : str
        What chooses the best state.
    patience : int or None
        Stop after so many evaluations without gain.
    validate : callable () -> dict of {metric: value}, or None
        Scores the weights as they are now.
    snapshot : callable () -> state
        Copies the weights as they are now.
    growth : callable () -> float, or None
        How many times larger the largest weight is than at the start, or than 1.
    advice : str
        What to try when training did not help.
    """

    def __init__(self, metric, patience, validate, snapshot, growth, advice):
        self.metric = metric
        self.patience = patience
        self.validate = validate
        self.snapshot = snapshot
        self.growth = growth
        self.advice = advice
        self.history = []
        self.best_step, self.best_epoch = 0, 0.0
        self.best_score = self.base_score = None
        self.best_state = None
        self.without_gain = 0

    def start(self, **settings):
        """Record the untouched model, which is a candidate like any other."""
        self._record(0, 0.0, None, settings)
        if self.validate is not None:
            self.base_score = self.best_score = self.history[0][self.metric]
            self.best_state = self.snapshot()

    def update(self, step, epoch, loss, **settings):
        """Record an evaluation; return whether training should stop.

        `loss` is None where there is none; `settings` are recorded with the metrics.
        """
        if loss is not None and not np.isfinite(loss):
            raise diverged(f"The training loss became {loss} before step {step}")
        if self.growth is not None:
            self._check_growth(self.growth(), step)
        self._record(step, epoch, None if loss is None else float(loss), settings)
        if self.validate is None:
            self.best_step, self.best_epoch = step, epoch
            return False
        score = self.history[-1][self.metric]
        if score > self.best_score:
            self.best_score, self.best_step, self.best_epoch = score, step, epoch
            self.best_state = self.snapshot()
            self.without_gain = 0
        else:
            self.without_gain += 1
        return self.patience is not None and self.without_gain >= self.patience

    def finish(self):
        """Choose what is kept; warn when that is the untouched model."""
        if self.validate is None:
            self.best_state = self.snapshot()
        elif self.best_step == 0:
            warnings.warn(
                "Training did not help: no evaluation beat the untouched model's "
                f"validation {self.metric} of {self.base_score:.4f}, so that model is "
                f"kept. {self.advice}",
                UserWarning,
                stacklevel=5,
            )

    def attributes(self):
        """The fitted attributes that tell of the training so far."""
        chose = None if self.validate is None else self.metric
        return {
            "history_": History(self.history, metric=chose, best_step=self.best_step),
            "n_iter_": self.history[-1]["step"],
            "best_step_": self.best_step,
            "best_epoch_": float(self.best_epoch),
            "base_score_": self.base_score,
            "validation_score_": self.best_score,
        }

    def progress(self):
        """What `restore` needs besides the best state, as JSON values."""
        names = ("history", "best_step", "best_epoch", "best_score", "base_score")
        return {n: getattr(self, n) for n in (*names, "without_gain")}

    def restore(self, progress, best_state):
        """Go on where another monitor was."""
        for name, value in progress.items():
            setattr(self, name, value)
        self.best_state = best_state

    @staticmethod
    def _check_growth(growth, step):
        """Raise an error where training diverged, whatever validation would keep.

        The loss need not tell: cosines are bounded, and weights of any size give some.
        """
        if not np.isfinite(growth):
            raise diverged(f"The weights became NaN or infinite before step {step}")
        if growth > _MAX_GROWTH:
            raise diverged(
                f"By step {step} the largest weight has become {growth:.2g} times as "
                "large as before training"
            )

    def _record(self, step, epoch, loss, settings):
        entry = {"step": step, "epoch": epoch, "loss": loss, **settings}
        if self.validate is not None:
            entry.update(self.validate())
        self.history.append(entry)


class EpochTasks:
    """Tell scikit-learn's callbacks of every epoch, and hear when to stop.

    Parameters
    ----------
    estimator : estimator
    X, y : as passed to fit
    n_epochs : int
        The most epochs that a fit may train.
    """

    def __init__(self, estimator, X, y, n_epochs):
        self.estimator, self.X, self.y = estimator, X, y
        self.root = estimator._init_callback_context(max_subtasks=n_epochs)
        self.root.call_on_fit_task_begin(estimator=estimator, X=X, y=y)
        self.current = None
        self.refitting = False
        # () -> the fitted attributes as they are now
        self.attributes = None

    def begin(self):
        name = "refit-epoch" if self.refitting else "epoch"
        self.current = self.root.subcontext(task_name=name)
        self.current.call_on_fit_task_begin(
            estimator=self.estimator,
            X=self.X,
            y=self.y,
            reconstruction_attributes=self.attributes,
        )

    def end(self):
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

    def close(self):
        self.root.call_on_fit_task_end(estimator=self.estimator, X=self.X, y=self.y)


def hold_out(data, fraction, rng):
    """Split the distinct queries at random into training and validation.

    Only queries with a relevant document are held out; with fewer than two of them
    nothing is.

    Returns
    -------
    (train, validation) : ndarrays of query indices, or None
    """
    candidates = data.answerable
    if fraction is None or len(candidates) < 2:
        return None
    size = min(max(1, round(fraction * len(candidates))), len(candidates) - 1)
    validation = rng.permutation(candidates)[:size]
    return np.setdiff1d(np.arange(data.n_queries), validation), validation
