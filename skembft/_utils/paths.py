"""Paths of the user that are to be written."""

import os
from pathlib import Path

from sklearn.utils._param_validation import InvalidParameterError

from skembft._utils import types


def check_output_path(path: types.Path) -> None:
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
