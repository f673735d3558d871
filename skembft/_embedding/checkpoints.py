"""Checkpoints of one fit: where they lie, what they hold, and which to resume."""

import json
import shutil
from pathlib import Path
from typing import Any

from skembft._embedding.identity import Identity, hash_of
from skembft._utils import types
from skembft._utils.atomic import write_json
from skembft._utils.messages import shorten

_PROGRESS, _RUN = "progress.json", "run.json"


class Run:
    """The directory of the checkpoints of one fit, named by what the fit is of.

    Fits of other data or parameters (the folds and candidates of a search) have other
    directories beside it.

    Parameters
    ----------
    root : path
        Directory of the directories.
    identity : dict of {str: JSON value}
        What determines the result of the fit.
    resume : bool
        Whether checkpoints that are there are of use; otherwise they are deleted.
    others_allowed : bool
        Whether to start anew where only checkpoints of other fits lie.
    limit : int
        How many checkpoints to keep, the newest; 0 keeps all.
    seed : int
        Kept in the directory, so that a fit without a fixed seed can be resumed.

    Raises
    ------
    ValueError
        `resume` where only checkpoints of other fits lie, and these are not allowed;
        the message names the difference.
    """

    def __init__(
        self,
        root: types.Path,
        identity: Identity,
        *,
        resume: bool,
        others_allowed: bool,
        limit: int,
        seed: int,
    ) -> None:
        root = Path(root)
        self.directory = root / hash_of(json.dumps(identity, sort_keys=True))[:16]
        self.resume = resume
        self.limit = limit
        if not resume:
            shutil.rmtree(self.directory, ignore_errors=True)
        description = _read(self.directory / _RUN)
        if description is None:
            if resume and not others_allowed:
                _refuse_others(root, identity)
            description = {"identity": identity, "seed": seed}
            self.directory.mkdir(parents=True, exist_ok=True)
            write_json(self.directory / _RUN, description)
        self.seed: int = description["seed"]

    def phase(self, name: str) -> "Phase":
        """Checkpoints of the "fit" or of the "refit"."""
        return Phase(self.directory / name, self.limit)


class Phase:
    """The checkpoints of one training run.

    A checkpoint is complete when its progress has been written, as its last file.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory = directory
        self.limit = limit

    def newest(self) -> Path | None:
        """The newest complete checkpoint, or None; incomplete ones are deleted."""
        complete = []
        for path in self._all():
            if (path / _PROGRESS).is_file():
                complete.append(path)
            else:
                shutil.rmtree(path)
        return complete[-1] if complete else None

    def finish(self, path: Path, progress: dict[str, Any]) -> None:
        """Complete a checkpoint, then delete the oldest that are too many."""
        write_json(path / _PROGRESS, progress)
        if self.limit:
            for old in self._all()[: -self.limit]:
                shutil.rmtree(old)

    @staticmethod
    def progress(path: Path) -> dict[str, Any]:
        return _read(path / _PROGRESS)

    def _all(self) -> list[Path]:
        paths = self.directory.glob("checkpoint-*")
        return sorted(paths, key=lambda path: int(path.name.rpartition("-")[2]))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


# ---- what a fit is of


def _refuse_others(root: Path, identity: Identity) -> None:
    """Raise an error that names how this fit differs from the nearest one there."""
    complete = root.glob(f"*/*/checkpoint-*/{_PROGRESS}")
    runs = {path.parents[2] for path in complete}
    others = [_read(run / _RUN)["identity"] for run in runs]
    if not others:
        return
    differences = min((_differences(other, identity) for other in others), key=len)
    raise ValueError(
        f"resume_from_checkpoint=True, but the checkpoints in {str(root)!r} are of "
        f"another fit, which differs in {'; '.join(differences)}. Restore the data and "
        "parameters to resume it, pass resume_from_checkpoint=False to start anew, or "
        "another model_output_path."
    )


def _differences(there: Identity, here: Identity) -> list[str]:
    names = [*here, *(name for name in there if name not in here)]
    return [
        f"{name} ({shorten(there.get(name))} there, {shorten(here.get(name))} here)"
        for name in names
        if there.get(name) != here.get(name)
    ]


# ---- the finished model
