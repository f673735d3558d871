"""LlamaIndex's adapter engine, run by bench_llama_index.py under `.venv-peers`."""

import json
import sys
import tempfile

import numpy as np
import torch
from _common import counted_rows, timed, versions
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.finetuning import (
    EmbeddingAdapterFinetuneEngine,
    EmbeddingQAFinetuneDataset,
)

PACKAGES = ("llama-index-finetuning", "llama-index-core", "mistralai", "torch")
PACKAGES = (*PACKAGES, "sentence-transformers", "transformers")


def main():
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    train, val = (
        EmbeddingQAFinetuneDataset.from_json(request[name]) for name in ("train", "val")
    )
    model = HuggingFaceEmbedding(request["model"], device="cpu")
    with tempfile.TemporaryDirectory() as output:
        engine = EmbeddingAdapterFinetuneEngine(
            train, model, epochs=request["epochs"], model_output_path=output
        )
        with counted_rows() as count:
            seconds, _ = timed(engine.finetune)
        adapted = engine.get_finetuned_model()
    # queries and documents in the order of the file, as load_qa_dataset reads it
    queries = [adapted.get_query_embedding(text) for text in val.queries.values()]
    documents = model.get_text_embedding_batch(list(val.corpus.values()))
    np.savez(
        request["vectors"],
        queries=np.array(queries, dtype=np.float32),
        documents=np.array(documents, dtype=np.float32),
    )
    answer = {"seconds": seconds, "rows": count["rows"], "versions": versions(PACKAGES)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
