"""Fits as runs of TensorBoard."""

import os
import weakref
from pathlib import Path as Directory
from typing import TYPE_CHECKING, Any

from sklearn.callback import CallbackContext
from sklearn.utils._param_validation import validate_params

from skembft._utils.optional import import_optional
from skembft._utils.types import Path
from skembft.callbacks._runs import Plain, RunLogger, outermost, parameters_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class _Run:
    def __init__(self, writer: "SummaryWriter", parameters: dict[str, Plain]) -> None:
        self.writer = writer
        self.parameters = parameters


class TensorBoardLogger(RunLogger[_Run]):
    """Callback that logs fits for TensorBoard, as they go on.

    Every fit of a finetuner is a run, a directory of its own in `log_dir`: the entries
    of `history_` are scalars by step, and at the end the page "HParams" has the names
    of `get_params`, with fitted attributes that are numbers (`validation_score_`,
    `best_epoch_`, …) as metrics.

    Set it on the outermost search or pipeline, which is a run of its own then: of every
    candidate, as steps, the means of `cv_results_`. The runs of its fits, one a
    candidate and fold, are in its directory. It may also be set on the finetuner
    inside, as `HalvingGridSearchCV`, `cross_validate` and `OptunaSearchCV` need it.

    Read more in the :doc:`guide on tuning </tuning>`.

    Parameters
    ----------
    log_dir : str or path
        The directory to start TensorBoard with: ``tensorboard --logdir runs``. A fit
        makes a new directory in it, by the name of the estimator and the time.

    Raises
    ------
    ImportError
        In ``fit``, before anything is trained, without TensorBoard: the extra
        "tensorboard".

    See Also
    --------
    MLflowLogger : The same for MLflow.

    Notes
    -----
    Credentials are no parameters: a token among `model_params`, or a text by a name
    like "api_key", is shown as "<hidden>", and objects by their names only.

    Worker processes write by themselves, each its own files. Of several processes
    under ``torchrun`` the first one logs. Refits are not in `history_`.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skembft import AdapterFinetuner
    >>> from skembft.callbacks import TensorBoardLogger
    >>> search = GridSearchCV(AdapterFinetuner(None), {"side": ["query", "both"]})
    >>> search = search.set_callbacks(TensorBoardLogger("runs"))
    """

    @validate_params(
        {"log_dir": [str, os.PathLike]}, prefer_skip_nested_validation=True
    )
    def __init__(self, log_dir: Path) -> None:
        super().__init__()
        self.log_dir = os.path.abspath(log_dir)  # as workers may be elsewhere

    def setup(self, estimator: Any, context: CallbackContext) -> None:
        """Look for TensorBoard before anything is trained."""
        super().setup(estimator, context)
        import_optional("tensorboard", "TensorBoardLogger", "tensorboard")

    def _start(self, name: str, estimator: Any, context: CallbackContext) -> _Run:
        from torch.utils.tensorboard import SummaryWriter

        first = outermost(context)
        started = first.init_time.astimezone().strftime("%Y-%m-%d_%H-%M-%S")
        unique = first.root_uuid.hex[:8]
        directory = Directory(
            self.log_dir, f"{first.estimator_name}_{started}_{unique}"
        )
        if context is not first:
            directory /= name
        writer = SummaryWriter(str(directory))
        # of a fit that fails inside of a search nothing else is heard
        weakref.finalize(context, writer.close)
        return _Run(writer, parameters_of(estimator))

    def _log(self, run: _Run, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            run.writer.add_scalar(name, value, step)

    def _finish(
        self, run: _Run, metrics: dict[str, float], texts: dict[str, str]
    ) -> None:
        # "." is the directory itself, in place of one in it
        run.writer.add_hparams({**run.parameters, **texts}, metrics, run_name=".")
        run.writer.close()

    def _abort(self, run: _Run) -> None:
        run.writer.close()
