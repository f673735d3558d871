"""The same script under torchrun: two processes (gloo) train as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from skembft import EmbeddingFinetuner

SCRIPT = Path(__file__).with_name("two_processes.py")


def torchrun(folder, options, error=False, **data):
    """Reports of both processes."""
    folder.mkdir()
    request = {"options": options, "data": data, "error": error}
    (folder / "request.json").write_text(json.dumps(request))
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", "2", SCRIPT, folder / "request.json", folder),
        ],
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def no_dropout(bert_model, tmp_path_factory):
    model = SentenceTransformer(bert_model, device="cpu")
    config = model.transformers_model.config
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    path = str(tmp_path_factory.mktemp("no_dropout"))
    model.save_pretrained(path, create_model_card=False)
    return path


def test_two_processes_train_as_one(no_dropout, pairs, tmp_path):
    """Repeated documents, so that batches are planned; negatives are gathered."""
    options = {
        "model_id": no_dropout,
        "batch_size": 8,
        "epochs": 2,
        "learning_rate": 1e-3,
        "evaluation_steps": 3,
        "random_state": 0,
        "device": "cpu",
    }
    output = {
        "model_output_path": str(tmp_path / "model"),
        "save_checkpoints": True,
        "checkpoint_save_steps": 4,
    }
    data = {"X": pairs[0], "y": [*pairs[1][:20], *pairs[1][:20]]}
    data = {**data, "X_val": pairs[0][:20], "y_val": pairs[1][:20]}
    first, second = torchrun(tmp_path / "out", {**options, **output}, **data)
    assert first == second
    alone = EmbeddingFinetuner(**options).fit(**data)
    assert np.abs(alone.transform(pairs[0]) - np.array(first["vectors"])).max() < 1e-5
    assert [h["step"] for h in first["history"]] == [0, 3, 6, 9, 10]
    for ours, theirs in zip(alone.history_, first["history"], strict=True):
        assert ours["ndcg@10"] == pytest.approx(theirs["ndcg@10"], abs=1e-9)
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    written = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    vectors = written.encode_query(pairs[0])
    assert np.abs(vectors - np.array(first["vectors"])).max() < 1e-6
    # resumed by both from what one has written, which this process can read too
    resumed = {**options, **output, "resume_from_checkpoint": True}
    again = torchrun(tmp_path / "again", resumed, **data)
    assert again == [first, second]


def test_errors_reach_every_process(no_dropout, pairs, tmp_path):
    options = {"model_id": no_dropout, "batch_size": 9, "device": "cpu"}
    reports = torchrun(tmp_path / "out", options, error=True, X=pairs[0], y=pairs[1])
    assert all("cannot be shared by 2 processes" in r["error"] for r in reports)
