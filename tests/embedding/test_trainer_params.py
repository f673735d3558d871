"""What `trainer_params` pass on to the trainer, and what a fit sets by itself."""

import os
import pickle
import warnings
from dataclasses import fields
from functools import partial

import numpy as np
import pytest
from sentence_transformers import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback
from transformers.integrations import integration_utils

import skembft
from skembft import EmbeddingFinetuner
from skembft._embedding.trainer_params import REFUSED
from tests.embedding.bare_trainer import assert_equal_weights, bare_trainer
from tests.finetuner.bad_input import MISSING

OPTIONS = {"learning_rate": 1e-3, "random_state": 0, "device": "cpu"}


def fit(model, data, params, *, validation=None, **options):
    finetuner = EmbeddingFinetuner(
        model, trainer_params=params, **{**OPTIONS, **options}
    )
    if validation:
        return finetuner.fit(*data, X_val=validation[0], y_val=validation[1])
    return finetuner.fit(*data)


# ---- what is passed on


@pytest.mark.parametrize(
    "params",
    [
        {
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr": 1e-4},
            "adam_beta1": 0.5,
            "adam_epsilon": 1e-4,
            "max_grad_norm": 0.05,
        },
        {"optim": "adafactor", "lr_scheduler_type": "constant_with_warmup"},
        {"max_steps": 11},  # of 4 an epoch
        {"dataloader_num_workers": 1, "logging_steps": 3},
    ],
    ids=lambda params: next(iter(params)),
)
def test_weights_equal_those_of_the_bare_trainer(bert_model, pairs, tmp_path, params):
    queries, documents = pairs
    columns = {"anchor": queries, "positive": documents}
    loss = losses.MultipleNegativesRankingLoss
    expected = bare_trainer(bert_model, tmp_path, columns, loss, **params)
    finetuner = fit(bert_model, pairs, params)
    assert_equal_weights(finetuner.model_, expected)
    assert finetuner.n_iter_ == params.get("max_steps", 8)


def test_a_search_over_schedules(bert_model, pairs):
    few = [values[:20] for values in pairs]
    grid = [{"lr_scheduler_type": "cosine"}, {"max_steps": np.int64(9)}, None]
    finetuner = EmbeddingFinetuner(bert_model, epochs=1, **OPTIONS)
    search = GridSearchCV(finetuner, {"trainer_params": grid}, cv=2).fit(*few)
    assert search.best_params_["trainer_params"] in grid
    assert len(set(search.cv_results_["mean_test_score"])) > 1


# ---- what is refused


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_the_fit_sets_is_refused(pairs, name):
    """Before a model, which is not there, is looked for."""
    match = f"trainer_params: '{name}' {REFUSED[name][:40]}"
    with pytest.raises(ValueError, match=match):
        fit(MISSING, pairs, {name: None})


def test_what_is_left_to_the_user():
    names = {field.name for field in fields(SentenceTransformerTrainingArguments)}
    assert {"max_steps", "optim", "fp16", "report_to"} <= names - REFUSED.keys()


@pytest.mark.parametrize(
    "params, message",
    [
        ({"lr_schduler_type": "cosine"}, "Did you mean 'lr_scheduler_type'"),
        ({"lr_scheduler_type": "cosin"}, "cosin is not a valid SchedulerType"),
        (
            {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"no": 1}},
            "unexpected keyword argument 'no'",
        ),
        ({"lr_scheduler_type": "greedy"}, "use another schedule"),
        ({"optim": "adam"}, "adam is not a valid OptimizerNames"),
        ({"optim": "adamw_8bit"}, "bitsandbytes"),
        ({"adam_beta1": 1.5}, "Invalid beta parameter"),
        ({"adam_beta1": "0.5"}, "adam_beta1 must be a finite number, got '0.5'"),
        ({"max_grad_norm": None}, "max_grad_norm must be a finite number, got None"),
        ({"max_steps": 0}, "max_steps must be a number of optimizer steps above 0"),
        ({"max_steps": -7}, "max_steps must be a number of optimizer steps above 0"),
        ({"max_steps": 2.5}, "max_steps must be a whole number, got 2.5"),
        ({"logging_steps": 0}, "requires non-zero --logging_steps"),
        ({"dataloader_prefetch_factor": 2}, "dataloader_num_workers > [01]"),
        ({"torch_compile_mode": "default"}, "goes with the argument torch_compile"),
        ({"fp16": True}, "fp16 needs a GPU, and the device is 'cpu'"),
        ({"report_to": "paper"}, "paper is not supported, only"),
        ({"report_to": "wandb"}, "requires wandb to be installed"),
        ({"callbacks": PrinterCallback}, "must be a list of classes"),
        ({"callbacks": [PrinterCallback()]}, "is an instance, which clones and folds"),
        ({"callbacks": [EmbeddingFinetuner]}, "neither a TrainerCallback .* set_call"),
        ({"callbacks": [lambda path: None]}, "cannot be made without arguments"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_trainer_refuses(pairs, params, message):
    with pytest.raises(ValueError, match=f"(?s)trainer_params: .*{message}"):
        fit(MISSING, pairs, params)


def test_a_factory_that_makes_something_else(static_model, pairs):
    with pytest.raises(ValueError, match="made 3, which is not a TrainerCallback"):
        fit(static_model, pairs, {"callbacks": [lambda: 3]})


# ---- max_steps


def test_max_steps_count_instead_of_epochs(bert_model, pairs):
    """Also where batches are planned, in validation and in a refit."""
    repeated = [*pairs[1][:20], *pairs[1][:20]]
    for data in (pairs, (pairs[0], repeated)):
        finetuner = fit(
            bert_model,
            data,
            {"max_steps": 9},
            epochs=1,
            validation=(pairs[0][:9], pairs[1][:9]),
            evaluation_steps=4,
        )
        assert [entry["step"] for entry in finetuner.history_] == [0, 4, 8, 9]
    steps = []
    counting = _counting(steps, "on_step_end")
    options = {"validation_fraction": 0.25, "refit": True, "evaluation_steps": 0}
    params = {"max_steps": 7, "callbacks": [counting]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few queries
        finetuner = fit(bert_model, pairs, params, learning_rate=3e-3, **options)
    assert finetuner.n_iter_ == 7
    refitted = min(round(finetuner.best_epoch_ * 4), 7)
    assert finetuner.best_step_ > 0 and len(steps) == 7 + refitted


def test_progress_of_max_steps(static_model, pairs, capfd):
    from sklearn.callback import ProgressBar

    pytest.importorskip("rich")
    finetuner = EmbeddingFinetuner(
        static_model, trainer_params={"max_steps": 13}, **OPTIONS
    )
    finetuner.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(*pairs)
    assert finetuner.best_epoch_ == 13 / 4
    assert "100%" in capfd.readouterr().out


def test_checkpoints_tell_the_arguments(bert_model, pairs, tmp_path):
    options = {
        "model_output_path": tmp_path,
        "save_checkpoints": True,
        "checkpoint_save_steps": 2,
    }
    params = {"max_steps": 5}
    whole = fit(bert_model, pairs, params, **options)
    options["resume_from_checkpoint"] = True
    with pytest.raises(ValueError, match=r"trainer_params \({'max_steps': 5} there"):
        fit(bert_model, pairs, {"max_steps": 6}, **options)
    # from the newest checkpoint, and from one before
    assert_equal_weights(fit(bert_model, pairs, params, **options).model_, whole.model_)
    for newest in tmp_path.glob("checkpoints/*/fit/checkpoint-5/progress.json"):
        newest.unlink()
    resumed = fit(bert_model, pairs, params, **options)
    assert_equal_weights(resumed.model_, whole.model_)
    assert resumed.history_ == whole.history_


# ---- callbacks of transformers, and trackers


def _counting(log, event):
    class Counting(TrainerCallback):
        pass

    setattr(Counting, event, lambda self, *args, **kwargs: log.append(kwargs))
    return Counting


class Stopping(TrainerCallback):
    """Ends training, or an epoch, at some step, by some event."""

    def __init__(self, event, step, what):
        def stop(args, state, control, **kwargs):
            if state.global_step >= step:
                setattr(control, f"should_{what}_stop", True)

        setattr(self, event, stop)


@pytest.mark.parametrize(
    "event, what, n_steps",
    [
        ("on_step_end", "training", 6),
        ("on_step_end", "epoch", 7),  # the second epoch has two steps, the third one
        ("on_log", "training", 6),
        ("on_evaluate", "training", 8),
        ("on_epoch_end", "training", 8),
    ],
)
def test_a_callback_may_stop(bert_model, pairs, tmp_path, event, what, n_steps):
    """The last step is evaluated and kept; a resumed fit does not go on."""
    params = {"callbacks": [partial(Stopping, event, 6, what)], "logging_steps": 2}
    options = {
        "epochs": 3,
        "evaluation_steps": 4,
        "model_output_path": tmp_path,
        "save_checkpoints": True,
        "checkpoint_save_steps": 2,
    }
    validation = (pairs[0], pairs[1])
    finetuner = fit(bert_model, pairs, params, validation=validation, **options)
    steps = [entry["step"] for entry in finetuner.history_]
    assert steps == sorted({0, 4, n_steps}) and finetuner.n_iter_ == n_steps
    best = max(finetuner.history_, key=lambda entry: entry["ndcg@10"])
    assert finetuner.best_step_ == best["step"]
    assert finetuner.score(*pairs) == pytest.approx(best["ndcg@10"])
    if what == "epoch":  # where a checkpoint lies then, no trainer knows
        return
    options["resume_from_checkpoint"] = True
    again = fit(bert_model, pairs, params, validation=validation, **options)
    assert again.history_ == finetuner.history_
    assert_equal_weights(again.model_, finetuner.model_)


def test_every_fit_has_callbacks_of_its_own(static_model, pairs):
    made = []

    class Callback(TrainerCallback):
        def __init__(self):
            made.append(self)

    finetuner = EmbeddingFinetuner(
        static_model, trainer_params={"callbacks": [Callback]}, **OPTIONS
    )
    for estimator in (finetuner, clone(finetuner), finetuner):
        estimator.fit(*pairs)
    assert len(made) == 3


def test_trackers_get_losses_and_scores(
    static_model, pairs, tmp_path, monkeypatch, capfd
):
    """And nothing is written, or shown, besides."""
    logged = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            logged.append({"step": state.global_step, **logs})

    trackers = integration_utils.INTEGRATION_TO_CALLBACK
    monkeypatch.setitem(trackers, "tensorboard", Tracker)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    options = {"validation": pairs, "evaluation_steps": 2, "epochs": 1}
    params = {"report_to": ["tensorboard"], "logging_steps": 2}
    with pytest.raises(ValueError, match="variable TENSORBOARD_LOGGING_DIR to a dir"):
        fit(MISSING, pairs, params, **options)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
    finetuner = fit(static_model, pairs, params, **options)
    losses_ = [entry for entry in logged if "loss" in entry]
    scores = [entry for entry in logged if "eval_ndcg@10" in entry]
    assert [entry["step"] for entry in losses_] == [2, 4]
    assert [entry["loss"] for entry in losses_] == pytest.approx(
        [entry["loss"] for entry in finetuner.history_[1:]], abs=1e-5
    )
    assert [(entry["step"], entry["eval_ndcg@10"]) for entry in scores] == [
        (entry["step"], entry["ndcg@10"]) for entry in finetuner.history_
    ]
    assert os.listdir(tmp_path) == [] and capfd.readouterr().out == ""


def test_logs_are_printed_on_request(static_model, pairs, capfd):
    class Printer(PrinterCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            print("logged", sorted(logs))

    params = {"callbacks": [Printer], "logging_steps": 4}
    fit(static_model, pairs, params, epochs=1)
    first, *others = capfd.readouterr().out.splitlines()
    assert first == "logged ['epoch', 'grad_norm', 'learning_rate', 'loss']"
    assert all(line.startswith("logged") for line in others)


# ---- kept, copied, shown


@pytest.fixture(scope="module")
def fitted(static_model, pairs):
    params = {"lr_scheduler_type": "cosine", "callbacks": [PrinterCallback]}
    return fit(static_model, pairs, params)


def test_pickles_and_clones_have_them(fitted):
    for made in (clone(fitted), pickle.loads(pickle.dumps(fitted))):
        assert made.trainer_params == fitted.trainer_params
    changed = clone(fitted).set_params(trainer_params={"max_steps": np.int64(3)})
    assert type(changed.trainer_params["max_steps"]) is int


def test_directories_have_what_json_can_hold(fitted, pairs, tmp_path):
    fitted.save_pretrained(tmp_path / "saved")
    lost = r"trainer_params \({'callbacks': \['transformers.*PrinterCallback'\]}\)"
    with pytest.warns(UserWarning, match=lost):
        loaded = skembft.load(tmp_path / "saved")
    assert loaded.trainer_params == {"lr_scheduler_type": "cosine"}
    loaded.set_params(trainer_params={"max_steps": 2}).save_pretrained(tmp_path / "two")
    assert skembft.load(tmp_path / "two").trainer_params == {"max_steps": 2}


def test_early_stopping_of_transformers_needs_its_own_evaluations(pairs, static_model):
    with pytest.raises(AssertionError, match="metric_for_best_model"):
        fit(static_model, pairs, {"callbacks": [EarlyStoppingCallback]})
