"""Files and directories that are never seen half written."""

import contextlib
import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from skembft._utils import types

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


@contextmanager
def replaced_file(path: types.Path) -> Iterator[str]:
    """Give the path of a file to write, which then takes the place of `path`."""
    if not os.fspath(path):
        raise ValueError("path is empty; pass the name of a file.")
    path = Path(os.path.realpath(path))  # a link stays one, to the new file
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no directory {str(path.parent)!r}.")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a directory; pass a file.")
    # joblib compresses by the suffix; the system applies the umask of a new file
    temporary = os.path.join(path.parent, f".{path.name}.{uuid4().hex}{path.suffix}")
    mode = path.stat().st_mode & 0o777 if path.exists() else None
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    os.close(os.open(temporary, flags, 0o666 if mode is None else 0o600))
    try:
        yield temporary
        if mode is not None:
            os.chmod(temporary, mode)
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _flush_directory(path.parent)


def write_json(path: types.Path, content: Any, *, ensure_ascii: bool = True) -> None:
    """Write a JSON file whole or not at all."""
    with replaced_file(path) as temporary:
        dump_json(temporary, content, ensure_ascii=ensure_ascii)


def load_json(path: types.Path, default: Any) -> Any:
    """Read a JSON file; `default` where there is none."""
    if not Path(path).is_file():
        return default
    return json.loads(Path(path).read_text(encoding="utf-8"))


def dump_json(path: types.Path, content: Any, *, ensure_ascii: bool = True) -> None:
    """Write a JSON file into a directory that is not seen yet."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=4, ensure_ascii=ensure_ascii)


@contextmanager
def replaced_directory(path: types.Path) -> Iterator[Path]:
    """Give a directory to write into, which then takes the place of `path`.

    A kill leaves the old directory or the new one, and at most a hidden directory
    beside it whose name says that it was being written.
    """
    path = Path(os.path.realpath(path))  # a link stays one, to the new directory
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = os.path.join(path.parent, f".{path.name}.writing-{uuid4().hex}")
    os.mkdir(staging)
    try:
        yield Path(staging)
        for folder, _, files in os.walk(staging):
            for name in files:
                _flush(os.path.join(folder, name))
            _flush_directory(folder)
        try:
            os.rename(staging, path)  # which fails where there are files
        except OSError:
            if not path.exists():
                raise
            _exchange(staging, path)
        _flush_directory(path.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # what was there, or what failed


def _exchange(a: str, b: Path) -> None:
    """Let two directories take each other's name, in one step where Linux can."""
    if sys.platform == "linux":
        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        names = os.fsencode(a), os.fsencode(b)
        if rename is not None and not rename(
            _AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE
        ):
            return
    # elsewhere, and on file systems that cannot, there is a moment without `b`
    aside = tempfile.mkdtemp(prefix=f"{a}-", dir=b.parent)
    old = os.path.join(aside, "old")
    try:
        os.rename(b, old)
        os.rename(a, b)
    except BaseException:  # Ctrl-C too
        if not b.exists():
            os.rename(old, b)
        raise
    finally:
        if b.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _flush(path: types.Path) -> None:
    """Write to the disk what the system still holds of a file."""
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_directory(path: types.Path) -> None:
    """The same of the names in a directory, on systems that can.

    Windows opens no directories, and some file systems refuse; what was written is
    in its place all the same.
    """
    with contextlib.suppress(OSError):
        _flush(path)
