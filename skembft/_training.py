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


def diverged(what):
    """Return the error that says that training has diverged, and what to do."""
    return ValueError(
        f"{what}: training has diverged. Lower learning_rate, or check the data and "
        "loss_params."
    )


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
    advice : str
        What to try when training did not help.
    """

    def __init__(self, metric, patience, validate, snapshot, advice):
        self.metric = metric
        self.patience = patience
        self.validate = validate
        self.snapshot = snapshot
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
        self._record(step, epoch, None if loss is None else float(loss), settings)
        if self.validate is None:
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
        last = self.history[-1]
        if self.validate is None:
            self.best_step, self.best_epoch = last["step"], last["epoch"]
            self.best_state = self.snapshot()
        elif self.best_step == 0:
            warnings.warn(
                "Training did not help: no evaluation beat the untouched model's "
                f"validation {self.metric} of {self.base_score:.4f}, so that model is "
                f"kept. {self.advice}",
                UserWarning,
                stacklevel=5,
            )

    @property
    def n_steps(self):
        """Number of optimizer steps taken."""
        return self.history[-1]["step"]

    def progress(self):
        """What `restore` needs besides the best state, as JSON values."""
        names = ("history", "best_step", "best_epoch", "best_score", "base_score")
        return {n: getattr(self, n) for n in (*names, "without_gain")}

    def restore(self, progress, best_state):
        """Go on where another monitor was."""
        for name, value in progress.items():
            setattr(self, name, value)
        self.best_state = best_state

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

    def begin(self):
        self.current = self.root.subcontext(task_name="epoch")
        self.current.call_on_fit_task_begin(
            estimator=self.estimator, X=self.X, y=self.y
        )

    def end(self, attributes):
        """Return whether a callback asks to stop.

        `attributes` is a callable that returns the fitted attributes as they are now.
        A refit is not stopped: how long it takes has been chosen.
        """
        stop = self.current.call_on_fit_task_end(
            estimator=self.estimator,
            X=self.X,
            y=self.y,
            reconstruction_attributes=attributes,
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
