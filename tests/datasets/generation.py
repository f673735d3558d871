"""Documents, and an llm for them that counts its calls."""

import threading
from collections import Counter

from tests.datasets.killed_generation import llm

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


def same(data, loaded):
    keys = ("queries", "relevant", "corpus", "query_ids", "corpus_ids")
    assert {key: data[key] for key in keys} == {key: loaded[key] for key in keys}
