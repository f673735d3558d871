"""Texts that processes encode together into a directory, each once, kills included."""

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from skembft import APIEncoder
from skembft._utils.locks import lock_if_free
from skembft.encoders import _shared_work
from skembft.encoders._shards import ShardFolder

BATCH = 20


def texts_of(first, n):
    return [f"{i:08d}" for i in range(first, first + n)]


class Client:
    """Notes in a file what it encodes; the vectors depend on the texts alone."""

    def __init__(self, notes=None, pause=0.0):
        self.notes, self.pause = notes, pause

    def encode(self, texts):
        if self.notes is not None:
            with open(self.notes, "a", encoding="utf-8") as file:
                file.write("".join(f"{text}\n" for text in texts))
        time.sleep(self.pause)
        rows = [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]
        return np.array(rows, dtype=np.float32)


def encoder_of(cache_dir, client):
    options = {"model_name": "shared", "normalize": False, "batch_size": BATCH}
    return APIEncoder(client, cache_dir=cache_dir, max_store_bytes=0, **options)


def noted(folder):
    lines = [path.read_text().splitlines() for path in Path(folder).glob("*.notes")]
    return Counter(text for texts in lines for text in texts)


def check_store(cache_dir, texts):
    """Every text is there once, with its vector."""
    (folder,) = Path(cache_dir).iterdir()
    shards = ShardFolder(str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shards.refresh()
        vectors = encoder_of(cache_dir, lambda new: 1 / 0).transform(texts)
    assert shards.n_vectors == len(texts)
    np.testing.assert_array_equal(vectors, Client().encode(texts))


WARMER = """
import sys
from tests.encoders.test_shared_work import Client, encoder_of, texts_of

cache_dir, notes, first, n, pause = sys.argv[1:]
encoder = encoder_of(cache_dir, Client(notes, float(pause)))
print("ready", flush=True)
sys.stdin.readline()
encoder.warm(texts_of(int(first), int(n)))
"""


class Warmers:
    """Processes that wait until they may warm."""

    def __init__(self, folder, starts, n, pause=0.01):
        self.processes = []
        for i, first in enumerate(starts):
            notes = folder / f"{first}-{i}.notes"
            arguments = [folder / "vectors", notes, first, n, pause]
            command = [sys.executable, "-W", "error", "-c", WARMER]
            process = subprocess.Popen(
                [*command, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            self.processes.append(process)

    def go(self):
        for process in self.processes:
            process.stdout.readline()
        for process in self.processes:
            process.stdin.write(b"go\n")
            process.stdin.close()
        return self.processes


def test_two_processes_share_the_texts(tmp_path):
    texts = texts_of(0, 3000)
    warmers = Warmers(tmp_path, [0, 0], 3000)
    assert [process.wait(timeout=60) for process in warmers.go()] == [0, 0]
    assert noted(tmp_path) == dict.fromkeys(texts, 1)
    parts = [len(path.read_text().split()) for path in tmp_path.glob("*.notes")]
    assert len(parts) == 2 and min(parts) > 100
    check_store(tmp_path / "vectors", texts)


def kill_at_random_moments(folder, n_kills):
    """One of two processes, again and again; the other goes on with its texts."""
    rng = random.Random(0)
    n = 1500
    for i in range(n_kills):
        # lists that differ, some of whose texts are there
        starts = [i * n, max(i * n - 100, 0)]
        killed, other = rng.sample(Warmers(folder, starts, n).go(), 2)
        while not noted(folder).keys() & set(texts_of(i * n, n)):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert other.wait(timeout=60) == 0
    texts = texts_of(0, n_kills * n)
    encoder_of(folder / "vectors", Client(folder / "last.notes")).warm(texts)
    counts = noted(folder)
    assert sorted(counts) == texts
    # but for the batch that was in flight
    assert sum(counts.values()) - len(counts) <= n_kills * BATCH
    check_store(folder / "vectors", texts)


def test_a_killed_process(tmp_path):
    kill_at_random_moments(tmp_path, 1)


@pytest.mark.slow
def test_fifty_killed_processes(tmp_path):
    kill_at_random_moments(tmp_path, 50)


def test_a_process_waits_for_what_another_encodes(tmp_path):
    """Rather than encode it too; all are there when it returns."""
    texts, client = texts_of(0, 5), Client()
    encoder_of(tmp_path, client).warm(["00000099"])
    (folder,) = tmp_path.iterdir()
    work = _shared_work.SharedWork(ShardFolder(str(folder)), texts)
    claims = work.claims()
    assert sorted(next(claims)) == texts
    waiting = threading.Thread(
        target=encoder_of(tmp_path, Client(tmp_path / "waiting.notes")).warm,
        args=(texts[:3],),
    )
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    claims.close()  # unwritten, as by a kill
    waiting.join(10)
    assert sorted(noted(tmp_path)) == texts[:3]


def test_a_failing_client_frees_its_texts(tmp_path):
    def failing(texts):
        raise ConnectionError("gone")

    texts = texts_of(0, 50)
    with pytest.raises(ConnectionError, match="gone"):
        encoder_of(tmp_path, failing).warm(texts)
    encoder_of(tmp_path, Client(tmp_path / "all.notes")).warm(texts)
    assert len(noted(tmp_path)) == 50


def test_warming_takes_no_memory_for_vectors(tmp_path, monkeypatch):
    """What is there is not read either."""
    encoder = encoder_of(tmp_path, Client())
    encoder.warm(texts_of(0, 300))
    monkeypatch.setattr(ShardFolder, "find", lambda self, digests: 1 / 0)
    encoder.warm(texts_of(0, 300))


@pytest.mark.parametrize("code", ["ENOLCK", "EROFS"])
def test_files_that_cannot_be_locked(tmp_path, monkeypatch, code):
    """Texts may be encoded twice then, and a warning says so."""
    import errno

    import filelock

    def refused(self, timeout=None):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr(filelock.FileLock, "acquire", refused)
    with pytest.warns(UserWarning, match="cannot be locked .*the same texts"):
        encoder_of(tmp_path, Client()).warm(texts_of(0, 30))
    check_store(tmp_path, texts_of(0, 30))


def test_a_lock_is_for_one(tmp_path):
    with lock_if_free(tmp_path / "a" / "b.lock") as first:
        with lock_if_free(tmp_path / "a" / "b.lock") as second:
            assert first and not second
    with lock_if_free(tmp_path / "a" / "b.lock") as third:
        assert third


def test_what_a_killed_merge_left_is_removed(tmp_path):
    """The merged file was there, and those that it was made of."""
    encoder = encoder_of(tmp_path, Client())
    encoder.warm(texts_of(0, 60))
    (path,) = tmp_path.iterdir()
    folder = ShardFolder(str(path))
    folder.refresh()
    old = {
        shard.path: Path(shard.path).read_bytes() for shard in folder.shards.values()
    }
    folder._merge(list(folder.shards.values()))
    for name, content in old.items():
        Path(name).write_bytes(content)
    encoder.warm(texts_of(0, 60))
    check_store(tmp_path, texts_of(0, 60))


def test_progress_is_logged(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(_shared_work, "_REPORT", 0)
    with caplog.at_level(logging.INFO, "skembft"):
        encoder_of(tmp_path, Client()).warm(texts_of(0, 60))
    assert len(caplog.messages) == 4
    assert caplog.messages[-1].startswith("60 texts wanted, 60 vectors in ")
    assert "encoded here: 60 texts, " in caplog.messages[-1]
