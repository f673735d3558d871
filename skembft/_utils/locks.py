"""Locks between processes; the system frees those of a process that has ended."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from skembft._utils.types import Path


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock of a file, and tell whether it was free.

    Where files cannot be locked that is a UserWarning, and all are free.
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
        warnings.warn(
            # the same text for all locks of a folder, which is then said once
            f"Files in {os.path.dirname(path)!r} cannot be locked ({error.strerror}): "
            "processes that encode at the same time may encode the same texts.",
            UserWarning,
            stacklevel=2,
        )
    try:
        yield True
    finally:
        lock.release()
