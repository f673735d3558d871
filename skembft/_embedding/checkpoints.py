"""Checkpoints of one fit: where they lie, what they are of, and which to resume."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType

import numpy as np
from sklearn.utils._param_validation import InvalidParameterError

from skembft._utils.atomic import write_json
from skembft._utils.messages import shorten

# what an older model may have left that the new one does not have
_WEIGHTS = ("adapter_*", "model*.safetensors*", "pytorch_model*")
_PROGRESS, _RUN = "progress.json", "run.json"
# parameters that say where and how often to save, not what is trained
_NOT_TRAINING = {
    "model_output_path",
    "save_checkpoints",
    "checkpoint_save_steps",
    "checkpoint_save_total_limit",
    "resume_from_checkpoint",
    "warm_start",
}


def check_output_path(path):
    """Raise an OSError unless a directory can be made, or written, at `path`."""
    if not os.fspath(path):
        raise InvalidParameterError(
            "model_output_path is empty; pass a directory, or None to write nothing."
        )
    place = Path(path).absolute()
    existing = next(p for p in [place, *place.parents] if p.exists())
    if not existing.is_dir():
        raise NotADirectoryError(
            f"model_output_path={os.fspath(path)!r} cannot be a directory: "
            f"{str(existing)!r} is a file."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(
            f"model_output_path={os.fspath(path)!r} is not writable: no permission to "
            f"write in {str(existing)!r}."
        )


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

    def __init__(self, root, identity, *, resume, others_allowed, limit, seed):
        root = Path(root)
        self.directory = root / _hash(json.dumps(identity, sort_keys=True))[:16]
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
        self.seed = description["seed"]

    def phase(self, name):
        """Checkpoints of the "fit" or of the "refit"."""
        return Phase(self.directory / name, self.limit)


class Phase:
    """The checkpoints of one training run.

    A checkpoint is complete when its progress has been written, as its last file.
    """

    def __init__(self, directory, limit):
        self.directory = directory
        self.limit = limit

    def newest(self):
        """The newest complete checkpoint, or None; incomplete ones are deleted."""
        complete = []
        for path in self._all():
            if (path / _PROGRESS).is_file():
                complete.append(path)
            else:
                shutil.rmtree(path)
        return complete[-1] if complete else None

    def finish(self, path, progress):
        """Complete a checkpoint, then delete the oldest that are too many."""
        write_json(path / _PROGRESS, progress)
        if self.limit:
            for old in self._all()[: -self.limit]:
                shutil.rmtree(old)

    @staticmethod
    def progress(path):
        return _read(path / _PROGRESS)

    def _all(self):
        paths = self.directory.glob("checkpoint-*")
        return sorted(paths, key=lambda path: int(path.name.rpartition("-")[2]))


def _read(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def in_search():
    """Whether scikit-learn's model selection calls; nothing else tells a fit."""
    return _searching_function() is not None


def in_fold():
    """Whether this fit is one of a candidate on a fold, and not the refit."""
    return _searching_function() not in (None, "fit")


def _searching_function():
    """Name of the function of sklearn.model_selection that calls, or None."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("sklearn.model_selection"):
            return frame.f_code.co_name
        frame = frame.f_back
    return None


# ---- what a fit is of


def identity_of(estimator, model_fingerprint, data, held_out):
    """What determines the result of a fit, as JSON values by readable names."""
    identity = {
        name: _readable(value)
        for name, value in estimator.get_params(deep=False).items()
        if name not in _NOT_TRAINING
    }
    identity["weights of the model"] = model_fingerprint
    for prefix, part in (("", data), ("validation ", held_out)):
        if part is not None:
            identity.update({f"{prefix}{k}": v for k, v in _digests(part).items()})
    return identity


def _readable(value):
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): _readable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    named = value if hasattr(value, "__qualname__") else type(value)
    name = f"{named.__module__}.{named.__qualname__}"
    if isinstance(value, partial):
        return [name, *map(_readable, (value.func, value.args, value.keywords))]
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array {value.shape} {_hash(value.tobytes())[:12]}"
    if isinstance(value, FunctionType):  # it may close over values
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        bound = (value.__defaults__, value.__kwdefaults__, *cells)
        return [f"{name} {_hash_code(value.__code__)}", *map(_readable, bound)]
    return name


def _hash_code(code):
    """Hash of what a function does, the same in every process."""
    inner = [
        _hash_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts
    ]
    return _hash(code.co_code, *inner, repr(code.co_names))[:12]


def _digests(data):
    def of_texts(texts):
        digest = _hash(*(text.encode() for text in texts))
        return f"{len(texts)} texts, {digest[:12]}"

    relevance = data.relevance
    arrays = [
        data.row_query,
        data.example_row,
        data.example_document,
        data.example_grade,
        data.pool,
        data.corpus,
        relevance.positive.indices,
        relevance.positive.data,
        relevance.negative.indices,
    ]
    judgements = _hash(*(np.ascontiguousarray(a).tobytes() for a in arrays))
    return {
        "queries": of_texts(data.queries),
        "documents": of_texts(data.documents),
        "relevance": f"{len(data.example_row)} judgements, {judgements[:12]}",
    }


def _hash(*parts):
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _refuse_others(root, identity):
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


def _differences(there, here):
    names = [*here, *(name for name in there if name not in here)]
    return [
        f"{name} ({shorten(there.get(name))} there, {shorten(here.get(name))} here)"
        for name in names
        if there.get(name) != here.get(name)
    ]


# ---- the finished model


def write_model(model, path):
    """Write a Sentence Transformers directory at `path`, beside its checkpoints.

    The files are complete before the first of them takes the place of an older one.
    """
    from skembft._models.loading import no_progress_bar

    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path, prefix=".writing-") as staging:
        with no_progress_bar():
            model.save_pretrained(staging, create_model_card=False)
        # an adapter would be put onto other weights, and what save_pretrained of a
        # finetuner wrote there tells of another model
        for pattern in (*_WEIGHTS, "skembft.*"):
            for old in path.glob(pattern):
                old.unlink()
        for entry in Path(staging).iterdir():
            target = path / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
