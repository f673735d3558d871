"""Runs generate_pairs in children that SIGKILL themselves; a request a line on stdin.

A child dies at the count-th line of Python that generate_pairs executes, in whatever
thread and module: also in the middle of writing JSON. Without a count it comes to its
end and tells how many lines there are.
"""

import itertools
import json
import os
import signal
import sys
import threading

from skembft.datasets import _generation, generate_pairs


def llm(prompt):
    """Two questions a document, as a list; the first is the same for every third."""
    number = int(prompt.split("no. ")[1].split()[0])
    return f"Sure:\n1. What of {number % 3}?\n2) **What is no. {number}?**"


def run(documents, path, log, count):
    lines = itertools.count(1)

    def trace(frame, event, arg):
        if event == "line" and next(lines) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    def logged(prompt):
        with open(log, "a") as file:
            file.write(prompt.split("no. ")[1].split()[0] + "\n")
        return llm(prompt)

    threading.settrace(trace)
    sys.settrace(trace)
    generate_pairs(documents, logged, path=path, n_jobs=3)
    sys.settrace(None)
    return next(lines) - 1


def serve():
    _generation._SAVE_EVERY = 2
    for request in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                print(run(**json.loads(request)), flush=True)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            print("killed", flush=True)


if __name__ == "__main__":
    serve()
