"""What workers import: a scorer that has them count, a callback that kills one."""

import json
import os
import signal
from pathlib import Path

from skembft.metrics import RetrievalScorer


class CountingScorer(RetrievalScorer):
    """Has the processes that it is sent to note what they encode and load."""

    def __init__(self, metrics, *, corpus=None, folder):
        super().__init__(metrics, corpus=corpus)
        self.folder, self.driver = folder, os.getpid()

    def __setstate__(self, state):
        self.__dict__.update(state)
        if os.getpid() != self.driver:
            _count(Path(self.folder) / f"{os.getpid()}.jsonl")


def _count(path):
    """Note every text and every model's name from now on, one a line."""
    import torch
    from sentence_transformers import SentenceTransformer

    if path.exists():  # this process counts already
        return
    init, preprocess = SentenceTransformer.__init__, SentenceTransformer.preprocess

    def note(kind, values):
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps([kind, str(value)]) + "\n" for value in values)

    def loading(self, model_id=None, *args, **kwargs):
        if model_id is not None:
            note("model", [model_id])
        init(self, model_id, *args, **kwargs)

    def encoding(self, inputs, *args, **kwargs):
        note("text", inputs)
        return preprocess(self, inputs, *args, **kwargs)

    SentenceTransformer.__init__, SentenceTransformer.preprocess = loading, encoding
    note("threads", [torch.get_num_threads()])


def counted(folder, kind):
    """Of every worker, the values of a kind that it has noted."""
    of_workers = []
    for path in sorted(Path(folder).glob("*.jsonl")):
        lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        of_workers.append([value for noted, value in lines if noted == kind])
    return of_workers


class KillsWorker:
    """Callback that kills a worker in a fit; one worker, once."""

    def __init__(self, path):
        self.path, self.driver = path, os.getpid()

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        if os.getpid() != self.driver and not os.path.exists(self.path):
            Path(self.path).touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
