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
from types import SimpleNamespace

import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killed_generation import llm

from skembft.datasets import _generation, generate_pairs, load_qa_dataset

DOCUMENTS = [f"This is no. {i} of them." for i in range(12)]


def number_of(prompt):
    return int(prompt.split("no. ")[1].split()[0])


class Asked:
    """An llm that counts how often it is asked for each document, and fails some."""

    def __init__(self, fails=()):
        self.counts, self.fails, self.lock = Counter(), fails, threading.Lock()

    def __call__(self, prompt):
        with self.lock:
            self.counts[number_of(prompt)] += 1
        if number_of(prompt) in self.fails:
            raise ConnectionError(f"no answer for {number_of(prompt)}")
        return llm(prompt)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(_generation, "_FIRST_DELAY", 0.0)


def same(data, loaded):
    keys = ("queries", "relevant", "corpus", "query_ids", "corpus_ids")
    assert {key: data[key] for key in keys} == {key: loaded[key] for key in keys}


# what comes out


def test_result():
    data = generate_pairs(DOCUMENTS[:4], llm)
    assert data.queries == [
        *("What of 0?", "What is no. 0?", "What of 1?", "What is no. 1?"),
        *("What of 2?", "What is no. 2?", "What is no. 3?"),
    ]
    d0, d1, d2, d3 = DOCUMENTS[:4]
    assert data.relevant == [[d0, d3], [d0], [d1], [d1], [d2], [d2], [d3]]
    assert data.corpus == DOCUMENTS[:4]
    assert data.corpus_ids == ["d0", "d1", "d2", "d3"]
    assert data.query_ids == [f"q{i}" for i in range(7)]
    assert data.failures == []
    assert data.DESCR == "7 generated queries, 4 documents, of which 0 have none."


def test_queries_that_differ_in_case_are_one():
    answers = {0: "1. What is IT?\n2. what is it?", 1: "1. WHAT IS IT?\n2. Why?"}
    data = generate_pairs(DOCUMENTS[:2], lambda prompt: answers[number_of(prompt)])
    assert data.queries == ["What is IT?", "Why?"]
    assert data.relevant == [DOCUMENTS[:2], DOCUMENTS[1:2]]


def test_same_documents_are_asked_for_once():
    asked = Asked()
    data = generate_pairs([*DOCUMENTS[:2], DOCUMENTS[0]], asked)
    assert data.corpus == DOCUMENTS[:2]
    assert asked.counts == {0: 1, 1: 1}


def test_ids_are_kept(tmp_path):
    documents = {"a": DOCUMENTS[0], "b": DOCUMENTS[1], "again": DOCUMENTS[0]}
    data = generate_pairs(documents, llm, path=tmp_path / "x.json")
    assert data.corpus_ids == ["a", "b"]
    same(data, load_qa_dataset(tmp_path / "x.json"))
    content = json.loads((tmp_path / "x.json").read_bytes())
    assert content["relevant_docs"]["q0"] == ["a"]
    assert content["mode"] == "text"


@pytest.mark.parametrize("series", [pd.Series, pl.Series])
def test_a_series_is_a_list(series):
    same(generate_pairs(series(DOCUMENTS), llm), generate_pairs(DOCUMENTS, llm))


def test_prompt_and_n_queries():
    prompts = []

    def echo(prompt):
        prompts.append(prompt)
        return "1. a\n2. b\n3. c\n4. d"

    document = "{braces} {0} }"
    data = generate_pairs(
        [document], echo, prompt="{{}} {document}|{n_queries}", n_queries=3
    )
    assert prompts == [f"{{}} {document}|3"]
    assert data.queries == ["a", "b", "c"]
    generate_pairs([document], echo)
    assert document in prompts[1] and "2 different questions" in prompts[1]


def test_guide_shows_the_prompt():
    guide = Path(__file__).parents[1] / "docs" / "generating.md"
    assert _generation.DEFAULT_PROMPT in guide.read_text(encoding="utf-8")


def test_nothing_is_printed_or_written(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    generate_pairs(DOCUMENTS, llm)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


# at the same time


def test_calls_run_at_the_same_time():
    barrier = threading.Barrier(4)

    def meeting(prompt):
        barrier.wait(timeout=10)  # breaks unless four calls are under way
        return llm(prompt)

    same(generate_pairs(DOCUMENTS, meeting, n_jobs=4), generate_pairs(DOCUMENTS, llm))


def test_no_more_than_n_jobs_calls_at_a_time():
    lock, running, most = threading.Lock(), [], []

    def counting(prompt):
        with lock:
            running.append(1)
            most.append(len(running))
        time.sleep(0.002)
        with lock:
            running.pop()
        return llm(prompt)

    generate_pairs(DOCUMENTS, counting, n_jobs=3)
    assert max(most) == 3
    most.clear()
    generate_pairs(DOCUMENTS[:4], counting, n_jobs=1)
    assert max(most) == 1


@pytest.mark.parametrize("seed", range(3))
def test_order_does_not_depend_on_timing(tmp_path, seed):
    delays = random.Random(seed).sample([i / 1000 for i in range(12)], 12)
    path = tmp_path / "x.json"

    def slow(prompt):
        time.sleep(delays[number_of(prompt)])
        return llm(prompt)

    data = generate_pairs(DOCUMENTS, slow, n_jobs=12, path=path)
    journal = path.with_name("x.json.journal").read_text().splitlines()[1:]
    order = [json.loads(line)["document"] for line in journal]
    assert order != [f"d{i}" for i in range(12)]
    same(data, generate_pairs(DOCUMENTS, llm, n_jobs=1))


# failures


def test_failed_calls_are_repeated():
    lock, counts = threading.Lock(), Counter()

    def unsteady(prompt):
        with lock:
            counts[prompt] += 1
            n = counts[prompt]
        if n == 1:
            raise TimeoutError
        return "" if n == 2 else llm(prompt)

    same(generate_pairs(DOCUMENTS, unsteady), generate_pairs(DOCUMENTS, llm))
    assert set(counts.values()) == {3}


def test_waits_grow_to_a_minute(monkeypatch):
    waits = []

    class Event(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return self.is_set()

    monkeypatch.setattr(_generation, "_FIRST_DELAY", 1.0)
    fake = SimpleNamespace(Event=Event, Lock=threading.Lock)
    monkeypatch.setattr(_generation, "threading", fake)
    with pytest.raises(RuntimeError):
        generate_pairs(["no. 0 a"], Asked({0}), n_retries=8)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_failures_are_visible():
    asked = Asked({3, 7})
    documents = [*DOCUMENTS, " \n"]
    with pytest.warns(UserWarning) as record:
        data = generate_pairs(documents, asked, n_retries=2)
    assert data.failures == [
        ("d3", "ConnectionError: no answer for 3"),
        ("d7", "ConnectionError: no answer for 7"),
        ("d12", "ValueError: the document is empty"),
    ]
    assert len(record) == 1
    assert str(record[0].message) == (
        "3 of 13 documents have no queries, see `failures`. The first is 'd3': "
        "ConnectionError: no answer for 3"
    )
    assert record[0].filename == __file__
    assert asked.counts == {i: 3 if i in (3, 7) else 1 for i in range(12)}
    assert data.corpus == documents
    assert not {DOCUMENTS[3], DOCUMENTS[7]} & set(sum(data.relevant, []))
    assert "of which 3 have none" in data.DESCR


@pytest.mark.parametrize("answer", ["", "  \n", "I'm sorry, I cannot do that.", "1."])
def test_an_answer_without_a_query_is_a_failure(answer):
    def some(prompt):
        return answer if number_of(prompt) == 1 else llm(prompt)

    with pytest.warns(UserWarning, match="1 of 2 documents"):
        data = generate_pairs(DOCUMENTS[:2], some)
    assert data.failures == [("d1", f"ValueError: no query in the answer {answer!r}")]


def test_all_failed(tmp_path):
    asked = Asked(range(12))
    with pytest.raises(RuntimeError, match="first 3 documents failed, of 3") as error:
        generate_pairs(DOCUMENTS[:3], asked, n_retries=1, path=tmp_path / "x.json")
    assert "ConnectionError: no answer for" in str(error.value)
    assert isinstance(error.value.__cause__, ConnectionError)
    assert not (tmp_path / "x.json").exists()
    with pytest.raises(RuntimeError, match="the document is empty"):
        generate_pairs(["", " "], llm)


def test_gives_up_when_nothing_works():
    asked = Asked(range(1000))
    documents = [f"no. {i} of them" for i in range(1000)]

    def broken(prompt):
        time.sleep(0.001)
        return asked(prompt)

    with pytest.raises(RuntimeError, match="first 10 documents failed, of 1000"):
        generate_pairs(documents, broken, n_retries=0)
    assert len(asked.counts) < 1000


def test_failures_are_asked_for_again(tmp_path):
    path = tmp_path / "x.json"
    with pytest.warns(UserWarning, match="Call again to ask for them alone"):
        generate_pairs(DOCUMENTS, Asked({3, 7}), path=path)
    assert len(load_qa_dataset(path).queries) == 3 + 10
    asked = Asked()
    data = generate_pairs(DOCUMENTS, asked, path=path)
    assert asked.counts == {3: 1, 7: 1}
    assert data.failures == []
    same(data, generate_pairs(DOCUMENTS, llm))
    same(data, load_qa_dataset(path))


def test_what_is_there_survives_a_broken_llm(tmp_path):
    path = tmp_path / "x.json"
    with pytest.warns(UserWarning):
        first = generate_pairs(DOCUMENTS, Asked({3, 7}), path=path)
    with pytest.warns(UserWarning, match="2 of 12"):
        second = generate_pairs(DOCUMENTS, Asked(range(12)), path=path)
    same(first, second)


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
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
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


# bad input


def test_bad_documents():
    with pytest.raises(ValueError, match="documents is empty"):
        generate_pairs([], llm)
    with pytest.raises(ValueError, match="documents is empty"):
        generate_pairs({}, llm)
    with pytest.raises(TypeError, match=r"documents\[1\] must be a str, got None"):
        generate_pairs(["a", None], llm)
    with pytest.raises(TypeError, match=r"documents\.values\(\)\[0\] must be a str"):
        generate_pairs({"a": 1}, llm)
    with pytest.raises(TypeError, match="must be str, as JSON's keys are, got 7"):
        generate_pairs({7: "a"}, llm)
    with pytest.raises(TypeError, match="documents is the single str"):
        generate_pairs("a", llm)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("Questions?", "got none"),
        ("{document}", r"got \['document'\]"),
        ("{context_str} {num_questions_per_chunk}", "got .*context_str"),
        ("{document} {n_queries} {}", r"got \['', 'document'"),
        ('{document} {n_queries} {"a": 1}', r"got \['\"a\"'.*Write {{ and }}"),
        ("{document} {n_queries", "not a template: expected '}'"),
        ("{document:d} {n_queries}", "not a template: Unknown format code"),
        ("{document:{width}} {n_queries}", "not a template: 'width'"),
    ],
)
def test_bad_prompt(prompt, message):
    with pytest.raises(ValueError, match=message):
        generate_pairs(DOCUMENTS, llm, prompt=prompt)
    with pytest.raises(TypeError, match="prompt must be a str or None, got 1"):
        generate_pairs(DOCUMENTS, llm, prompt=1)


def test_bad_llm():
    class LlamaIndex:
        complete = print

    class LangChain:
        invoke = print

    for model, mend in ((LlamaIndex(), "complete"), (LangChain(), "invoke")):
        with pytest.raises(TypeError, match=rf"lambda prompt: llm\.{mend}\("):
            generate_pairs(DOCUMENTS, model)
    with pytest.raises(TypeError, match="got a str; see the guide"):
        generate_pairs(DOCUMENTS, "gpt")


def test_an_llm_that_returns_no_str_is_not_asked_again():
    asked = []

    def response(prompt):
        asked.append(prompt)
        return {"text": "1. Why?"}

    with pytest.raises(TypeError, match="must return a str, got the dict .*Why"):
        generate_pairs(DOCUMENTS, response, n_jobs=1)
    assert len(set(asked)) == len(asked) < 12


@pytest.mark.parametrize(
    "options",
    [{"n_queries": 0}, {"n_queries": 1.5}, {"n_jobs": 0}, {"n_retries": -1}]
    + [{"path": 1}],
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=f"The '{next(iter(options))}' parameter"):
        generate_pairs(DOCUMENTS, llm, **options)


def test_missing_folder(tmp_path):
    asked = Asked()
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        generate_pairs(DOCUMENTS, asked, path=tmp_path / "no" / "x.json")
    assert not asked.counts


# what models answer


A, B = "What did revenue grow by in 2021?", "Who leads the company?"


@pytest.mark.parametrize(
    "answer",
    [
        f"1. {A}\n2. {B}",
        f"1) {A}\n2) {B}",
        f"(1) {A}\n(2) {B}",
        f"[1] {A}\n[2] {B}",
        f"1: {A}\n2: {B}",
        f"1.{A}\n2.{B}",
        f"1.) {A}\n2.) {B}",
        f"1、{A}\n2、{B}",
        f"Q1: {A}\nQ2: {B}",
        f"Q1. {A}\nA1: By 5 %.\nQ2. {B}\nA2: Nobody.",
        f"Q: {A}\nA: By 5 %.\nQ: {B}\nA: Nobody.",
        f"Question 1: {A}\nQuestion 2: {B}",
        f"Question #1: {A}\nQuestion #2: {B}",
        f"Query 1 - {A}\nQuery 2 - {B}",
        f"- {A}\n- {B}",
        f"* {A}\n* {B}",
        f"• {A}\n• {B}",
        f"- 1. {A}\n- 2. {B}",
        f"**1.** {A}\n**2.** {B}",
        f"**1. {A}**\n**2. {B}**",
        f"1. **{A}**\n2. *{B}*",
        f"### 1. {A}\n### 2. {B}",
        f"**Question 1:** {A}\n\n**Question 2:** {B}",
        f"**Question 1**: {A}\n\n**Question 2**: {B}",
        f"**Question 1:**\n{A}\n\n**Question 2:**\n{B}",
        f"1. **Question:** {A}\n   **Answer:** 5\n2. **Question:** {B}\n   - Answer: ?",
        f'1. "{A}"\n2. “{B}”',
        f'1. **"{A}"**\n2. "**{B}**"',
        f"{A}\n{B}",
        f'"{A}"\n"{B}"',
        f'```json\n[\n  "{A}",\n  "{B}"\n]\n```',
        f"Here are two questions:\n\n1. {A}\n2. {B}\n\nLet me know if you need more!",
        f"Sure! Here are 2 questions that the passage answers.\n{A}\n{B}",
        f"**Questions:**\n- {A}\n- {B}\nWould you like more?",
        f"1. Revenue:\n   - {A}\n2. People:\n   - {B}",
        f"1. {A}\n2. {A.upper()}\n3. {B}\n4. Anything else?",
        f"  1.   {A}  \r\n\r\n\t2.\t{B}\r\n",
        f"<think>\n1. Should I ask why?\n</think>\n\n1. {A}\n2. {B}",
        f"1. Should I ask why?\n</think>\n1. {A}\n2. {B}",
    ],
)
def test_answers(answer):
    assert _generation.parse_queries(answer, 2) == [A, B]


@pytest.mark.parametrize(
    "query",
    [
        "What does *args mean?",
        "**Bold** or **strong**?",
        "What is 2**3?",
        '"A" or "B"?',
        "10-K filings of 2021",
        "3.5 million riders in which year?",
        "10:30 trains to Zürich",
        "2021: what happened?",
        "__init__ or __new__?",
        "Q-learning",
        "什么是机器学习？",
    ],
)
def test_queries_are_left_as_they_are(query):
    assert _generation.parse_queries(f"1. {query}", 2) == [query]
    assert _generation.parse_queries(f"- {query}\n- b", 1) == [query]


@pytest.mark.parametrize(
    "answer",
    ["", "\n", "I cannot answer.", "1.\n2.", "1. ---", "- **", "Here they are:"]
    + [f"<think>1. {A}\n", "1. Questions:"],
)
def test_answers_without_a_query(answer):
    assert _generation.parse_queries(answer, 2) == []


PIECES = st.sampled_from(
    ["1", "12", ".", ")", "(", "[", "]", ":", "**", "*", "_", "- ", "•", "Q", "query"]
    + ["Question", " ", "\n", '"', "'", "`", "“", "?", "？", "<think>", "</think>", "a"]
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)), st.integers(1, 4)
)
def test_any_answer_is_read(answer, n_queries):
    queries = _generation.parse_queries(answer, n_queries)
    assert len(queries) <= n_queries
    assert len({query.casefold() for query in queries}) == len(queries)
    for query in queries:
        assert query == query.strip() and query in answer
        assert any(map(str.isalnum, query)) and len(query.splitlines()) == 1


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.text(min_size=1).filter(str.strip), min_size=1, max_size=4, unique=True
    ),
    st.text(st.characters(exclude_characters=":：")),
)
def test_any_text_survives_the_files(tmp_path_factory, documents, query):
    path = tmp_path_factory.mktemp("any") / "x.json"

    def any_text(prompt):
        return f"1. a{query}"

    data = generate_pairs(documents, any_text, path=path)
    same(data, load_qa_dataset(path))
    same(data, generate_pairs(documents, any_text, path=path))
