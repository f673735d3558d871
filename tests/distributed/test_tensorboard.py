"""The event files of a fit and of a search, by TensorBoard's own reader."""

import os
import pickle
import re
import threading

import joblib
import numpy as np
import pytest
from joblib import parallel_config
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline

from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    SentenceEncoder,
)
from skembft.callbacks import TensorBoardLogger
from skembft.metrics import RetrievalScorer
from tests.distributed.finetuners import each, make, shared

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore:Training did not help:UserWarning"),
]


@pytest.fixture(scope="module")
def pairs(pairs):
    return shared(pairs)


class Run:
    """What TensorBoard reads of a directory."""

    def __init__(self, directory):
        from tensorboard.backend.event_processing import event_accumulator
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        events = event_accumulator.EventAccumulator(str(directory)).Reload()
        self.scalars = {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        }
        self.hparams = {}
        tag = "_hparams_/session_start_info"
        if tag in events.summary_metadata:
            content = events.SummaryMetadata(tag).plugin_data.content
            values = HParamsPluginData.FromString(content).session_start_info.hparams
            for name, value in values.items():
                self.hparams[name] = getattr(value, value.WhichOneof("kind"))


def read(log_dir):
    """The runs by their paths, without the time and what makes them unique."""
    runs = {}
    for directory, _, files in os.walk(log_dir):
        if files:
            path = os.path.relpath(directory, log_dir)
            started = r"_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{8}"
            name, n = re.subn(started, "", path)
            assert n == 1 and name not in runs
            runs[name] = Run(directory)
    return runs


@each
def test_a_fit(static_model, pairs, tmp_path, cls):
    finetuner = make(cls, static_model)
    finetuner.set_callbacks(TensorBoardLogger(tmp_path)).fit(*pairs)
    alone = make(cls, static_model).fit(*pairs)
    assert finetuner.history_ == alone.history_
    ((name, run),) = read(tmp_path).items()
    assert name == cls.__name__
    for tag in {
        k for entry in alone.history_ for k, v in entry.items() if v is not None
    }:
        if tag in ("step", "negatives"):
            continue
        expected = [
            (entry["step"], entry[tag])
            for entry in alone.history_
            if entry.get(tag) is not None
        ]
        steps, values = zip(*run.scalars[tag], strict=True)
        assert list(steps) == [step for step, _ in expected]
        np.testing.assert_allclose(values, [v for _, v in expected], rtol=1e-6)
    for tag in ("base_score_", "validation_score_", "best_epoch_", "n_iter_"):
        ((_, value),) = run.scalars[tag]
        assert value == pytest.approx(getattr(alone, tag), rel=1e-6)
    params = finetuner.get_params()
    assert params.keys() <= run.hparams.keys()
    for name in ("validation_fraction", "scoring", "random_state"):
        assert run.hparams[name] == params[name]
    if cls is AdapterFinetuner:
        assert run.hparams["negatives_"] == alone.negatives_
        assert run.hparams["adapter_params"] == "None"


@each
@pytest.mark.parametrize("backend", ["sequential", "threading", "loky"])
def test_a_search(static_model, pairs, tmp_path, cls, backend):
    if cls is CorpusFinetuner:
        name, values = "method", ["nudge_n", "nudge_m"]
    else:
        name, values = "learning_rate", [0.01, 0.3]
    search = GridSearchCV(
        make(cls, static_model),
        {name: values},
        scoring=RetrievalScorer("ndcg@10", corpus=pairs[1]),
        cv=KFold(3),
        error_score="raise",
        n_jobs=2,
    ).set_callbacks(TensorBoardLogger(tmp_path))
    with parallel_config(backend):
        search.fit(*pairs)
    runs = read(tmp_path)
    outer = runs.pop("GridSearchCV")
    means = [value for _, value in outer.scalars["mean_test_score"]]
    np.testing.assert_allclose(means, search.cv_results_["mean_test_score"], rtol=1e-6)
    assert outer.hparams["best_params_"] == repr(search.best_params_)
    assert runs.keys() == {"GridSearchCV/refit"} | {
        f"GridSearchCV/candidate-{i}_fold-{j}" for i in (0, 1) for j in (0, 1, 2)
    }
    for path, run in runs.items():
        if "candidate" in path:
            assert run.hparams[name] == values["candidate-1" in path]
        assert run.scalars.keys() >= {"ndcg@10", "validation_score_"}
    refitted = runs["GridSearchCV/refit"].scalars["ndcg@10"]
    best = [entry["ndcg@10"] for entry in search.best_estimator_.history_]
    np.testing.assert_allclose([v for _, v in refitted], best, rtol=1e-6)


def test_a_finetuner_inside(static_model, pairs, tmp_path):
    finetuner = make(AdapterFinetuner, static_model)
    finetuner.set_callbacks(TensorBoardLogger(tmp_path / "grid"))
    grid, options = {"side": ["query", "both"]}, {"cv": 2, "error_score": "raise"}
    GridSearchCV(finetuner, grid, n_jobs=2, **options).fit(*pairs)
    names = ["fit-0", "fit-1", "fit-2", "fit-3", "refit"]
    found = read(tmp_path / "grid")
    assert found.keys() == {f"GridSearchCV/{name}" for name in names}
    finetuner.set_callbacks(TensorBoardLogger(str(tmp_path / "folds")))
    cross_validate(finetuner, *pairs, **options)
    directories = os.listdir(tmp_path / "folds")
    assert len(directories) == 2  # each a run of its own
    assert all(name.startswith("AdapterFinetuner_") for name in directories)


def test_a_search_inside_of_others(rotated, tmp_path):
    finetuner = AdapterFinetuner(None, epochs=1, negatives="batch", random_state=0)
    inner = GridSearchCV(finetuner, {"side": ["query"]}, cv=2, error_score="raise")
    fits = ["candidate-0_fold-0", "candidate-0_fold-1", "refit"]
    for around, expected in (
        (
            make_pipeline("passthrough", inner),
            [f"Pipeline/fit-final-estimator/{fit}" for fit in fits],
        ),
        (
            GridSearchCV(inner, {}, cv=2, error_score="raise"),
            [f"GridSearchCV/{a}/{b}" for a in fits for b in fits],
        ),
    ):
        name = type(around).__name__
        around.set_callbacks(TensorBoardLogger(tmp_path / name)).fit(*rotated)
        assert read(tmp_path / name).keys() == {name, *expected}


def test_failed_fits_close_their_files(static_model, pairs, tmp_path):
    before = threading.active_count()
    search = GridSearchCV(
        make(AdapterFinetuner, static_model), {"learning_rate": [0.01, 1e9]}, cv=2
    ).set_callbacks(TensorBoardLogger(tmp_path))
    with pytest.warns(FitFailedWarning, match="2 fits failed"):
        search.fit(*pairs)
    runs = read(tmp_path)
    assert len(runs) == 6
    finished = {path for path, run in runs.items() if run.hparams}
    assert runs.keys() - finished == {
        f"GridSearchCV/candidate-1_fold-{fold}" for fold in (0, 1)
    }
    alone = make(AdapterFinetuner, static_model, learning_rate=1e9)
    with pytest.raises(Exception, match="learning_rate"):
        alone.set_callbacks(TensorBoardLogger(tmp_path)).fit(*pairs)
    assert threading.active_count() == before  # a writer has a thread


def test_no_credentials(static_model, pairs, tmp_path):
    token = {"token": "hf_do_not_show_me"}
    encoder = SentenceEncoder(static_model, model_params=token)
    for finetuner in (
        EmbeddingFinetuner(static_model, model_params=token, epochs=1),
        AdapterFinetuner(encoder, epochs=1),
    ):
        finetuner.set_callbacks(TensorBoardLogger(tmp_path)).fit(*pairs)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    content = b"".join(path.read_bytes() for path in files)
    assert b"<hidden>" in content and b"hf_do_not_show_me" not in content


def test_only_the_first_process_logs(rotated, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    finetuner = AdapterFinetuner(None, epochs=1)
    finetuner.set_callbacks(TensorBoardLogger(tmp_path))
    for rank, n_runs in (("1", 0), ("0", 1)):
        monkeypatch.setenv("RANK", rank)
        finetuner.fit(*rotated)
        assert len(os.listdir(tmp_path)) == n_runs


def test_a_logger_travels_and_is_used_again(rotated, tmp_path):
    finetuner = AdapterFinetuner(None, epochs=1)
    finetuner.set_callbacks(TensorBoardLogger(tmp_path)).fit(*rotated)
    joblib.dump(finetuner, tmp_path.parent / f"{tmp_path.name}.joblib")
    for again in (
        clone(finetuner),
        pickle.loads(pickle.dumps(finetuner)),
        joblib.load(tmp_path.parent / f"{tmp_path.name}.joblib"),
    ):
        again.fit(*rotated)
    logger, search = TensorBoardLogger(tmp_path), GridSearchCV(clone(finetuner), {})
    search.estimator.set_callbacks()
    state = pickle.dumps(logger)
    for _ in range(2):
        search.set_callbacks(logger).fit(*rotated)
    assert pickle.dumps(logger) == state
    assert len(os.listdir(tmp_path)) == 4 + 2


def test_arguments():
    with pytest.raises(ValueError, match="'log_dir' parameter"):
        TensorBoardLogger(None)
