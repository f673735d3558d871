"""Vectors on disk that processes share: immutable files, published atomically.

A shard is one file: a header, the digests of its texts in ascending order, and their
float32 vectors in that order. It is written under another name and then renamed: it is
there whole or not at all, and never changes. Digests and vectors have checksums; that
of the vectors is compared when the first is read: to know what others have written
takes little reading.
Two writers of the same texts make two shards; what a reader misses is encoded again;
shards of about one size are merged into a new one, by one process at a time, before
they are removed. Files are open only while they are read, and are read, not mapped: on
a network file system a mapped page of a removed file would end the process.
"""

import contextlib
import hashlib
import math
import os
import struct
import uuid
import warnings
import zlib
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from skembft._utils.locks import lock_if_free
from skembft._utils.types import Ints, Vectors

Digests: TypeAlias = NDArray[np.uint64]  # (n, 2)

_SUFFIX, _UNFINISHED = ".shard", ".shard.tmp"
# magic, rows, width, checksums of what follows and of the digests
_HEADER = struct.Struct("<8sQQII32x")
_MAGIC = b"skembft1"
_DIGEST = 16  # bytes
_MANY = 16  # shards of about one size are merged when there are more
_SMALL, _TIER = 64 * 2**20, 8  # bytes of small ones, and how often larger the next are
_BLOCK = 16384  # vectors copied at a time
_ABANDONED = 3600  # seconds after which who began a file is not writing it any more


def digests_of(texts: Iterable[str]) -> Digests:
    """Return the 16-byte digests of texts, an array of shape (n, 2).

    The first half orders and finds them, the second confirms. Two texts that agree in
    the first only (one chance in 10^7 for a million texts) are encoded each time.
    """
    joined = b"".join(
        hashlib.blake2b(
            text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST
        ).digest()
        for text in texts
    )
    return np.frombuffer(joined, dtype="<u8").reshape(-1, 2)


class Shard:
    """A shard, of which the digests are in memory; ValueError of a damaged file.

    `intact` says that its vectors are known to be those that were written.
    """

    def __init__(self, path: str) -> None:
        self.path, self.intact = path, False
        with open(path, "rb") as file:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                raise ValueError("it has no header")
            magic, rows, self.width, self.checksum, checksum = _HEADER.unpack(header)
            if magic != _MAGIC or not rows:
                raise ValueError("it is something else")
            self.nbytes = os.fstat(file.fileno()).st_size
            if self.nbytes != _HEADER.size + rows * (_DIGEST + 4 * self.width):
                raise ValueError("it is truncated")
            raw = file.read(rows * _DIGEST)
        self.digests: Digests = np.frombuffer(raw, dtype="<u8").reshape(rows, 2)
        self.keys = np.ascontiguousarray(self.digests[:, 0])
        if not checksum:  # older files have one for all
            self.check()
        elif zlib.crc32(raw) != checksum:
            raise ValueError("its checksum is wrong")

    def check(self) -> None:
        """Compare the checksum of the vectors, once."""
        if self.intact:
            return
        found = zlib.crc32(self.digests.data)
        with open(self.path, "rb") as file:
            file.seek(self._start)
            while block := file.read(2**20):
                found = zlib.crc32(block, found)
        if found != self.checksum:
            raise ValueError("its checksum is wrong")
        self.intact = True

    @property
    def _start(self) -> int:
        """Where in the file the vectors are."""
        return _HEADER.size + self.digests.nbytes

    def find(self, digests: Digests) -> tuple[Ints, Ints]:
        """Return (places in `digests` that are here, their rows)."""
        rows = np.searchsorted(self.keys, digests[:, 0])
        rows[rows == len(self.keys)] = 0
        at = np.flatnonzero((self.digests[rows] == digests).all(axis=1))
        return at, rows[at]

    def contains(self, other: "Shard") -> bool:
        """Whether all texts of another shard are in this one."""
        return all(
            len(self.find(digests)[0]) == len(digests)
            for digests in (other.digests[:1], other.digests)
        )

    def read(self, rows: Ints) -> Vectors:
        """The vectors of some rows, in ascending order."""
        self.check()
        stride = 4 * self.width
        # rows with small gaps between them are read at once
        runs = np.split(rows, np.flatnonzero(np.diff(rows) > 8) + 1)
        parts = [np.empty((0, self.width), dtype=np.float32)]
        with open(self.path, "rb", buffering=0) as file:
            for run in runs if len(rows) else ():
                first, last = int(run[0]), int(run[-1]) + 1
                file.seek(self._start + stride * first)
                raw = file.read(stride * (last - first))
                block = np.frombuffer(raw, dtype="<f4").reshape(-1, self.width)
                parts.append(block if len(block) == len(run) else block[run - first])
        return parts[-1] if len(parts) == 2 else np.concatenate(parts)


def write_shard(
    folder: str, digests: Digests, blocks: Iterable[Vectors], width: int
) -> str:
    """Publish vectors, given in blocks in ascending order of their digests."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, uuid.uuid4().hex + _SUFFIX)
    unfinished = path.removesuffix(_SUFFIX) + _UNFINISHED
    try:
        with open(unfinished, "xb") as file:
            file.write(bytes(_HEADER.size))
            file.write(digests.tobytes())
            of_digests = checksum = zlib.crc32(digests.tobytes())
            for block in blocks:
                data = np.ascontiguousarray(block, dtype="<f4").tobytes()
                checksum = zlib.crc32(data, checksum)
                file.write(data)
            file.seek(0)
            header = _MAGIC, len(digests), width, checksum, of_digests
            file.write(_HEADER.pack(*header))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the error that is passed on counts
            os.unlink(unfinished)
        raise
    return path


class ShardFolder:
    """The shards of one model and its settings, as this process knows them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.shards: dict[str, Shard] = {}  # by file name
        self.damaged: set[str] = set()  # file names that were warned of

    @property
    def width(self) -> int | None:
        """Dimension of the vectors; None without any."""
        return next((s.width for s in self.shards.values()), None)

    @property
    def n_vectors(self) -> int:
        """Number of vectors, repeated ones included."""
        return sum(len(s.digests) for s in self.shards.values())

    def refresh(self) -> None:
        """Open the shards that other processes have published, drop removed ones."""
        while True:
            names = self._list()
            for name in set(self.shards) - names:
                del self.shards[name]
            try:
                for name in sorted(names - set(self.shards) - self.damaged):
                    self._open(name)
            except FileNotFoundError:  # merged by another process just now: look again
                continue
            return

    def _list(self) -> set[str]:
        try:
            return {n for n in os.listdir(self.path) if n.endswith(_SUFFIX)}
        except FileNotFoundError:
            return set()

    def _open(self, name: str, *, intact: bool = False) -> None:
        path = os.path.join(self.path, name)
        try:
            self.shards[name] = Shard(path)
            self.shards[name].intact |= intact
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            self._leave_out(path, error)

    def _leave_out(self, path: str, error: OSError | ValueError) -> None:
        """Warn of a file that cannot be used."""
        name = os.path.basename(path)
        self.shards.pop(name, None)
        if isinstance(error, ValueError):  # others may pass, and are tried again
            self.damaged.add(name)
        warnings.warn(
            f"The stored vectors in {path!r} cannot be used ({error}); their texts "
            "are encoded again where they are needed.",
            UserWarning,
            stacklevel=2,
        )

    def find(self, digests: Digests) -> Iterator[tuple[Ints, Vectors]]:
        """Yield (places in `digests`, vectors) of those on disk, in blocks."""
        places = np.argsort(digests[:, 0])  # neighbours are neighbours on disk too
        for shard in list(self.shards.values()):
            at, rows = shard.find(digests[places])
            for start in range(0, len(at), _BLOCK):
                block = slice(start, start + _BLOCK)
                try:
                    yield places[at[block]], shard.read(rows[block])
                except (OSError, ValueError) as error:
                    if isinstance(error, ValueError):
                        self._leave_out(shard.path, error)
                    at = at[:start]  # merged by another process: the caller looks again
                    break
            places = np.delete(places, at)
            if not len(places):
                return

    def missing(self, digests: Digests) -> Ints:
        """Places in `digests` of what no shard has."""
        places = np.arange(len(digests))
        for shard in self.shards.values():
            at, _ = shard.find(digests[places])
            places = np.delete(places, at)
        return places

    def publish(self, digests: Digests, vectors: Vectors) -> None:
        """Write vectors for all processes; raise an OSError where that fails."""
        order = np.argsort(digests[:, 0])
        width = vectors.shape[1]
        path = write_shard(self.path, digests[order], [vectors[order]], width)
        with contextlib.suppress(FileNotFoundError):  # merged by another process
            self._open(os.path.basename(path), intact=True)
        self.refresh()
        with contextlib.suppress(OSError):  # untidy is slower, not wrong
            self._remove_abandoned(path)
            for name in self.damaged & self._list():
                os.unlink(os.path.join(self.path, name))
            if self._many():
                self.tidy()

    def tidy(self) -> None:
        """Merge shards of one size where there are many, and remove repeated ones.

        It is left to another process that is at it, and undone where nothing can be
        written.
        """
        if not os.access(self.path, os.W_OK):
            return
        with (
            contextlib.suppress(OSError),
            lock_if_free(os.path.join(self.path, "locks", "tidy.lock")) as free,
        ):
            if free:
                self.refresh()
                self._remove_contained()
                for shards in self._many():
                    few = shards[: _MANY // 2 + 1]
                    intact = [shard for shard in few if self._is_intact(shard)]
                    if len(intact) > 1:
                        self._merge(intact)

    def _is_intact(self, shard: Shard) -> bool:
        """Whether a shard is undamaged; left out if not."""
        try:
            shard.check()
        except ValueError as error:
            self._leave_out(shard.path, error)
            return False
        return True

    def _many(self) -> list[list[Shard]]:
        """Shards of about one size, and of one width, where there are many."""
        tiers: dict[tuple[int, int], list[Shard]] = {}
        for shard in sorted(self.shards.values(), key=lambda shard: shard.nbytes):
            tier = int(math.log(max(shard.nbytes / _SMALL, 1), _TIER))
            tiers.setdefault((tier, shard.width), []).append(shard)
        return [shards for shards in tiers.values() if len(shards) > _MANY]

    def _remove_contained(self) -> None:
        """Remove shards whose vectors are all in another: a merge was killed."""
        shards = sorted(self.shards.values(), key=lambda shard: shard.nbytes)
        for i, shard in enumerate(shards):
            if any(other.contains(shard) for other in shards[i + 1 :]):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(shard.path)
        self.refresh()

    def _remove_abandoned(self, newest: str) -> None:
        """Remove what killed writers left; `newest` tells the file system's time."""
        now = os.stat(newest).st_mtime
        for name in os.listdir(self.path):
            path = os.path.join(self.path, name)
            if name.endswith(_UNFINISHED) and now - os.stat(path).st_mtime > _ABANDONED:
                os.unlink(path)

    def _merge(self, shards: list[Shard]) -> None:
        digests = np.concatenate([s.digests for s in shards])
        _, first = np.unique(digests[:, 0], return_index=True)
        width = shards[0].width

        def blocks() -> Iterator[Vectors]:
            for start in range(0, len(first), _BLOCK):
                rows = first[start : start + _BLOCK]
                block = np.empty((len(rows), width), dtype=np.float32)
                for shard in shards:
                    mine = (rows >= 0) & (rows < len(shard.digests))
                    block[mine] = shard.read(rows[mine])
                    rows = rows - len(shard.digests)
                yield block

        write_shard(self.path, digests[first], blocks(), width)
        for shard in shards:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.unlink(shard.path)
        self.refresh()

    def delete(self) -> None:
        """Remove all shards, those of crashed writers too."""
        self.shards.clear()
        if os.path.isdir(self.path):
            for name in os.listdir(self.path):
                if name.endswith((_SUFFIX, _UNFINISHED)):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(self.path, name))
