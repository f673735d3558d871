"""nudge-ft on given vectors, run by bench_nudge.py under `.venv-peers`."""

import json
import sys
from contextlib import redirect_stdout

import numpy as np
import torch
from _common import timed, versions
from nudge import NUDGEM, NUDGEN


class RecordingM(NUDGEM):
    """NUDGE-M that tells which γ it chose."""

    def _get_point_of_most_intersection(self, mins, maxs):
        self.gamma = super()._get_point_of_most_intersection(mins, maxs)
        return self.gamma


class RecordingN(NUDGEN):
    """NUDGE-N that tells which γ it used last, which is the one it chose."""

    def _sol_maxm(self, gamma, *arguments):
        self.gamma = gamma
        return super()._sol_maxm(gamma, *arguments)


def main():
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    with np.load(request["vectors"]) as vectors:
        documents, train, val = (vectors[k] for k in ("documents", "train", "val"))
    nudge = {"nudge_m": RecordingM, "nudge_n": RecordingN}[request["method"]]("cpu")
    train = {"q_embs": train, "q_ans_indx": request["train"]}
    val = {"q_embs": val, "q_ans_indx": request["val"]}
    with redirect_stdout(sys.stderr):  # it prints its progress
        fit = nudge.finetune_embeddings
        fit(documents, train, val, gamma=0.1)  # the first call is slower
        chosen, moved = timed(lambda: fit(documents, train, val))
        gamma = float(nudge.gamma)
        given, _ = timed(lambda: fit(documents, train, val, gamma=gamma))
    np.save(request["moved"], moved)
    found = {"γ chosen": chosen, "γ given": given, "gamma": gamma}
    print(json.dumps({**found, "versions": versions(["nudge-ft", "torch", "numpy"])}))


if __name__ == "__main__":
    main()
