"""The store of encoded texts: shards on disk, crashes, damage, full disks, races."""

import errno
import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from skembft.encoders._shards import ShardFolder, digests_of
from skembft.encoders._store import Store, drop_store, folder_of

KEY = ("model", "prompt")
BIG = 2**30


def vectors_of(texts):
    """An encoder to compare with: each text's vector depends on the text alone."""
    rows = [np.frombuffer(text.encode().ljust(8)[:8], dtype=np.uint8) for text in texts]
    return np.array(rows, dtype=np.float32) + np.float32(0.1)


class Encoder:
    """Counts what it encodes, and gives it in portions."""

    def __init__(self, portion=7):
        self.texts, self.portion = [], portion

    def __call__(self, texts):
        for start in range(0, len(texts), self.portion):
            part = texts[start : start + self.portion]
            self.texts += part
            yield part, vectors_of(part)


def words(n, start=0):
    return [f"text{i}" for i in range(start, start + n)]


def check(cache_dir, texts, encode=None, **options):
    """A new store gives the right vectors; return the texts that it encoded."""
    encode = encode or Encoder()
    store = Store(KEY)
    options = {"max_bytes": BIG, "cache_dir": cache_dir, **options}
    np.testing.assert_array_equal(
        store.get(texts, encode, **options), vectors_of(texts)
    )
    return encode.texts


def shards(cache_dir):
    folder = folder_of(KEY, cache_dir)
    names = [name for name in os.listdir(folder) if name.endswith(".shard")]
    return sorted(os.path.join(folder, name) for name in names)


def test_texts_are_found_by_another_store(tmp_path):
    texts = words(50)
    assert check(tmp_path, texts[:30] + texts[:5]) == texts[:30]
    assert check(str(tmp_path), texts[::-1]) == texts[:29:-1]
    assert check(tmp_path, texts) == []
    assert check(None, texts) == texts  # in memory only


def test_an_error_loses_nothing_that_came_before(tmp_path):
    def failing(texts):
        encode = Encoder(portion=10)(texts)
        yield next(encode)
        yield next(encode)
        raise ConnectionError("gone")

    for cache_dir in (tmp_path, None):
        store, encode = Store(KEY), Encoder()
        with pytest.raises(ConnectionError, match="gone"):
            store.get(words(40), failing, max_bytes=BIG, cache_dir=cache_dir)
        got = store.get(words(40), encode, max_bytes=BIG, cache_dir=cache_dir)
        np.testing.assert_array_equal(got, vectors_of(words(40)))
        assert encode.texts == words(20, 20)


def test_shards_of_other_processes_are_seen_without_encoding(tmp_path):
    mine, other = Store(KEY), Encoder()
    options = {"max_bytes": BIG, "cache_dir": tmp_path}
    mine.get(words(3), other, **options)
    Store(KEY).get(words(9), other, **options)
    encode = Encoder()
    np.testing.assert_array_equal(
        mine.get(words(9), encode, **options), vectors_of(words(9))
    )
    assert not encode.texts


def test_small_shards_are_merged(tmp_path):
    """Also under a reader that has opened, or only listed, what is removed."""
    options = {"max_bytes": BIG, "cache_dir": tmp_path}
    writer, reader = Store(KEY), Store(KEY)
    texts = words(60)
    for i, text in enumerate(texts):
        writer.get([text], Encoder(), **options)
        if i == 10:
            reader.get(texts[:11], Encoder(), **options)
    assert len(shards(tmp_path)) <= 16
    assert check(tmp_path, texts) == []
    encode = Encoder()
    got = reader.get(texts, encode, **options)
    np.testing.assert_array_equal(got, vectors_of(texts))
    assert not encode.texts
    assert set(reader.folders[folder_of(KEY, tmp_path)].shards) == {
        os.path.basename(path) for path in shards(tmp_path)
    }


def test_large_shards_are_merged_too(tmp_path, monkeypatch):
    """Of about one size: no vector is copied more often than there are sizes."""
    from skembft.encoders import _shards

    monkeypatch.setattr(_shards, "_SMALL", 200)  # bytes of four vectors
    store, texts, written = Store(KEY), words(300), []
    write = _shards.write_shard

    def counting(folder, digests, blocks, width):
        written.append(len(digests))
        return write(folder, digests, blocks, width)

    monkeypatch.setattr(_shards, "write_shard", counting)
    options = {"max_bytes": BIG, "cache_dir": tmp_path}
    for start in range(0, 300, 5):
        store.get(texts[start : start + 5], Encoder(), **options)
    assert len(shards(tmp_path)) <= 20
    assert sum(written) <= 4 * len(texts)
    assert check(tmp_path, texts) == []


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files")
def test_shards_take_no_file_handles(tmp_path, monkeypatch):
    from skembft.encoders import _shards

    monkeypatch.setattr(_shards, "_MANY", 1000)
    texts, options = words(60), {"max_bytes": BIG, "cache_dir": tmp_path}
    store, before = Store(KEY), len(os.listdir("/proc/self/fd"))
    for text in texts:
        store.get([text], Encoder(), **options)
    assert len(shards(tmp_path)) == 60
    assert check(tmp_path, texts) == []
    assert len(os.listdir("/proc/self/fd")) == before
    with open("/proc/self/maps") as maps:
        assert str(tmp_path) not in maps.read()


def test_a_shard_that_is_merged_while_it_is_read(tmp_path, monkeypatch):
    """As its file is gone, the reader looks again, and encodes nothing."""
    from skembft.encoders import _shards

    options = {"max_bytes": BIG, "cache_dir": tmp_path}
    texts, reader = words(30), Store(KEY)
    for start in range(0, 30, 2):
        reader.get(texts[start : start + 2], Encoder(), **options)
    read, merged = _shards.Shard.read, []

    def merging(self, rows):
        if not merged:
            merged.append(True)
            other = ShardFolder(folder_of(KEY, tmp_path))
            other.refresh()
            other._merge(list(other.shards.values()))
        return read(self, rows)

    monkeypatch.setattr(_shards.Shard, "read", merging)
    encode = Encoder()
    got = reader.get(texts, encode, **options)
    np.testing.assert_array_equal(got, vectors_of(texts))
    assert not encode.texts


def test_what_killed_writers_left_is_removed(tmp_path):
    options = {"max_bytes": BIG, "cache_dir": tmp_path}
    store = Store(KEY)
    store.get(words(3), Encoder(), **options)
    folder = folder_of(KEY, tmp_path)
    for name, age in (("old", 7200), ("new", 60)):
        path = os.path.join(folder, f"{name}.shard.tmp")
        with open(path, "wb") as file:
            file.write(b"half a shard")
        os.utime(path, (time.time() - age, time.time() - age))
    store.get(words(6), Encoder(), **options)
    left = [name for name in os.listdir(folder) if name.endswith(".tmp")]
    assert left == ["new.shard.tmp"]  # which another process may be writing


@pytest.mark.parametrize("every", [1, 2, 7, 50])
def test_vectors_at_any_distance(tmp_path, every):
    """Neighbours on disk are read at once, others one by one."""
    options = {"max_bytes": BIG, "cache_dir": tmp_path}
    texts, encode = words(400), Encoder(portion=400)
    Store(KEY).get(texts, encode, **options)
    assert check(tmp_path, texts[::every]) == []


def test_a_merge_that_fails_loses_nothing(tmp_path, monkeypatch):
    from skembft.encoders import _shards

    write = _shards.write_shard

    def full(folder, digests, blocks, width):
        if len(digests) > 1:
            raise OSError(errno.ENOSPC, "full")
        return write(folder, digests, blocks, width)

    monkeypatch.setattr(_shards, "write_shard", full)
    store = Store(KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in words(30):
            store.get([text], Encoder(), max_bytes=BIG, cache_dir=tmp_path)
    assert len(shards(tmp_path)) == 30
    assert check(tmp_path, words(30)) == []


def test_a_listed_shard_that_is_gone_is_looked_for_again(tmp_path, monkeypatch):
    check(tmp_path, words(5))
    folder = ShardFolder(folder_of(KEY, tmp_path))
    listed = folder._list()
    lists = iter([listed | {"gone.shard"}, listed])
    monkeypatch.setattr(folder, "_list", lambda: next(lists))
    folder.refresh()
    assert set(folder.shards) == listed


def test_vectors_on_disk_do_not_fill_the_memory(tmp_path):
    store = Store(KEY)
    for _ in range(2):
        store.get(words(100), Encoder(), max_bytes=0, cache_dir=tmp_path)
    assert store.memory.size == 0
    assert check(tmp_path, words(100), max_bytes=0) == []


def test_what_is_in_memory_is_written_when_a_directory_comes(tmp_path):
    store, encode = Store(KEY), Encoder()
    store.get(words(10), encode, max_bytes=BIG)
    store.get(words(10), encode, max_bytes=BIG, cache_dir=tmp_path)
    assert encode.texts == words(10)
    assert check(tmp_path, words(10)) == []


def test_memory_is_bounded():
    store = Store(KEY)
    for start in range(0, 100, 5):
        store.get(words(10, start), Encoder(), max_bytes=20 * 8 * 4)
        assert store.memory.size <= 20
    assert len(store.memory.vectors) <= 40


DAMAGE = {
    "empty": lambda data: b"",
    "cut in the header": lambda data: data[:40],
    "cut in the vectors": lambda data: data[:-3],
    "longer": lambda data: data + b"x",
    "magic": lambda data: b"X" + data[1:],
    "number of rows": lambda data: data[:8] + b"\x01" + data[9:],
    "width": lambda data: data[:16] + b"\x01" + data[17:],
    "checksum": lambda data: data[:24] + bytes([data[24] ^ 1]) + data[25:],
    "digests": lambda data: data[:70] + bytes([data[70] ^ 1]) + data[71:],
    "vectors": lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
    "something else": lambda data: b"%PDF-1.7 " * 100,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_named_once_and_encoded_again(tmp_path, damage):
    check(tmp_path, words(7))
    [path] = shards(tmp_path)
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(DAMAGE[damage](data))
    with pytest.warns(UserWarning, match=os.path.basename(path)) as caught:
        assert check(tmp_path, words(12)) == words(12)
    assert len(caught) == 1
    assert path not in shards(tmp_path)  # replaced
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check(tmp_path, words(12)) == []


def test_unfinished_and_other_files_are_ignored(tmp_path):
    check(tmp_path, words(7))
    folder = folder_of(KEY, tmp_path)
    for name in ("abc.shard.tmp", "notes.txt"):
        with open(os.path.join(folder, name), "w") as file:
            file.write("half")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check(tmp_path, words(7)) == []
    drop_store(KEY, tmp_path)
    assert os.listdir(folder) == ["notes.txt"]
    assert check(tmp_path, words(7)) == words(7)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("call", ["replace", "fsync", "makedirs"])
def test_a_full_or_read_only_disk_costs_nothing_but_a_warning(
    tmp_path, monkeypatch, code, call
):
    check(tmp_path, words(5))
    store, encode = Store(KEY), Encoder()
    options = {"max_bytes": BIG, "cache_dir": tmp_path}

    def refused(path, *args, **kwargs):
        if os.fspath(path) != os.fspath(tmp_path) if call == "makedirs" else True:
            raise OSError(code, os.strerror(code), path)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refused)
        with pytest.warns(UserWarning, match=f"{os.strerror(code)}.*in memory only"):
            got = store.get(words(20), encode, **options)
        np.testing.assert_array_equal(got, vectors_of(words(20)))
        with pytest.warns(UserWarning, match="in memory only"):
            got = store.get(words(20), encode, **options)
        np.testing.assert_array_equal(got, vectors_of(words(20)))
        assert encode.texts == words(15, 5)  # once, and those on disk were read
    assert len(shards(tmp_path)) == 1  # nothing half-written is left
    store.get(words(20), encode, **options)  # there is room again
    assert encode.texts == words(15, 5)
    assert check(tmp_path, words(20)) == []


def test_a_cache_dir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "below"):
        encode = Encoder()
        with pytest.raises(OSError, match="cache_dir=.*cannot be used as a directory"):
            Store(KEY).get(words(2), encode, max_bytes=BIG, cache_dir=bad)
        assert not encode.texts


def test_vectors_of_another_width_are_an_error(tmp_path):
    check(tmp_path, words(3))

    def wider(texts):
        yield texts, np.ones((len(texts), 9), dtype=np.float32)

    with pytest.raises(ValueError, match="8 and of 9 dimensions"):
        Store(KEY).get(words(5), wider, max_bytes=BIG, cache_dir=tmp_path)


def test_texts_that_utf8_cannot_encode():
    digests = digests_of(["\ud800", "\ud801", ""])
    assert len(np.unique(digests, axis=0)) == 3


def test_threads_that_write_the_same_texts(tmp_path):
    """Stores of their own, as processes have: nothing is shared but the directory."""
    texts = words(120)

    def run(seed):
        rng = np.random.RandomState(seed)
        store = Store(KEY)
        for _ in range(12):
            some = [texts[i] for i in rng.randint(120, size=15)]
            got = store.get(some, Encoder(4), max_bytes=BIG, cache_dir=tmp_path)
            np.testing.assert_array_equal(got, vectors_of(some))

    with warnings.catch_warnings(), ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("error")
        list(pool.map(run, range(4)))
    check(tmp_path, texts)
    assert check(tmp_path, texts) == []


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_store import KEY, BIG, Encoder, words
from skembft.encoders._store import Store
store = Store(KEY)
for start in range(0, 100_000, 5):
    store.get(words(5, start), Encoder(3), max_bytes=BIG, cache_dir=sys.argv[2])
    print(start, flush=True)
"""


def test_killed_writers_lose_at_most_what_they_were_writing(tmp_path):
    """Two writers of the same texts, killed at random moments, time and again."""
    command = [sys.executable, "-W", "error::UserWarning", "-c", WRITER]
    command += [os.path.dirname(__file__), str(tmp_path)]
    rng = np.random.RandomState(0)
    for _ in range(2):
        writers = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for writer in writers:
            writer.stdout.readline()  # it has begun to write
        time.sleep(rng.uniform(0.05, 0.3))
        done = []
        for writer in writers:
            assert writer.poll() is None  # no warning of damage has ended it
            writer.send_signal(signal.SIGKILL)
            lines = writer.communicate()[0].splitlines()
            done += [int(line) for line in lines[:-1]]  # the last may be cut
        assert done
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing is damaged
            store, encode = Store(KEY), Encoder()
            texts = words(max(done) + 5)
            got = store.get(texts, encode, max_bytes=BIG, cache_dir=tmp_path)
        np.testing.assert_array_equal(got, vectors_of(texts))
        assert not encode.texts  # what a writer had finished was not lost


def test_a_passing_error_deletes_nothing(tmp_path, monkeypatch):
    """No memory or no handle for a moment: the file is as good as before."""
    from skembft.encoders import _shards

    digests = _shards.digests_of(["a", "b"])
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    _shards.ShardFolder(str(tmp_path)).publish(digests, vectors)
    folder = _shards.ShardFolder(str(tmp_path))

    def fails(*args, **kwargs):
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(_shards, "open", fails, raising=False)
        with pytest.warns(UserWarning, match="Cannot allocate memory"):
            folder.refresh()
    more = _shards.digests_of(["c"])
    folder.publish(more, vectors[:1])
    assert len(folder.shards) == 2
    found = {int(i): v for at, rows in folder.find(digests) for i, v in zip(at, rows)}  # noqa: B905
    np.testing.assert_array_equal([found[0], found[1]], vectors)


def test_where_all_shards_of_a_merge_are_damaged_nothing_is_merged(tmp_path):
    words_so_far = []
    for i in range(16):
        words_so_far += words(1, i)
        check(tmp_path, words_so_far)
    for path in shards(tmp_path):
        with open(path, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 255]))
    with pytest.warns(UserWarning):
        check(tmp_path, words(1, 100))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check(tmp_path, words(20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check(tmp_path, words(20)) == []
