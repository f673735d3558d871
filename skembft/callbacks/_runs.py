"""What loggers share: a run for every fit, and what is said of it."""

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

from sklearn.callback import CallbackContext

from skembft._finetuner.base import BaseFinetuner
from skembft._finetuner.history import Entry
from skembft._utils.estimators import plain_value
from skembft._utils.hidden import Hidden, HiddenToken
from skembft._utils.launched import is_first
from skembft._utils.messages import shorten
from skembft.callbacks._base import FinetunerCallback, is_epoch

R = TypeVar("R")  # a run, as a subclass has it
Plain: TypeAlias = bool | int | float | str

_LONGEST = 500  # characters of a parameter
_SECRET = re.compile(
    r"(token|secret|password|(api|access)[-_]?key|credentials?|authorization)$", re.I
)


class RunLogger(FinetunerCallback, Generic[R]):
    """Makes a run of every fit of a finetuner, and of what the logger is set on.

    A run has the parameters, every entry of `history_` at the end of its epoch, and the
    numbers that are fitted attributes.
    """

    def __init__(self) -> None:
        super().__init__()
        # folds of a search by the place of its candidates, for the names of their runs
        self._n_splits: dict[tuple[UUID | int, ...], int] = {}
        self._running: WeakKeyDictionary[CallbackContext, _Running[R]] = (
            WeakKeyDictionary()
        )

    @abstractmethod
    def _start(self, name: str, estimator: Any, context: CallbackContext) -> R:
        """Begin a run."""

    @abstractmethod
    def _log(self, run: R, metrics: dict[str, float], step: int) -> None:
        """Add metrics of a step."""

    @abstractmethod
    def _finish(self, run: R, metrics: dict[str, float], texts: dict[str, str]) -> None:
        """End a run, with the numbers and the other values that were fitted."""

    @abstractmethod
    def _abort(self, run: R) -> None:
        """End a run whose fit has ended with an error."""

    def teardown(self, estimator: Any, context: CallbackContext) -> None:
        """End what an error has left open, of all fits inside."""
        outermost, root = context.parent is None, context.root_uuid
        for reference in self._running.keyrefs():  # other threads may add to them
            task = reference()
            if task is context or (task and outermost and task.root_uuid == root):
                self._abort(self._running.pop(task).run)
        for place in list(self._n_splits):
            if outermost and place[0] == root:
                del self._n_splits[place]
        super().teardown(estimator, context)

    def on_fit_task_begin(self, estimator: Any, context: CallbackContext) -> None:
        """Begin a run where a fit begins."""
        if not is_first():  # of several processes that train together
            return
        if context.task_name == "search":
            self._n_splits[_place(context)] = estimator.n_splits_
        elif _is_fit(estimator, context):
            run = self._start(self._name(context), estimator, context)
            self._running[context] = _Running(run)

    def on_fit_task_end(
        self, estimator: Any, context: CallbackContext, *, fitted_estimator: Any = None
    ) -> None:
        """Log what is new in the history; end the run where the fit ends."""
        if is_epoch(estimator, context):
            running = self._running.get(context.parent)
            if running is not None:
                self._follow(running, fitted_estimator.history_)
            return
        running = self._running.pop(context, None)
        if running is None:
            return
        self._follow(running, getattr(estimator, "history_", []))
        for candidate, scores in enumerate(_cv_scores(estimator)):
            self._log(running.run, scores, candidate)
        self._finish(running.run, *_attributes(estimator))

    def _follow(self, running: "_Running[R]", history: list[Entry]) -> None:
        for entry in history[running.n_seen :]:
            metrics = {k: v for k, v in _numbers(entry).items() if k != "step"}
            self._log(running.run, metrics, entry["step"])
        running.n_seen = len(history)

    def _name(self, context: CallbackContext) -> str:
        """A name that tells a run from the others around it."""
        parts = []
        for task in _path(context):
            if task.source_task_name == "candidate-split-evaluation":
                n_splits = self._n_splits.get(_place(task.parent))
                candidate, fold = divmod(task.task_id, n_splits or 1)
                known = f"candidate-{candidate}_fold-{fold}"
                parts.append(known if n_splits else f"fit-{task.task_id}")
            elif task.source_task_name == "refit-with-best-params":
                parts.append("refit")
            elif task.source_task_name is not None:
                parts.append(task.source_task_name)
        return "/".join(parts) or context.estimator_name

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k != "_running"}
        return {**state, "_n_splits": dict(self._n_splits)}  # others may add to it

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _running=WeakKeyDictionary())


class _Running(Generic[R]):
    """A run, and how much of the history it has."""

    def __init__(self, run: R) -> None:
        self.run = run
        self.n_seen = 0


def _is_fit(estimator: Any, context: CallbackContext) -> bool:
    """Whether a task is the fit of a finetuner, or of the outermost estimator."""
    is_finetuner = isinstance(estimator, BaseFinetuner) and context.task_name == "fit"
    return is_finetuner or context.parent is None


def _path(context: CallbackContext) -> list[CallbackContext]:
    """The tasks from the outermost one to this one."""
    return [] if context is None else [*_path(context.parent), context]


def outermost(context: CallbackContext) -> CallbackContext:
    """The task in which all others are."""
    return _path(context)[0]


def _place(context: CallbackContext) -> tuple[UUID | int, ...]:
    """What is the same of a task in every process."""
    return (context.root_uuid, *(task.task_id for task in _path(context)))


def parameters_of(estimator: Any) -> dict[str, Plain]:
    """The parameters, those inside too, as plain values without credentials."""
    return {
        name: _shown(name, value)
        for name, value in estimator.get_params(deep=True).items()
    }


def _shown(name: str, value: Any) -> Plain:
    if name.endswith("exclude_self") and isinstance(value, Mapping):
        return f"a dict of {len(value)} queries"
    value = _without_secrets(name, value)
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value[:_LONGEST]
    return shorten(value, _LONGEST)


def _without_secrets(name: str, value: Any) -> Any:
    """A value whose representation can be shown to everybody."""
    value = plain_value(value)
    if isinstance(value, str) and _SECRET.search(name):
        return "<hidden>"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) in (list, tuple):
        return [_without_secrets(name, item) for item in value]
    if type(value) in (dict, HiddenToken):
        return {k: _without_secrets(str(k), item) for k, item in value.items()}
    # containers of ours are shown by their size, all else by its name
    of_ours = type(value).__module__.startswith("skembft.")
    return value if of_ours and not hasattr(value, "get_params") else Hidden(value)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, Real) and not isinstance(value, bool)
    }


def _attributes(estimator: Any) -> tuple[dict[str, float], dict[str, str]]:
    """The fitted attributes that are numbers, and those that are settings."""
    fitted = {k: v for k, v in vars(estimator).items() if re.search(r"^[^_].*_$", k)}
    texts = {k: v for k, v in fitted.items() if isinstance(v, str)}
    if isinstance(best := fitted.get("best_params_"), dict):
        texts["best_params_"] = str(_shown("best_params_", best))
    return _numbers(fitted), texts


def _cv_scores(estimator: Any) -> Iterator[dict[str, float]]:
    """Of every candidate of a search the means and spreads over the folds."""
    results = getattr(estimator, "cv_results_", {})
    names = [n for n in results if re.match("(mean|std)_(test|train)_", n)]
    for values in zip(*(results[name] for name in names), strict=True):
        yield dict(zip(names, map(float, values), strict=True))
