"""Directories that hold a fitted finetuner, and `load`, which reads them back."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib

from skembft._saving.export import Exporter, cannot_export
from skembft._saving.model_card import CARD, model_card
from skembft._saving.params import STATE, Damaged
from skembft._saving.registry import finetuners
from skembft._saving.state import (
    ENCODER,
    Saved,
    State,
    checked_json,
    files_in,
)
from skembft._utils import types
from skembft._utils.atomic import dump_json, replaced_directory, replaced_file
from skembft._utils.estimators import thawed
from skembft.encoders._stored import ROLES


def dump(value: object, path: types.Path) -> None:
    """Write an object with joblib, in one step: never a file that is half written.

    Parameters
    ----------
    value : object
        A fitted estimator, search or pipeline.
    path : path
        Where to; ``joblib.load`` reads it. A crash leaves the old file or the new one.

    Raises
    ------
    OSError
        Nothing can be written there; what was there is left as it was.

    Examples
    --------
    >>> import skembft
    >>> skembft.dump(finetuner, "finetuner.joblib")  # doctest: +SKIP
    """
    with replaced_file(path) as temporary:
        joblib.dump(value, temporary)


def load(path: types.Path) -> Any:  # a finetuner, whose file imports this one
    """Read a fitted finetuner from a directory that `save_pretrained` wrote.

    No code comes from the directory: weights are safetensors, all else is JSON.

    Parameters
    ----------
    path : path

    Returns
    -------
    finetuner : EmbeddingFinetuner, AdapterFinetuner or CorpusFinetuner
        With the vectors of the one that was saved. Parameters that JSON cannot hold (a
        class, a callable) have their defaults; a UserWarning names them. The encoder of
        the last two is opened at first use, and a changed one is an error then.

    Raises
    ------
    OSError
        No such directory, or none of skembft.
    ValueError
        Files that are damaged, or not what `save_pretrained` writes.

    Examples
    --------
    >>> import skembft
    >>> finetuner = skembft.load("my-model")  # doctest: +SKIP
    """
    path = Path(path)
    if path.is_file():
        raise NotADirectoryError(
            f"{str(path)!r} is a file: skembft.load opens directories of "
            "save_pretrained, and joblib.load what skembft.dump has written."
        )
    if not path.exists():
        raise FileNotFoundError(f"There is no directory {str(path)!r}.")
    if not (path / STATE).is_file():
        raise FileNotFoundError(
            f"{str(path)!r} has no {STATE}: it is not a directory that "
            "save_pretrained of a finetuner wrote. A plain Sentence Transformers model "
            "is passed by its path, as model_id or encoder."
        )
    try:
        state = State.read(path)
        return state.finetuner()
    except Damaged as error:
        raise ValueError(f"{str(path)!r} cannot be loaded: {error}.") from error


def save(finetuner: Any, path: types.Path, split: bool = False) -> None:
    """Write a fitted finetuner as a directory; see its `save_pretrained`."""
    from safetensors import SafetensorError

    if type(finetuner) not in finetuners().values():
        raise cannot_export(f"{type(finetuner).__name__} is a class of your own.")
    export: Exporter | None = finetuner._exporter()
    encoder: Any = None
    inner: Exporter | None = None
    if export is None:
        if split:
            raise ValueError(f"split=True: a {_name(finetuner)} makes no model.")
        encoder = thawed(finetuner._checked_encoder())
        if hasattr(encoder, "_exporter"):
            inner = encoder._exporter()
            if inner is None:
                raise cannot_export(f"The encoder is of {_name(encoder)}.")
    _check_place(path, finetuner)
    try:
        with replaced_directory(path) as directory:
            if inner is not None:
                (directory / ENCODER).mkdir()
                _fill(directory / ENCODER, encoder, inner, False)
            _fill(directory, finetuner, export, split)
    except SafetensorError as error:  # as on a full disk
        raise OSError(f"{str(path)!r} cannot be written: {error}.") from error


def _name(estimator: object) -> str:
    return type(estimator).__name__


def _fill(
    directory: Path, finetuner: Saved, export: Exporter | None, split: bool
) -> None:
    """Write all files of a finetuner."""
    for name, content in finetuner._saved().files.items():
        dump_json(directory / name, content)
    if export is None:
        pass
    elif split:
        for role in ROLES:
            export.write_role(directory / role, role)
    else:
        export.write(directory)
    card = model_card(finetuner, split, makes_model=export is not None)
    (directory / CARD).write_text(card, encoding="utf-8")
    State.of(finetuner, None if split else export).write(directory)


def _check_place(path: types.Path, finetuner: Any) -> None:
    """Refuse a path where anything but an older save would be lost."""
    if not os.fspath(path):
        raise ValueError("path is empty; pass a directory.")
    path = Path(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise NotADirectoryError(f"{str(path)!r} is a file; pass a directory.")
    place = path.resolve()
    if Path.cwd().is_relative_to(place):
        raise FileExistsError(
            f"{str(path)!r} is or holds the current directory, which cannot be "
            "replaced: pass another directory."
        )
    for model_id in _models_of(finetuner):
        if os.path.isdir(model_id) and Path(model_id).resolve().is_relative_to(place):
            raise FileExistsError(
                f"{str(path)!r} is or holds the base model, which would be "
                "overwritten: pass another directory."
            )
    written = written_files(path)
    others = sorted(files_in(path) - written)
    if others and not written:
        raise FileExistsError(
            f"{str(path)!r} is not empty, and save_pretrained did not write it: pass "
            "another directory."
        )
    if others:
        raise FileExistsError(
            f"{str(path)!r} also holds {others[0]!r}, which save_pretrained did not "
            "write and would delete: pass another directory, or move it away."
        )


def _models_of(estimator: Any) -> Iterator[types.Path]:
    """The models that an estimator and its encoders stand on."""
    while estimator is not None:
        estimator = thawed(estimator)
        if hasattr(estimator, "model_id"):
            yield estimator.model_id
        estimator = getattr(estimator, "encoder_", None)


def written_files(directory: Path) -> set[str]:
    """Those that `save_pretrained` wrote there, as far as it can be told."""
    try:
        content = checked_json(directory / STATE)
        return {*content["files"], STATE}
    except (Damaged, KeyError, TypeError):
        return set()
