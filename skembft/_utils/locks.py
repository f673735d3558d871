"""Locks between processes; the system frees those of a process that has ended."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from skembft._utils.types import Path

_told: set[str] = set()  # folders in which nothing can be locked


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock of a file, and tell whether it was free.

    Where files cannot be locked that is a UserWarning, once a folder, and all are free.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(os.fspath(path), thread_local=False)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        folder = os.path.dirname(path)
        if folder not in _told:
            _told.add(folder)
            warnings.warn(
                f"Files in {folder!r} cannot be locked ({error.strerror}): processes "
                "that encode at the same time may encode the same texts.",
                UserWarning,
                stacklevel=2,
            )
    try:
        yield True
    finally:
        lock.release()
