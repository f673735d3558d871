"""The same script under torchrun: two processes (gloo) train as one does."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from skembft import EmbeddingFinetuner

SCRIPT = Path(__file__).with_name("two_processes.py")
OPTIONS = {
    "batch_size": 8,
    "epochs": 1,
    "learning_rate": 1e-3,
    "random_state": 0,
    "device": "cpu",
}
# of every way in which processes share a batch, alone and wrapped
LOSSES = {
    "negatives": {
        "loss_params": {"directions": ["query_to_doc", "doc_to_query", "doc_to_doc"]}
    },
    "portions of negatives": {
        "loss": "cached_multiple_negatives_ranking",
        "loss_params": {"mini_batch_num_tokens": 12},
    },
    "guide": {
        "loss": "gist_embed",
        # colder, gradients vanish, and the optimizer magnifies rounding
        "loss_params": {"contrast_anchors": False, "temperature": 0.1},
    },
    "batch": {"loss": "global_orthogonal_regularization"},
    "classes": {"loss": "batch_hard_triplet"},
    "labels": {"loss": "cosent", "gradient_accumulation_steps": 2},
    "sums": {"loss": "contrastive", "loss_params": {"size_average": False}},
    "targets": {"loss": "embed_distill"},
    "portions": {
        "loss": "mega_batch_margin",
        "loss_params": {"mini_batch_num_tokens": 12},
    },
    "wrapped portions": {
        "loss": "matryoshka",
        "loss_params": {"loss": "mega_batch_margin"},
    },
    "wrapped labels": {"loss": "matryoshka2d", "loss_params": {"loss": "cosent"}},
    "query side": {"side": "query", "negatives": "corpus"},
    "query side, top layer": {"side": "query", "trainable": 1, "loss": "triplet"},
    "top layer": {"trainable": 1, "loss": "triplet", "negatives": "hard"},
}
REFUSED = {
    "shares": ({"batch_size": 9}, "cannot be shared by 2 processes"),
    "softmax": ({"loss": "softmax"}, "'softmax' is trained by one process only"),
}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def fits(no_dropout, pairs, output):
    """Options and data of fits by name; "written" is also resumed."""
    options = {"model_id": no_dropout, **OPTIONS}
    plain = {"X": pairs[0], "y": pairs[1]}
    # repeated documents, so that batches are planned
    data = {"X": pairs[0], "y": [*pairs[1][:20], *pairs[1][:20]]}
    data = {**data, "X_val": pairs[0][:19], "y_val": pairs[1][:19]}
    written = {**options, "evaluation_steps": 3}
    written |= {"trainer_params": {"max_steps": 10, "lr_scheduler_type": "cosine"}}
    written |= {"model_output_path": str(output / "model")}
    written |= {"save_checkpoints": True, "checkpoint_save_steps": 4}
    crowded = {"X": pairs[0], "y": pairs[1][:2] * 20}
    others = LOSSES | {name: extra for name, (extra, _) in REFUSED.items()}
    return {
        "written": {"options": written, "data": data},
        "resumed": {
            "options": {**written, "resume_from_checkpoint": True},
            "data": data,
        },
        "crowded": {"options": options, "data": crowded},
        **{
            name: {"options": {**options, **extra}, "data": plain}
            for name, extra in others.items()
        },
    }


def torchrun(fits, folder):
    """Start both processes; each writes a report when it has finished."""
    (folder / "fits.json").write_text(json.dumps(fits))
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", "2", SCRIPT, folder / "fits.json", folder),
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def reports_of(fits, folder):
    assert torchrun(fits, folder).wait(timeout=240) == 0
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def reports(fits, output):
    """Of each process; starting them takes longer than all fits."""
    return reports_of(fits, output)


def assert_equal_reports(first, second):
    """But for what is said."""
    for key in ("weights", "history", "vectors"):
        assert first[key] == second[key], key


def assert_same_model(fit, report, tolerance=1e-5):
    alone = EmbeddingFinetuner(**fit["options"]).fit(**fit["data"])
    vectors = alone.transform(fit["data"]["X"])
    assert np.abs(vectors - np.array(report["vectors"])).max() < tolerance
    for ours, theirs in zip(alone.history_, report["history"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=tolerance)
        assert ours.get("ndcg@10") == pytest.approx(theirs.get("ndcg@10"), abs=1e-9)


def test_two_processes_train_as_one(fits, reports, output):
    first, second = reports
    assert_equal_reports(first["written"], second["written"])
    assert_equal_reports(first["written"], first["resumed"])
    assert [h["step"] for h in first["written"]["history"]] == [0, 3, 6, 9, 10]
    options = {**fits["written"]["options"], "save_checkpoints": False}
    options["model_output_path"] = None
    assert_same_model({**fits["written"], "options": options}, first["written"])
    steps = [path.name for path in output.glob("model/checkpoints/*/fit/*")]
    assert sorted(steps) == ["checkpoint-10", "checkpoint-4", "checkpoint-8"]
    written = SentenceTransformer(str(output / "model"), device="cpu")
    vectors = written.encode_query(fits["written"]["data"]["X"])
    assert np.abs(vectors - np.array(first["written"]["vectors"])).max() < 1e-6


@pytest.mark.parametrize("name", LOSSES)
def test_any_loss_sees_the_batch_of_all_processes(fits, reports, name):
    first, second = reports
    assert_equal_reports(first[name], second[name])
    assert_same_model(fits[name], first[name])


def test_only_the_first_process_speaks(reports):
    """Of two documents that answer all queries, a batch holds each once."""
    first, second = (report["crowded"] for report in reports)
    assert any("repeat so often" in warning for warning in first["warned"])
    assert "fit" in first["shown"]
    assert second["warned"] == [] and second["shown"] == ""


@pytest.mark.parametrize("name", REFUSED)
def test_errors_reach_every_process(reports, name):
    for report in reports:
        assert REFUSED[name][1] in report[name]["error"]


def test_another_number_of_processes_does_not_resume(fits, reports):
    resumed = EmbeddingFinetuner(**fits["resumed"]["options"])
    message = r"number of processes \(2 there, 1 here\)"
    with pytest.raises(ValueError, match=message):
        resumed.fit(**fits["resumed"]["data"])


@pytest.mark.slow
def test_kills_while_checkpoints_are_saved(fits, tmp_path):
    """Twenty times at a random moment; each time the fit goes on, to the same end."""
    rng = random.Random(0)
    options = {**fits["written"]["options"], "checkpoint_save_steps": 1}
    options |= {"trainer_params": {"max_steps": 200}}

    def fit(name, **extra):
        options_ = {**options, "model_output_path": str(tmp_path / name), **extra}
        return {"fit": {"options": options_, "data": fits["written"]["data"]}}

    whole = reports_of(fit("whole"), tmp_path)
    resumed = fit("killed", resume_from_checkpoint=True)
    reached = 0
    for _ in range(20):
        launch = torchrun(resumed, tmp_path)
        while newest(tmp_path / "killed") < reached + 2:
            assert launch.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        for rank in (0, 1):
            os.kill(int((tmp_path / f"{rank}.pid").read_text()), signal.SIGKILL)
        launch.wait()
        reached = newest(tmp_path / "killed")
    for ours, theirs in zip(reports_of(resumed, tmp_path), whole, strict=True):
        assert_equal_reports(ours["fit"], theirs["fit"])


def newest(output):
    """The step of the newest checkpoint, complete or not."""
    checkpoints = output.glob("checkpoints/*/fit/checkpoint-*")
    return max((int(path.name.rpartition("-")[2]) for path in checkpoints), default=0)


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_parts_of_a_model_in_every_process(bert_model, pairs, monkeypatch, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ValueError, match=f"ACCELERATE_USE_{name}=true asks for parts"):
        EmbeddingFinetuner("no/model").fit(*pairs)
