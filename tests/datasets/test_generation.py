"""generate_pairs: what comes out, at the same time, and in spite of failures."""

import json
import random
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

from skembft.datasets import _generation, generate_pairs, load_qa_dataset
from tests.datasets.generation import DOCUMENTS, Asked, number_of, same
from tests.datasets.killed_generation import llm

pytestmark = pytest.mark.usefixtures("no_waiting")


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


@pytest.mark.parametrize("name, first", [("q0", "qq0"), ("qq7", "q0"), ("q", "q0")])
def test_no_query_has_the_id_of_a_document(tmp_path, name, first):
    """It would be that document itself."""
    documents = {name: DOCUMENTS[0], "q1b": DOCUMENTS[1]}
    path = tmp_path / "x.json"
    data = generate_pairs(documents, llm, path=path)
    assert data.query_ids[0] == first
    assert data.own_documents == {}
    same(data, load_qa_dataset(path))
    same(generate_pairs(documents, llm, path=path), data)  # the file is known again


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
    guide = Path(__file__).parents[2] / "docs" / "generating.md"
    assert _generation.DEFAULT_PROMPT in guide.read_text(encoding="utf-8")


def test_nothing_is_printed_or_written(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    generate_pairs(DOCUMENTS, llm)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


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


def test_ids_that_no_file_can_hold_are_refused_before_a_call():
    with pytest.raises(ValueError, match="cannot be written as UTF-8"):
        generate_pairs({"caf\udce9.txt": "text"}, lambda prompt: 1 / 0)
