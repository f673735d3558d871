"""Texts that processes which share a directory encode together, each once.

Texts come in portions by their keys, the same in all processes whatever texts each has.
A process locks the portions that it is at, and looks into the directory before it
encodes: what is missing there, nobody else is encoding. The locks of a process that was
killed are free, and others go on with what it had not written.
"""

import logging
import os
import random
import time
from collections.abc import Generator, Iterable
from contextlib import ExitStack, closing

import numpy as np

from skembft._utils.locks import lock_if_free
from skembft.encoders._shards import ShardFolder, digests_of

_PORTIONS = 1024  # of all the keys that there are
_CLAIM = 4096  # texts that a process takes at once, or a few more
_LOCKS = 64  # the most that it holds, with a file handle each
_PATIENCE = 0.2  # seconds between two looks at what others are encoding
_REPORT = 10  # seconds between two lines of the log

_logger = logging.getLogger(__name__)


class SharedWork:
    """Those of some texts that are not on disk."""

    def __init__(self, folder: ShardFolder, texts: Iterable[str]) -> None:
        self.folder = folder
        distinct = list(dict.fromkeys(texts))
        self.n_texts = len(distinct)
        digests = digests_of(distinct)
        folder.refresh()
        rows = folder.missing(digests)
        rows = rows[np.argsort(digests[rows, 0])]
        self.texts = [distinct[row] for row in rows]
        self.digests = digests[rows]
        portion = self.digests[:, 0] // np.uint64(2**64 // _PORTIONS)
        numbers, starts = np.unique(portion, return_index=True)
        ends = np.append(starts, len(rows))[1:]
        slices = [slice(*bounds) for bounds in zip(starts, ends, strict=True)]
        portions = list(zip(numbers.tolist(), slices, strict=True))
        # from a place of its own on, so that processes hardly meet
        first = random.SystemRandom().randrange(len(portions) + 1)
        self.left = dict(portions[first:] + portions[:first])

    def claims(self) -> Generator[list[str], None, None]:
        """Yield texts that are this process's until the next are asked for.

        Ends when all are on disk, or were yielded.
        """
        while self.left:
            with ExitStack() as locks:
                claim = self._claim(locks)
                if claim:
                    yield claim
            if not claim and self.left:
                time.sleep(_PATIENCE)

    def _claim(self, locks: ExitStack) -> list[str]:
        claim: list[str] = []
        n_locks = 0
        self.folder.refresh()
        for number, rows in list(self.left.items()):
            missing = self.folder.missing(self.digests[rows])
            if len(missing):
                path = os.path.join(self.folder.path, "locks", f"{number}.lock")
                if not locks.enter_context(lock_if_free(path)):
                    continue
                claim += [self.texts[rows.start + i] for i in missing]
                n_locks += 1
            del self.left[number]
            if len(claim) >= _CLAIM or n_locks == _LOCKS:
                break
        return claim


class Progress:
    """Logs, now and then, how far several processes have come."""

    def __init__(self, work: SharedWork) -> None:
        self.work = work
        self.n_encoded = 0
        self.start = self.reported = time.monotonic()

    def watch(self, portions: Generator) -> Generator:
        """Pass portions on, and count their texts."""
        with closing(portions):
            for texts, vectors in portions:
                yield texts, vectors
                self.n_encoded += len(texts)
                if time.monotonic() - self.reported > _REPORT:
                    self.report()

    def report(self) -> None:
        self.reported = time.monotonic()
        seconds = max(self.reported - self.start, 1e-9)
        _logger.info(
            "%d texts wanted, %d vectors in %s; encoded here: %d texts, %.0f a second",
            self.work.n_texts,
            self.work.folder.n_vectors,
            self.work.folder.path,
            self.n_encoded,
            self.n_encoded / seconds,
        )
