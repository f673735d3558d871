"""Checkpoints: a fit that was killed ends as it would have without that."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sklearn.model_selection import (
    GridSearchCV,
    cross_val_score,
    permutation_test_score,
)

from skembft import EmbeddingFinetuner
from skembft._embedding import hf_trainer as training

OPTIONS = {
    "epochs": 3,
    "learning_rate": 1e-3,
    "evaluation_steps": 2,
    "save_checkpoints": True,
    "checkpoint_save_steps": 2,
    "random_state": 0,
    "device": "cpu",
}


def make(bert_model, path, **options):
    return EmbeddingFinetuner(
        bert_model, model_output_path=path, **{**OPTIONS, **options}
    )


def count_steps(monkeypatch):
    """A list that grows by one with every step of training."""
    steps = []
    training_step = training.FinetuningTrainer.training_step

    def counting(*args, **kwargs):
        steps.append(1)
        return training_step(*args, **kwargs)

    monkeypatch.setattr(training.FinetuningTrainer, "training_step", counting)
    return steps


def assert_same(finetuner, other):
    ours, theirs = (f.model_.state_dict() for f in (finetuner, other))
    for name, tensor in ours.items():
        assert np.array_equal(tensor.numpy(), theirs[name].numpy()), name
    assert finetuner.history_ == other.history_
    assert finetuner.best_step_ == other.best_step_
    assert finetuner.validation_score_ == other.validation_score_


@pytest.fixture(scope="module")
def kill(bert_model, tmp_path_factory):
    """A function that runs a fit which SIGKILLs itself at the count-th call of a place.

    Places are "step" (of training), "weights" (being saved) and "complete" (a
    checkpoint being completed).
    """
    script = Path(__file__).with_name("killed_fits.py")
    with subprocess.Popen(
        [sys.executable, script, bert_model, str(torch.get_num_threads())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            # what is killed leaves its temporary files
            "TMPDIR": str(tmp_path_factory.mktemp("killed")),
        },
    ) as server:

        def kill(finetuner, place, count, **data):
            options = finetuner.get_params()
            options["model_output_path"] = str(options["model_output_path"])
            request = {"options": options, "data": data, "place": place, "count": count}
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            assert server.stdout.readline() == "killed\n"

        yield kill
        server.stdin.close()


@pytest.mark.parametrize(
    ("place", "counts"),
    [("step", (1, 2, 3, 6, 11, 12)), ("weights", (1, 4, 11)), ("complete", (1, 6))],
)
def test_a_killed_fit_ends_the_same(
    bert_model, pairs, tmp_path, monkeypatch, kill, place, counts
):
    """With dropout, early stopping's memory and the best weights of an earlier step."""
    data = {"X": pairs[0], "y": pairs[1], "X_val": pairs[0][:9], "y_val": pairs[1][:9]}
    whole = make(bert_model, tmp_path / "whole").fit(**data)
    assert len(whole.history_) == 7
    steps = count_steps(monkeypatch)
    for count in counts:
        path = tmp_path / str(count)
        finetuner = make(bert_model, path, resume_from_checkpoint=True)
        kill(finetuner, place, count, **data)
        steps.clear()
        assert_same(finetuner.fit(**data), whole)
        if place == "step":  # all that was saved is used
            assert len(steps) == 12 - (count - 1) // 2 * 2


@pytest.mark.parametrize(
    "options",
    [
        {"refit": True, "validation_fraction": 0.25},
        {"evaluation_steps": 0},
        {"random_state": None, "validation_fraction": 0.25},
        {"negatives": "random", "use_all_docs": True, "loss": "triplet"},
        {"gradient_accumulation_steps": 2, "checkpoint_save_steps": 1},
        {"n_iter_no_change": 5, "validation_fraction": 0.2, "evaluation_steps": 1},
        {"trainable": 1},
        {"trainable": "lora", "checkpoint_save_steps": 3},
        {"loss": "softmax"},
        {"precision": "auto"},  # with random numbers of its own where there is bf16
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_killed_fit_of_any_kind(bert_model, pairs, tmp_path, kill, options):
    """Also of repeated documents, of a refit, and without a fixed seed."""
    data = {"X": pairs[0], "y": [*pairs[1][:20], *pairs[1][:20]]}
    finetuner = make(bert_model, tmp_path, resume_from_checkpoint=True, **options)
    for count in (3, 4):
        kill(finetuner, "step", count, **data)
    finetuner.fit(**data)
    if options.get("random_state", 0) is None:  # its seed lies in the directory
        (run,) = (tmp_path / "checkpoints").iterdir()
        seed = json.loads((run / "run.json").read_text())["seed"]
        options = {**options, "random_state": seed}
    whole = make(bert_model, tmp_path / "whole", **options).fit(**data)
    assert_same(finetuner, whole)


def test_a_finished_fit_is_resumed_at_its_end(bert_model, pairs, tmp_path, monkeypatch):
    whole = make(bert_model, tmp_path).fit(*pairs)
    again = make(bert_model, tmp_path, resume_from_checkpoint=True)
    monkeypatch.setattr(training.FinetuningTrainer, "training_step", None)
    assert_same(again.fit(*pairs), whole)


def test_a_fit_that_starts_anew_loses_nothing_until_it_has_finished(
    bert_model, pairs, tmp_path, monkeypatch, kill
):
    """Twice the flag is forgotten after a kill; then the fit that got furthest ends."""
    data = {"X": pairs[0], "y": pairs[1]}
    for count in (9, 4, 6):
        kill(make(bert_model, tmp_path), "step", count, **data)
    steps = count_steps(monkeypatch)
    finetuner = make(bert_model, tmp_path, resume_from_checkpoint=True).fit(**data)
    assert len(steps) == 12 - 8
    again = make(bert_model, tmp_path).fit(**data)
    assert len(steps) == 12 - 8 + 12
    assert_same(finetuner, again)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_the_newest_checkpoints_are_kept(bert_model, pairs, tmp_path):
    def checkpoints(path):
        return sorted(p.name for p in path.glob("checkpoints/*/fit/*"))

    make(bert_model, tmp_path / "all").fit(*pairs)
    names = [f"checkpoint-{step}" for step in (2, 4, 6, 8, 10, 12)]
    assert checkpoints(tmp_path / "all") == sorted(names)
    make(bert_model, tmp_path / "two", checkpoint_save_total_limit=2).fit(*pairs)
    assert checkpoints(tmp_path / "two") == ["checkpoint-10", "checkpoint-12"]


@pytest.mark.parametrize("trainable", ["all", "lora", 1])
def test_what_a_checkpoint_holds(bert_model, pairs, tmp_path, trainable):
    """The trained weights, once; and it opens as a model, but for top layers alone."""
    finetuner = make(bert_model, tmp_path, trainable=trainable).fit(*pairs)
    (checkpoint,) = tmp_path.glob("checkpoints/*/fit/checkpoint-12")
    files = [checkpoint / "weights.safetensors", *checkpoint.rglob("*model.safeten*")]
    n_saved = sum(t.numel() for f in files if f.exists() for t in load_file(f).values())
    whole = SentenceTransformer(bert_model, device="cpu")
    sizes = {name: p.numel() for name, p in whole.named_parameters()}
    if trainable == 1:
        top = {n: size for n, size in sizes.items() if ".layer.1." in n or "pool" in n}
        assert n_saved == sum(top.values())
        return
    model = SentenceTransformer(str(checkpoint), device="cpu")
    np.testing.assert_allclose(
        model.encode_query(pairs[0]), finetuner.transform(pairs[0]), atol=1e-6
    )
    if trainable == "all":
        assert n_saved == sum(sizes.values())
    else:
        assert not (checkpoint / "model.safetensors").exists()


def test_the_model_is_written_and_loads_without_us(bert_model, pairs, tmp_path):
    path = tmp_path / "deep" / "model"
    finetuner = EmbeddingFinetuner(
        bert_model, epochs=1, model_output_path=path, document_prompt="doc: "
    )
    finetuner.fit(*pairs)
    finetuner.fit(*pairs)  # over the first
    model = SentenceTransformer(str(path))
    vectors = model.encode_document(pairs[1])
    assert np.abs(vectors - finetuner.transform_documents(pairs[1])).max() < 1e-6
    assert not (path / "checkpoints").exists()
    assert not list(path.glob(".writing*"))


# ---- what is refused


def test_checkpoints_of_another_fit_are_refused(bert_model, pairs, tmp_path):
    make(bert_model, tmp_path, epochs=1).fit(*pairs)
    other = make(bert_model, tmp_path, epochs=2, resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"differs in epochs \(1 there, 2 here\)\. "):
        other.fit(*pairs)
    same = make(bert_model, tmp_path, epochs=1, resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"differs in queries \(.*40 texts.*39 texts"):
        same.fit(pairs[0][1:], pairs[1][1:])
    with pytest.raises(ValueError, match="differs in validation queries"):
        same.fit(*pairs, X_val=pairs[0], y_val=pairs[1])
    before = sorted(p for p in tmp_path.rglob("*"))
    same.fit(*pairs)
    make(bert_model, tmp_path, epochs=2).fit(*pairs)  # anew, beside it
    assert set(before) <= set(tmp_path.rglob("*"))


def test_resume_in_an_empty_directory_starts_anew(bert_model, pairs, tmp_path):
    finetuner = make(bert_model, tmp_path, resume_from_checkpoint=True, epochs=1)
    plain = EmbeddingFinetuner(bert_model, **{**OPTIONS, "save_checkpoints": False})
    assert_same(
        finetuner.fit(*pairs), plain.set_params(epochs=1, device="cpu").fit(*pairs)
    )


@pytest.mark.parametrize("option", ["save_checkpoints", "resume_from_checkpoint"])
def test_checkpoints_need_a_path(bert_model, pairs, option):
    finetuner = EmbeddingFinetuner(bert_model, **{option: True})
    with pytest.raises(ValueError, match="set model_output_path to a directory"):
        finetuner.fit(*pairs)


def test_a_path_that_cannot_be_written(pairs, tmp_path):
    """An error before the model, which does not exist either, is looked for."""
    file = tmp_path / "file"
    file.write_text("")
    finetuner = EmbeddingFinetuner("no/model", model_output_path=file / "below")
    with pytest.raises(OSError, match="cannot be a directory: .*file' is a file"):
        finetuner.fit(*pairs)


def test_a_full_disk_loses_no_checkpoint(bert_model, pairs, tmp_path, monkeypatch):
    """A fault while the second checkpoint is written leaves the first to resume."""
    real, calls = training.save_file, []

    def failing(tensors, path):
        calls.append(1)
        if len(calls) == 2:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path)

    finetuner = make(bert_model, tmp_path, resume_from_checkpoint=True)
    with monkeypatch.context() as patch:
        patch.setattr(training, "save_file", failing)
        with pytest.raises(OSError, match="No space left"):
            finetuner.fit(*pairs)
    finetuner.fit(*pairs)
    assert_same(finetuner, make(bert_model, tmp_path / "whole").fit(*pairs))


# ---- in a search


def test_folds_and_candidates_do_not_collide(bert_model, pairs, tmp_path):
    finetuner = make(bert_model, tmp_path, resume_from_checkpoint=True)
    search = GridSearchCV(finetuner, {"epochs": [1, 2]}, cv=2).fit(*pairs)
    runs = list((tmp_path / "checkpoints").iterdir())
    assert len(runs) == 5  # two candidates on two folds, and the refit
    vectors = SentenceTransformer(str(tmp_path)).encode(pairs[0])
    assert np.abs(vectors - search.best_estimator_.transform(pairs[0])).max() < 1e-6
    again = GridSearchCV(finetuner, {"epochs": [1, 2]}, cv=2).fit(*pairs)
    assert (
        again.cv_results_["mean_test_score"] == search.cv_results_["mean_test_score"]
    ).all()


def test_a_search_that_starts_anew_loses_nothing(
    bert_model, pairs, tmp_path, monkeypatch
):
    """The second is stopped at its first step; the third goes on from the first."""
    steps = []
    training_step = training.FinetuningTrainer.training_step

    def search(last, **options):
        def stopping(*args, **kwargs):
            steps.append(1)
            if len(steps) > last:
                raise KeyboardInterrupt
            return training_step(*args, **kwargs)

        steps.clear()
        monkeypatch.setattr(training.FinetuningTrainer, "training_step", stopping)
        finetuner = make(bert_model, tmp_path, **options)
        GridSearchCV(finetuner, {"batch_size": [10]}, cv=2, refit=False).fit(*pairs)

    for last in (9, 0):  # in the second fold, and the first
        with pytest.raises(KeyboardInterrupt):
            search(last)
    search(12, resume_from_checkpoint=True)
    assert len(steps) == 12 - 8
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_folds_write_no_model(bert_model, pairs, tmp_path):
    finetuner = EmbeddingFinetuner(bert_model, epochs=1, model_output_path=tmp_path)
    cross_val_score(finetuner, *pairs, cv=2)
    search = GridSearchCV(finetuner, {"epochs": [1]}, cv=2)
    cross_val_score(search, *pairs, cv=2)  # in which each search refits
    assert not list(tmp_path.iterdir())


def test_permuted_labels_write_no_model(bert_model, pairs, tmp_path):
    finetuner = EmbeddingFinetuner(bert_model, epochs=1, model_output_path=tmp_path)
    permutation_test_score(finetuner, *pairs, cv=2, n_permutations=1)
    assert not list(tmp_path.iterdir())


# ---- identity


def scaled(scale):
    def loss(model):
        return losses.MultipleNegativesRankingLoss(model, scale=scale)

    return loss


def test_functions_that_close_over_other_values_are_other_losses(
    bert_model, pairs, tmp_path
):
    losses_ = [scaled(1.0), scaled(50.0), partial(scaled(1.0))]
    for i, loss in enumerate([*losses_, scaled(50.0)]):
        options = {"loss": loss, "epochs": 1}
        finetuner = make(bert_model, tmp_path, **options).fit(*pairs)
        assert_same(finetuner, make(bert_model, tmp_path / "x", **options).fit(*pairs))
        assert len(list((tmp_path / "checkpoints").iterdir())) == min(i + 1, 3)


def test_a_warm_start_is_another_fit(bert_model, pairs, tmp_path):
    options = {"warm_start": True, "resume_from_checkpoint": True, "epochs": 1}
    finetuner = make(bert_model, tmp_path, **options)
    finetuner.fit(*pairs).fit(*pairs)
    plain = make(bert_model, tmp_path / "plain", warm_start=True, epochs=1)
    assert_same(finetuner, plain.fit(*pairs).fit(*pairs))


def test_without_a_checkpoint_nothing_is_refused(bert_model, pairs, tmp_path):
    options = {"checkpoint_save_steps": 500, "resume_from_checkpoint": True}
    first = make(bert_model, tmp_path, epochs=1, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.FinetuningTrainer, "training_step", None)
        with pytest.raises(TypeError):
            first.fit(*pairs)
    make(bert_model, tmp_path, epochs=2, **options).fit(*pairs)


def test_paths_that_are_refused(bert_model, pairs, tmp_path):
    with pytest.raises(ValueError, match="model_output_path is empty"):
        make("no/model", "").fit(*pairs)
    with pytest.raises(ValueError, match="is the model itself"):
        make(bert_model, bert_model).fit(*pairs)
