"""Fits in every process of torchrun, one after the other; a report of each rank."""

import json
import os
import sys

from skembft import EmbeddingFinetuner
from skembft._models.loading import hash_weights


def fit(options, data):
    finetuner = EmbeddingFinetuner(**options)
    try:
        finetuner.fit(**data)
    except ValueError as error:
        return {"error": str(error)}
    return {
        "weights": hash_weights(finetuner.model_),
        "history": finetuner.history_,
        "vectors": finetuner.transform(data["X"]).tolist(),
    }


def main(request, folder):
    with open(request, encoding="utf-8") as file:
        fits = json.load(file)
    reports = {name: fit(**arguments) for name, arguments in fits.items()}
    rank = os.environ["RANK"]
    with open(os.path.join(folder, f"{rank}.json"), "w", encoding="utf-8") as file:
        json.dump(reports, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
