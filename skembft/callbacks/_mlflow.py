"""Fits as runs of MLflow."""

import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sklearn.callback import CallbackContext
from sklearn.utils._param_validation import validate_params

from skembft._finetuner.base import BaseFinetuner
from skembft._utils.optional import import_optional
from skembft.callbacks._runs import RunLogger, parameters_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_SECONDS = 1.0  # between two writings: an epoch of an adapter takes less
_PARENT = "mlflow.parentRunId"


@dataclass
class _Run:
    tracking_uri: str
    run_id: str
    metrics: list["Metric"] = field(default_factory=list)  # that are not written yet
    written: float = field(default_factory=time.monotonic)


class MLflowLogger(RunLogger[_Run]):
    """Callback that logs fits to MLflow, as they go on.

    Every fit of a finetuner is a run, with the names of `get_params` as parameters,
    the entries of `history_` as metrics by step, and fitted attributes that are numbers
    (`validation_score_`, `best_epoch_`, …) as metrics without. MLflow allows no "@" in
    names: "ndcg@10" is "ndcg_at_10".

    Set it on the outermost search or pipeline, which has a run of its own then, with
    its `best_params_` and of every candidate, as steps, the means of `cv_results_`; the
    runs of its fits, one a candidate and fold, are nested in it. Set on a finetuner
    inside of a search, as `HalvingGridSearchCV`, `cross_validate` and
    `OptunaSearchCV` need it, they are nested where `parent_run_id` says.

    Read more in the :doc:`guide on tuning </tuning>`.

    Parameters
    ----------
    tracking_uri : str, default=None
        Where to log, as "sqlite:///mlflow.db" or the address of a server. None means
        that of `mlflow.set_tracking_uri`.
    experiment_name : str, default=None
        The experiment, which is made if there is none. None means that of
        `mlflow.set_experiment`.
    parent_run_id : str, default=None
        The run to nest the others in, such as ``mlflow.active_run().info.run_id``.

    Raises
    ------
    ImportError
        In ``fit``, before anything is trained, without MLflow: the extra "mlflow".

    See Also
    --------
    TensorBoardLogger : The same for TensorBoard.

    Notes
    -----
    Credentials are no parameters: a token among `model_params`, or a text by a name
    like "api_key", is shown as "<hidden>", and objects by their names only. The run of
    a fit that fails has the status FAILED; that of a trial which Optuna prunes is
    KILLED.

    Metrics are written every second, and at the end. Worker processes write by
    themselves, so that the store must be one for several processes; a new file should
    be made before they do, as `mlflow.set_experiment` does. Of several
    processes under ``torchrun`` the first one logs. Refits are not in `history_`.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skembft import AdapterFinetuner
    >>> from skembft.callbacks import MLflowLogger
    >>> search = GridSearchCV(AdapterFinetuner(None), {"side": ["query", "both"]})
    >>> logger = MLflowLogger("sqlite:///mlflow.db", experiment_name="sides")
    >>> search = search.set_callbacks(logger)
    """

    @validate_params(
        {
            "tracking_uri": [str, None],
            "experiment_name": [str, None],
            "parent_run_id": [str, None],
        },
        prefer_skip_nested_validation=True,
    )
    def __init__(
        self,
        tracking_uri: str | None = None,
        *,
        experiment_name: str | None = None,
        parent_run_id: str | None = None,
    ) -> None:
        super().__init__()
        self.tracking_uri = tracking_uri and _absolute(tracking_uri)
        self.experiment_name = experiment_name
        self.parent_run_id = parent_run_id
        # of outermost estimators that are being fitted, for the runs inside
        self._parents: dict[UUID, _Run] = {}

    def setup(self, estimator: Any, context: CallbackContext) -> None:
        """Look for MLflow before anything is trained."""
        super().setup(estimator, context)
        import_optional("mlflow", "MLflowLogger", "mlflow")

    def teardown(self, estimator: Any, context: CallbackContext) -> None:
        """End what an error has left open, in other processes too."""
        super().teardown(estimator, context)
        if context.parent is None:
            parent = self._parents.pop(context.root_uuid, None)
            if parent is not None:
                _abort_children(parent)

    def _start(self, name: str, estimator: Any, context: CallbackContext) -> _Run:
        from mlflow import MlflowClient, get_tracking_uri
        from mlflow.entities import Param

        parent = self._parents.get(context.root_uuid)
        uri = self.tracking_uri or _absolute(get_tracking_uri())
        uri = parent.tracking_uri if parent else uri
        client = MlflowClient(uri)
        parent_id = parent.run_id if parent else self.parent_run_id
        if parent_id is None:
            experiment_id = self._experiment(client)
        else:
            experiment_id = client.get_run(parent_id).info.experiment_id
        tags = {"estimator_name": type(estimator).__name__}
        if parent_id is not None:
            tags[_PARENT] = parent_id
        created = client.create_run(experiment_id, tags=tags, run_name=name)
        run = _Run(uri, created.info.run_id)
        params = parameters_of(estimator).items()
        client.log_batch(run.run_id, params=[Param(k, str(v)) for k, v in params])
        if not isinstance(estimator, BaseFinetuner):
            self._parents[context.root_uuid] = run
        return run

    def _experiment(self, client: "MlflowClient") -> str:
        if self.experiment_name is None:  # `mlflow.set_experiment` sets it
            return os.environ.get("MLFLOW_EXPERIMENT_ID", "0")
        from mlflow.exceptions import MlflowException

        experiment = client.get_experiment_by_name(self.experiment_name)
        if experiment is not None:
            return experiment.experiment_id
        try:
            return client.create_experiment(self.experiment_name)
        except MlflowException:  # another process may have been quicker
            experiment = client.get_experiment_by_name(self.experiment_name)
            if experiment is None:
                raise
            return experiment.experiment_id

    def _log(self, run: _Run, metrics: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        for name, value in metrics.items():
            run.metrics.append(Metric(name.replace("@", "_at_"), value, now, step))
        if time.monotonic() - run.written > _SECONDS:
            _write(run)

    def _finish(
        self, run: _Run, metrics: dict[str, float], texts: dict[str, str]
    ) -> None:
        from mlflow.entities import Param

        self._log(run, metrics, 0)
        client = _write(run)
        client.log_batch(run.run_id, params=[Param(k, v) for k, v in texts.items()])
        client.set_terminated(run.run_id, "FINISHED")

    def _abort(self, run: _Run) -> None:
        error = sys.exception()  # None where a search has gone on without the fit
        pruned = type(error).__name__ == "TrialPruned"
        killed = pruned or isinstance(error, KeyboardInterrupt)
        _write(run).set_terminated(run.run_id, "KILLED" if killed else "FAILED")

    def __getstate__(self) -> dict[str, Any]:
        # others may add to it
        return {**super().__getstate__(), "_parents": dict(self._parents)}


def _absolute(uri: str) -> str:
    """The address of a store; a file by its whole path, as workers may be elsewhere."""
    scheme, found, path = uri.partition(":///")
    if not found or not scheme.startswith("sqlite") or path in ("", ":memory:"):
        return uri
    return f"{scheme}:///{os.path.abspath(path)}"


def _write(run: _Run) -> "MlflowClient":
    """Write the metrics of a run that are not written yet."""
    from mlflow import MlflowClient

    client = MlflowClient(run.tracking_uri)
    client.log_batch(run.run_id, metrics=run.metrics)
    run.metrics, run.written = [], time.monotonic()
    return client


def _abort_children(parent: _Run) -> None:
    """Say of the runs in a search that are still open that their fits have failed."""
    from mlflow import MlflowClient

    client = MlflowClient(parent.tracking_uri)
    experiment_id = client.get_run(parent.run_id).info.experiment_id
    inside = f"tags.`{_PARENT}` = '{parent.run_id}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment_id], inside, max_results=10_000):
        client.set_terminated(run.info.run_id, "FAILED")
