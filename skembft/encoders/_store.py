"""The store of encoded texts: each is encoded once, in memory and on disk."""

import hashlib
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable
from contextlib import closing
from typing import TypeAlias

import numpy as np

from skembft._utils.types import Ints, Path, Vectors
from skembft._utils.vectors import check_finite
from skembft.encoders._shards import Digests, ShardFolder, digests_of
from skembft.encoders._shared_work import Progress, SharedWork

Key: TypeAlias = tuple[Hashable, ...]  # what determines the vectors
Portions: TypeAlias = Generator[tuple[list[str], Vectors], None, None]

# models, prompts and settings whose vectors a process keeps whatever their size, and
# the bytes up to which it keeps more
_KEPT, _MAX_BYTES = 16, 2**30
_stores: "OrderedDict[Key, Store]" = OrderedDict()
_stores_lock = threading.Lock()


def get_store(key: Key) -> "Store":
    """Return this process's store of a key, a tuple that determines the vectors."""
    with _stores_lock:
        store = _stores.setdefault(key, Store(key))
        _stores.move_to_end(key)
        if len(_stores) > _KEPT:
            sizes = [each.memory.vectors.nbytes for each in _stores.values()]
            total = sum(sizes)
            for size in sizes[:-_KEPT]:  # the oldest go first
                if total <= _MAX_BYTES:
                    break
                total -= size
                _stores.popitem(last=False)
        return store


def drop_store(key: Key, cache_dir: Path | None) -> None:
    """Forget the vectors of a key, in this process and in `cache_dir`."""
    with _stores_lock:
        _stores.pop(key, None)
    if cache_dir is not None:
        ShardFolder(folder_of(key, cache_dir)).delete()


def folder_of(key: Key, cache_dir: Path) -> str:
    """The sub-directory of `cache_dir` that holds the vectors of a key."""
    name = hashlib.sha256(repr(tuple(key)).encode()).hexdigest()[:32]
    return os.path.join(os.fspath(cache_dir), name)


class Store:
    """Vectors of texts under one key; threads wait instead of encoding twice.

    Vectors that are on disk are read from there and not kept in memory.
    """

    def __init__(self, key: Key) -> None:
        self.key = key
        self.lock = threading.RLock()
        self.memory = Memory()
        self.folders: dict[str, ShardFolder] = {}  # by path

    def width(self, cache_dir: Path | None = None) -> int | None:
        """Dimension of the vectors; None before the first is known."""
        with self.lock:
            folder = self._folder(cache_dir)
            if folder is not None and folder.width is None:
                folder.refresh()
            on_disk = None if folder is None else folder.width
            return self.memory.vectors.shape[1] or on_disk

    def get(
        self,
        texts: list[str],
        encode: Callable[[list[str]], Portions],
        *,
        max_bytes: int,
        cache_dir: Path | None = None,
    ) -> Vectors:
        """Return the vectors of `texts`, encoding those that are new.

        Parameters
        ----------
        texts : list of str
        encode : callable
            From a list of distinct texts to an iterator over (texts, vectors). Every
            portion is stored as it comes: an error in a later one loses nothing.
        max_bytes : int
            Bound of the vectors in memory; the oldest go.
        cache_dir : str or None

        Returns
        -------
        float32 ndarray of shape (n, d)
        """
        with self.lock:
            folder = self._folder(cache_dir)
            number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
            distinct = list(number)
            answer = _Answer(len(distinct))
            if folder is not None:
                self._read(folder, digests_of(distinct), answer)
            new = [distinct[i] for i in answer.missing()]
            kept = [text for text in new if text in self.memory.rows]
            if kept:
                vectors = self.memory.take(kept)
                answer.put([number[text] for text in kept], vectors)
                if folder is not None:
                    self._publish(folder, kept, vectors)
                new = [text for text in new if text not in self.memory.rows]
            if new:
                with closing(encode(new)) as portions:
                    for portion, vectors in portions:
                        check_finite(vectors, "The vectors of the encoder")
                        answer.put([number[text] for text in portion], vectors)
                        if folder is None or not self._publish(
                            folder, portion, vectors
                        ):
                            self.memory.append(portion, vectors)
                            self.memory.trim(max_bytes)
            self.memory.trim(max_bytes)
            if len(distinct) == len(texts):
                return answer.vectors
            return answer.vectors[[number[text] for text in texts]]

    def warm(
        self,
        texts: list[str],
        encode: Callable[[list[str]], Portions],
        *,
        max_bytes: int,
        cache_dir: Path | None = None,
    ) -> None:
        """Encode what is missing, together with all processes that do the same.

        The arguments are those of `get`. With `cache_dir` it takes no memory for the
        vectors, and ends when the vectors of all texts are there.
        """
        with self.lock:
            folder = self._folder(cache_dir)
            if folder is None:
                self.get(texts, encode, max_bytes=max_bytes)
                return
            work = SharedWork(folder, texts)
            progress = Progress(work)
            with closing(work.claims()) as claims:
                for claim in claims:
                    self.get(
                        claim,
                        lambda new: progress.watch(encode(new)),
                        max_bytes=max_bytes,
                        cache_dir=cache_dir,
                    )
            folder.tidy()
            progress.report()

    def _folder(self, cache_dir: Path | None) -> ShardFolder | None:
        if cache_dir is None:
            return None
        path = folder_of(self.key, cache_dir)
        if path not in self.folders:
            try:
                os.makedirs(cache_dir, exist_ok=True)
            except OSError as error:
                raise OSError(
                    f"cache_dir={os.fspath(cache_dir)!r} cannot be used as a directory "
                    f"({error.strerror}): pass one that exists or can be made, or None "
                    "to keep vectors in memory only."
                ) from error
            self.folders[path] = ShardFolder(path)
        return self.folders[path]

    def _read(self, folder: ShardFolder, digests: Digests, answer: "_Answer") -> None:
        """Copy what is on disk into the answer; look again for what is not."""
        for look_again in (False, True):
            missing = answer.missing()
            if not len(missing):
                return
            if look_again:
                folder.refresh()
            for places, vectors in folder.find(digests[missing]):
                answer.put(missing[places], vectors)

    def _publish(self, folder: ShardFolder, texts: list[str], vectors: Vectors) -> bool:
        try:
            folder.publish(digests_of(texts), vectors)
        except OSError as error:
            warnings.warn(
                f"Vectors could not be written to {folder.path!r} ({error.strerror}); "
                "they are kept in memory only. Make room or the directory writable, "
                "and call warm(texts) to store them.",
                UserWarning,
                stacklevel=2,
            )
            return False
        return True


class Memory:
    """An array of vectors that grows by doubling; the oldest go when it is full."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}  # text -> row of vectors
        self.vectors: Vectors = np.empty((0, 0), dtype=np.float32)
        self.size = 0  # rows in use

    def take(self, texts: list[str]) -> Vectors:
        return self.vectors[[self.rows[text] for text in texts]]

    def append(self, texts: list[str], vectors: Vectors) -> None:
        needed = self.size + len(texts)
        if needed > len(self.vectors):
            room = max(needed, 2 * len(self.vectors))
            grown = np.empty((room, vectors.shape[1]), dtype=np.float32)
            if self.size:
                grown[: self.size] = self.vectors[: self.size]
            self.vectors = grown
        self.vectors[self.size : needed] = vectors
        self.rows.update(zip(texts, range(self.size, needed), strict=True))
        self.size = needed

    def trim(self, max_bytes: int) -> None:
        most = max_bytes // max(4 * self.vectors.shape[1], 1)
        if self.size > most:
            drop = self.size - 3 * most // 4  # room for more, or each text would trim
            self.vectors = self.vectors[drop : self.size].copy()
            self.size -= drop
            self.rows = {t: row - drop for t, row in self.rows.items() if row >= drop}


class _Answer:
    """The vectors of a request, filled from several places."""

    def __init__(self, n: int) -> None:
        self.filled = np.zeros(n, dtype=bool)
        self.vectors: Vectors = np.empty((n, 0), dtype=np.float32)

    def missing(self) -> Ints:
        return np.flatnonzero(~self.filled)

    def put(self, rows: Ints | list[int], vectors: Vectors) -> None:
        if not self.vectors.shape[1]:
            shape = (len(self.filled), vectors.shape[1])
            self.vectors = np.empty(shape, dtype=np.float32)
        if vectors.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"There are vectors of {self.vectors.shape[1]} and of "
                f"{vectors.shape[1]} dimensions under one name: the model behind it "
                "has changed. Give it another name, or call clear()."
            )
        self.vectors[rows] = vectors
        self.filled[rows] = True
