"""Runs fits in children that SIGKILL themselves; a request a line on stdin.

Children are forked from a process that has imported everything, and computed with one
thread only: others would be missing in them.
"""

import gc
import json
import os
import signal
import sys

import numpy as np
import torch

from skembft import EmbeddingFinetuner
from skembft._embedding import hf_trainer as training

# how weights are saved: twice a checkpoint, with the best ones
PLACES = {
    "step": (training.FinetuningTrainer, "training_step"),
    "weights": (training, "save_file"),
    "complete": (training.Phase, "finish"),
}


def fit_and_die(options, data, place, count):
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, dying)
    np.random.seed(count)  # noqa: NPY002 (what random_state=None takes)
    EmbeddingFinetuner(**options).fit(**data)


def serve(model):
    torch.set_num_threads(1)
    EmbeddingFinetuner(model, epochs=1).fit(["a", "b"], ["c", "d"])
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(int(sys.argv[2]))
                fit_and_die(**json.loads(line))
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print("killed" if killed else "not killed", flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
