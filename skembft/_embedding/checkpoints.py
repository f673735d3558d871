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
        Whether to go on from the checkpoints that are there. Otherwise they are set
        aside, and deleted by `finish`: who starts anew by mistake loses nothing.
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
        self.aside = self.directory.with_name(f"{self.directory.name}.before")
        self.resume = resume
        self.limit = limit
        self._set_aside()
        description = _read(self.directory / _RUN)
        if description is None:
            if resume and not others_allowed:
                _refuse_others(root, identity)
            description = {"identity": identity, "seed": seed}
            self.directory.mkdir(parents=True, exist_ok=True)
            write_json(self.directory / _RUN, description)
        self.seed: int = description["seed"]

    def _set_aside(self) -> None:
        """Set aside the checkpoints of this fit that got furthest, or take them."""
        both = self.directory, self.aside
        furthest, other = sorted(both, key=_reached, reverse=True)
        place = self.directory if self.resume else self.aside
        shutil.rmtree(other, ignore_errors=True)
        if furthest != place and furthest.is_dir():
            furthest.rename(place)

    def phase(self, name: str) -> "Phase":
        """Checkpoints of the "fit" or of the "refit"."""
        return Phase(self.directory / name, self.limit)

    def finish(self) -> None:
        """Delete what was set aside: the fit is done, and its result kept."""
        shutil.rmtree(self.aside, ignore_errors=True)


class Phase:
    """The checkpoints of one training run.

    A checkpoint is complete when its progress has been written, as its last file.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory = directory
        self.limit = limit

    def newest(self) -> Path | None:
        """The newest complete checkpoint, or None; incomplete ones are deleted."""
        complete = self.complete()
        for path in set(self._all()) - set(complete):
            shutil.rmtree(path)
        return complete[-1] if complete else None

    def complete(self) -> list[Path]:
        """The complete checkpoints, the newest last."""
        return [path for path in self._all() if (path / _PROGRESS).is_file()]

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
        return sorted(paths, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _reached(directory: Path) -> tuple[int, ...]:
    """Steps of the refit and of the fit, or -1, at the newest complete checkpoints."""
    phases = [Phase(directory / name, 0).complete() for name in ("refit", "fit")]
    return tuple(_step(complete[-1]) if complete else -1 for complete in phases)


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
