"""The fine-tuned model in `model_output_path`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sklearn.utils._param_validation import InvalidParameterError

from skembft._saving.model_card import CARD
from skembft._saving.pretrained import written_files
from skembft._saving.state import files_in
from skembft._utils import types
from skembft._utils.atomic import dump_json, load_json, replaced_directory
from skembft._utils.paths import check_output_path

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_FILES = "skembft_model.json"  # names the files that were written with it
CHECKPOINTS = "checkpoints"
# directories that Sentence Transformers reads; others beside a model may stay
_OF_MODELS = re.compile(r"(.*_)?\d+_[A-Z]\w*|onnx|openvino")


class _Settings(Protocol):
    model_id: types.Path
    model_output_path: types.Path | None
    save_checkpoints: bool
    resume_from_checkpoint: bool


def write_model(model: SentenceTransformer, card: str, path: types.Path) -> None:
    """Write a Sentence Transformers directory with a card at `path`, in one step.

    It takes the place of the one that was there. Checkpoints, and what is not of a
    model, stay.
    """
    from skembft._models.code import save_with_code

    path = Path(path)
    with replaced_directory(path) as staging:
        save_with_code(model, staging)
        (staging / CARD).write_text(card, encoding="utf-8")
        dump_json(staging / _FILES, sorted({*files_in(staging), _FILES}))
        ours = {name.partition("/")[0] for name in _ours(path)}
        for entry in _entries(path):
            if entry.name not in ours:
                _keep(entry, staging / entry.name)


def _keep(entry: Path, target: Path) -> None:
    """Let a file or directory be in another one too, without a copy where possible."""
    if target.exists():  # it came there during the fit
        target = target.with_name(f"{target.name}.old")
    if entry.is_dir() and not entry.is_symlink():
        shutil.copytree(entry, target, symlinks=True, copy_function=_link)
    else:
        _link(entry, target)


def _link(source: types.Path, target: types.Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # file systems without links
        shutil.copy2(source, target, follow_symlinks=False)


def _entries(path: Path) -> Iterator[Path]:
    return path.iterdir() if path.is_dir() else iter(())


def _ours(path: Path) -> set[str]:
    """Files of a directory that were written there, by their relative names."""
    try:
        names = load_json(path / _FILES, [])
    except ValueError:
        names = []
    return {name for name in names if isinstance(name, str)} | written_files(path)


def check_output(settings: _Settings) -> None:
    """Refuse a place where the model, or a checkpoint, of a finetuner cannot be."""
    path = settings.model_output_path
    if path is not None:
        check_output_path(path)
        if os.path.isdir(settings.model_id) and os.path.isdir(path):
            if os.path.samefile(settings.model_id, path):
                raise InvalidParameterError(
                    f"model_output_path={os.fspath(path)!r} is the model itself, "
                    "which the fine-tuned one would overwrite: pass another "
                    "directory."
                )
        if os.path.isdir(path):
            _check_replaceable(Path(path))
    elif settings.save_checkpoints or settings.resume_from_checkpoint:
        raise InvalidParameterError(
            "save_checkpoints and resume_from_checkpoint need a place: set "
            "model_output_path to a directory."
        )


def _check_replaceable(path: Path) -> None:
    """Refuse a directory that cannot be replaced, or holds what would be lost."""
    named, place = f"model_output_path={os.fspath(path)!r}", path.resolve()
    reason = None
    if Path.cwd().is_relative_to(place):
        reason = "is or holds the current directory"
    elif os.path.ismount(place) or not os.access(place.parent, os.W_OK | os.X_OK):
        reason = "is a mount point, or in a directory that is not writable"
    if reason:
        raise InvalidParameterError(
            f"{named} {reason}; it is replaced in one step, so pass a directory below "
            "it."
        )
    ours = _ours(path)
    for entry in sorted(_entries(path)):
        if entry.name.startswith(".") or entry.name == CHECKPOINTS:
            continue
        if not entry.is_dir() or entry.is_symlink():
            found = {entry.name}
        elif _OF_MODELS.fullmatch(entry.name):
            found = {f"{entry.name}/{name}" for name in files_in(entry)}
        else:
            continue
        if others := sorted(found - ours):
            raise InvalidParameterError(
                f"{named} holds {others[0]!r}, which no fit wrote there and which the "
                "model might replace: move it away, or pass another directory."
            )
