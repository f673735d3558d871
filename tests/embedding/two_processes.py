"""Fits in every process of torchrun, one after the other; a report of each rank."""

import io
import json
import os
import shutil
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

from sklearn.callback import ProgressBar

from skembft import EmbeddingFinetuner
from skembft._models.loading import hash_weights


def fit(options, data):
    finetuner = EmbeddingFinetuner(**options).set_callbacks(ProgressBar())
    shown = io.StringIO()
    try:
        with redirect_stdout(shown), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            finetuner.fit(**data)
    except ValueError as error:
        return {"error": str(error)}
    return {
        "shown": shown.getvalue(),
        "warned": [str(warning.message) for warning in warned],
        "weights": hash_weights(finetuner.model_),
        "history": finetuner.history_,
        "vectors": finetuner.transform(data["X"]).tolist(),
    }


def leave_incomplete_checkpoints(output):
    """What kills leave, and every process finds: all but the first are incomplete."""
    for complete in Path(output).glob("checkpoints/*/*/checkpoint-8"):
        (complete / "progress.json").unlink()
        for step in range(100, 150):
            shutil.copytree(complete, complete.with_name(f"checkpoint-{step}"))
        (complete.with_name("checkpoint-10") / "progress.json").unlink()


def main(request, folder):
    with open(request, encoding="utf-8") as file:
        fits = json.load(file)
    rank = os.environ["RANK"]
    Path(folder, f"{rank}.pid").write_text(str(os.getpid()))
    reports = {}
    for name, arguments in fits.items():
        if name == "resumed" and rank == "0":
            leave_incomplete_checkpoints(arguments["options"]["model_output_path"])
        reports[name] = fit(**arguments)
    with open(os.path.join(folder, f"{rank}.json"), "w", encoding="utf-8") as file:
        json.dump(reports, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
