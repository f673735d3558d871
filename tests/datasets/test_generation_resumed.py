"""generate_pairs goes on where it was stopped, and only there."""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from skembft.datasets import _generation, generate_pairs, load_qa_dataset
from tests.datasets.generation import DOCUMENTS, Asked, number_of, same
from tests.datasets.killed_generation import llm

pytestmark = pytest.mark.usefixtures("no_waiting")


# interrupts and crashes


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_keeps_what_has_been_answered(tmp_path, error):
    path, begun = tmp_path / "x.json", threading.Event()
    asked = Asked()

    def interrupted(prompt):
        answer = asked(prompt)
        if number_of(prompt) == 5:
            begun.wait(10)
            raise error
        if number_of(prompt) == 6:  # under way: it ends, and counts
            begun.set()
            time.sleep(0.05)
        return answer

    with pytest.raises(error):
        generate_pairs(DOCUMENTS, interrupted, path=path, n_jobs=2)
    first = set(asked.counts) - {5}
    assert 6 in first and first < set(range(12))
    partial = load_qa_dataset(path)
    assert {document for row in partial.relevant for document in row} == {
        DOCUMENTS[i] for i in first
    }
    asked.counts.clear()
    same(generate_pairs(DOCUMENTS, asked, path=path), generate_pairs(DOCUMENTS, llm))
    assert asked.counts == dict.fromkeys(set(range(12)) - first, 1)


@pytest.mark.parametrize("moment", ["waiting", "beginning"])
def test_control_c(tmp_path, monkeypatch, moment):
    """A real signal, while a failed call backs off.

    Importing polars changes how signals arrive, also where it is not used.
    """
    path, backing_off, asked = tmp_path / "x.json", threading.Event(), Asked({3})
    main_thread = threading.main_thread().ident

    def interrupt():
        backing_off.wait(10)
        time.sleep(0.1)
        signal.pthread_kill(main_thread, signal.SIGINT)

    def stuck(prompt):
        if number_of(prompt) == 3:
            backing_off.set()
        return asked(prompt)

    class Slow(_generation.ThreadPoolExecutor):
        def submit(self, *args):
            if moment == "beginning":
                time.sleep(0.05)
            return super().submit(*args)

    monkeypatch.setattr(_generation, "ThreadPoolExecutor", Slow)
    monkeypatch.setattr(_generation, "_FIRST_DELAY", 20.0)
    thread, start = threading.Thread(target=interrupt), time.monotonic()
    # a shell's background jobs ignore SIGINT
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            generate_pairs(DOCUMENTS, stuck, path=path, n_jobs=2)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < 15  # the first wait alone is longer
    assert asked.counts[3] == 1
    kept, again = journaled(path), Asked()
    same(generate_pairs(DOCUMENTS, again, path=path), generate_pairs(DOCUMENTS, llm))
    assert again.counts == dict.fromkeys(set(range(12)) - kept, 1)


def test_the_file_loads_at_every_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(_generation, "_SAVE_EVERY", 1)
    path, done, sizes, errors = tmp_path / "x.json", threading.Event(), [], []

    def watch():
        nonlocal errors
        while not done.is_set():
            try:
                sizes.append(len(load_qa_dataset(path).queries))
            except FileNotFoundError:
                errors += ["lost"] if sizes else []
            except ValueError as error:
                errors.append(error)

    def slow(prompt):
        time.sleep(0.005)
        return llm(prompt)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        generate_pairs(DOCUMENTS, slow, path=path, n_jobs=1)
    finally:
        done.set()
        thread.join()
    assert not errors
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 3


@pytest.fixture(scope="module")
def kill():
    """A function that runs generate_pairs and SIGKILLs it at its count-th line."""
    script = Path(__file__).with_name("killed_generation.py")
    with subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as server:

        def kill(path, log, count):
            request = {"path": str(path), "log": str(log), "count": count}
            server.stdin.write(json.dumps({"documents": DOCUMENTS, **request}) + "\n")
            server.stdin.flush()
            return server.stdout.readline().strip()

        yield kill
        server.stdin.close()


def journaled(path):
    """The documents in the whole lines of a journal."""
    journal = path.with_name(f"{path.name}.journal")
    lines = journal.read_bytes().split(b"\n")[1:-1] if journal.exists() else []
    ids = [json.loads(line)["document"] for line in lines]
    assert len(ids) == len(set(ids))
    return {int(i[1:]) for i in ids}


def check_kills(kill, folder, seed, n_kills):
    """Kill some runs at random moments, go on with each, and compare the ends."""
    folder.mkdir()
    n_lines = int(kill(folder / "whole.json", folder / "log", None))
    whole = (folder / "whole.json").read_bytes()
    same(load_qa_dataset(folder / "whole.json"), generate_pairs(DOCUMENTS, llm))
    rng, n_killed, n_began = random.Random(seed), 0, 0
    for i in itertools.count():
        path, log = folder / f"{i}.json", folder / f"{i}.log"
        kept = set()
        while (outcome := kill(path, log, rng.randint(1, n_lines))) == "killed":
            n_killed += 1
            before, kept = kept, journaled(path)
            assert before <= kept  # nothing is lost
            if path.exists():  # complete, old or new
                n_began += 1
                held = load_qa_dataset(path)
                named = {number_of(d) for row in held.relevant for d in row}
                assert held.corpus == DOCUMENTS and named <= kept
                for document in named:
                    assert f"What is no. {document}?" in held.queries
            # once it is in the journal, a document is not asked for again
            calls = list(map(int, log.read_text().split())) if log.exists() else []
            log.write_text("")
            assert set(Counter(calls).values()) <= {1} and not set(calls) & before
            if rng.random() < 0.5:
                break
        if outcome == "killed":
            asked = Asked()
            generate_pairs(DOCUMENTS, asked, path=path)
            assert asked.counts == dict.fromkeys(set(range(12)) - kept, 1)
        assert path.read_bytes() == whole
        assert journaled(path) == set(range(12))
        if n_killed >= n_kills:
            assert n_began > n_kills / 10
            return


def test_killed(kill, tmp_path):
    check_kills(kill, tmp_path / "kills", 0, 6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_at_50_moments(kill, tmp_path, seed):
    check_kills(kill, tmp_path / "kills", seed, 50)


@pytest.fixture
def finished(tmp_path):
    """A finished data set of three documents and its journal."""
    path = tmp_path / "x.json"
    generate_pairs(DOCUMENTS[:3], llm, path=path, n_jobs=1)
    return path, path.with_name("x.json.journal")


def test_a_finished_data_set_is_not_asked_for(finished):
    asked = Asked()
    data = generate_pairs(DOCUMENTS[:3], asked, path=finished[0])
    assert not asked.counts
    same(data, load_qa_dataset(finished[0]))


def test_a_journal_torn_anywhere_is_mended(finished):
    path, journal = finished
    whole, content = journal.read_bytes(), path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in {*range(0, len(whole), 97), *ends, *(end - 1 for end in ends)}:
        path.unlink()
        journal.write_bytes(whole[:size])
        asked, kept = Asked(), max(sum(end <= size for end in ends) - 1, 0)
        generate_pairs(DOCUMENTS[:3], asked, path=path, n_jobs=1)
        assert asked.counts == dict.fromkeys(range(kept, 3), 1)
        assert journal.read_bytes() == whole
        assert path.read_bytes() == content


def test_the_file_is_written_again_from_the_journal(finished):
    path, _ = finished
    content = path.read_bytes()
    path.unlink()
    asked = Asked()
    generate_pairs(DOCUMENTS[:3], asked, path=path)
    assert not asked.counts
    assert path.read_bytes() == content


def test_a_line_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    """As on a full disk: the error is passed on, and the next call goes on."""
    path, fsync, calls = tmp_path / "x.json", os.fsync, []

    def full(descriptor):
        calls.append(1)
        if len(calls) == 4:  # the header, two documents, this one
            raise OSError("No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        generate_pairs(DOCUMENTS, llm, path=path, n_jobs=1)
    kept = journaled(path)
    assert 2 not in kept and {0, 1} <= kept
    asked = Asked()
    same(generate_pairs(DOCUMENTS, asked, path=path), generate_pairs(DOCUMENTS, llm))
    assert asked.counts == dict.fromkeys(set(range(12)) - kept, 1)


def test_a_prompt_can_be_mended_before_the_first_answer(tmp_path):
    path = tmp_path / "x.json"

    def refuses(prompt):
        raise ConnectionError("401")

    with pytest.raises(RuntimeError, match="nothing was generated"):
        generate_pairs(DOCUMENTS, refuses, path=path, n_queries=3)
    same(generate_pairs(DOCUMENTS, llm, path=path), generate_pairs(DOCUMENTS, llm))


def test_a_key_that_expires_stops_the_calls(tmp_path):
    documents, calls = [f"document {i}" for i in range(400)], []

    def expires(prompt):
        calls.append(prompt)
        if len(calls) > 10:
            time.sleep(0.01)
            raise ConnectionError("401")
        return "1. What?"

    with pytest.warns(UserWarning, match="390 of 400 documents have no queries"):
        data = generate_pairs(
            documents, expires, path=tmp_path / "x.json", n_jobs=1, n_retries=0
        )
    assert 60 <= len(calls) < 200
    assert data.failures[0][1] == "ConnectionError: 401"
    assert "after many failures in a row" in data.failures[-1][1]


# other arguments, other files


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        (DOCUMENTS[:3], {"n_queries": 3}, "n_queries was 2, and is 3"),
        (
            DOCUMENTS[:3],
            {"prompt": _generation.DEFAULT_PROMPT[:-5] + "{{}}"},
            "the prompt was 'lse.\\n', and is '{{}}'",
        ),
        (DOCUMENTS[:5], {}, "2 documents are new (the first is 'd3')"),
        (DOCUMENTS[:1], {}, "2 documents are missing (the first is 'd1')"),
        (
            [DOCUMENTS[0], "other", DOCUMENTS[2], "more"],
            {},
            "1 documents are new (the first is 'd3'), 1 documents are changed (the "
            "first is 'd1')",
        ),
        (
            {f"d{i}": DOCUMENTS[i] for i in (1, 0, 2)},
            {},
            "the documents are in another order",
        ),
    ],
)
def test_other_arguments_are_refused(finished, documents, options, message):
    path, journal = finished
    before, asked = (path.read_bytes(), journal.read_bytes()), Asked()
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        generate_pairs(documents, asked, path=path, **options)
    assert "x.json was begun with other arguments" in str(error.value)
    assert not asked.counts
    assert (path.read_bytes(), journal.read_bytes()) == before


def test_a_foreign_file_is_not_replaced(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="was not written by generate_pairs"):
        generate_pairs(DOCUMENTS, llm, path=path)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"relevant_docs": {"a": 1}}']
)
def test_a_file_that_was_changed_is_not_replaced(finished, content):
    path, _ = finished
    path.write_text(content)
    with pytest.raises(FileExistsError, match="something else has changed it"):
        generate_pairs(DOCUMENTS[:3], llm, path=path)
    assert path.read_text() == content


def test_a_file_edited_by_hand_is_not_replaced(finished):
    path, _ = finished
    content = json.loads(path.read_bytes())
    content["queries"]["q0"] = "A better question?"
    path.write_text(json.dumps(content))
    with pytest.raises(FileExistsError, match="load_qa_dataset"):
        generate_pairs(DOCUMENTS[:3], llm, path=path)
    assert load_qa_dataset(path).queries[0] == "A better question?"


@pytest.mark.parametrize("content", ["mine", "mine\nand yours\n", "[]\n", "\n", "{}\n"])
def test_a_foreign_journal_is_not_touched(tmp_path, content):
    journal = tmp_path / "x.json.journal"
    journal.write_text(content)
    with pytest.raises(ValueError, match="not a journal of generate_pairs"):
        generate_pairs(DOCUMENTS, llm, path=tmp_path / "x.json")
    assert journal.read_text() == content


LINE = '{"document": "d1", "queries": ["a?"]}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "must be a JSON object"),
        ("nonsense", "must be a JSON object"),
        ("[1]", "must be a JSON object"),
        ('{"document": 1, "queries": ["a?"]}', "must be a JSON object"),
        ('{"document": "d1", "queries": "a?"}', "must be a JSON object"),
        ('{"document": "d1", "queries": []}', "must be a JSON object"),
        ('{"document": "d1", "queries": ["a?", 1]}', "must be a JSON object"),
        ('{"document": "d1"}', "must be a JSON object"),
        ('{"document": "d9", "queries": ["a?"]}', "names an unknown document 'd9'"),
        (f"{LINE}\n{LINE}", "repeats the document 'd1'"),
    ],
)
def test_damaged_lines(finished, line, message):
    path, journal = finished
    header = journal.read_text().splitlines()[0]
    journal.write_text(f"{header}\n{line}\n")
    asked = Asked()
    with pytest.raises(ValueError, match=message) as error:
        generate_pairs(DOCUMENTS[:3], asked, path=path)
    assert f"{journal}, line " in str(error.value)
    assert not asked.counts


def test_header_of_wrong_types(finished):
    path, journal = finished
    header, *lines = journal.read_text().splitlines(keepends=True)
    for key, value in (("generate_pairs", 2), ("prompt", None), ("documents", [])):
        journal.write_text(json.dumps({**json.loads(header), key: value}) + "\n")
        with pytest.raises(ValueError, match="not a journal of generate_pairs"):
            generate_pairs(DOCUMENTS[:3], llm, path=path)
    assert lines


def test_two_calls_do_not_write_the_same_file(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "x.json"

    def nested(prompt):
        with pytest.raises(RuntimeError, match="Another call of generate_pairs"):
            generate_pairs(DOCUMENTS, llm, path=path)
        return llm(prompt)

    same(generate_pairs(DOCUMENTS, nested, path=path), load_qa_dataset(path))
