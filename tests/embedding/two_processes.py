"""Fits in every process of torchrun; rank by rank a report is written."""

import json
import os
import sys

from skembft import EmbeddingFinetuner
from skembft._models.loading import hash_weights


def main(request, folder):
    with open(request, encoding="utf-8") as file:
        request = json.load(file)
    finetuner = EmbeddingFinetuner(**request["options"])
    if request["error"]:
        try:
            finetuner.fit(**request["data"])
        except ValueError as error:
            report = {"error": str(error)}
    else:
        finetuner.fit(**request["data"])
        vectors = finetuner.transform(request["data"]["X"])
        report = {
            "weights": hash_weights(finetuner.model_),
            "history": finetuner.history_,
            "vectors": vectors.tolist(),
        }
    rank = os.environ["RANK"]
    with open(os.path.join(folder, f"{rank}.json"), "w", encoding="utf-8") as file:
        json.dump(report, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
