"""The real MLflow with a store on disk: what it has of a fit and of a search."""

import os
import pickle
from collections import Counter
from pathlib import Path

import joblib
import pytest
from joblib import parallel_config
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    cross_validate,
)
from sklearn.pipeline import make_pipeline

from skembft import (
    AdapterFinetuner,
    APIEncoder,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.callbacks import (
    EarlyStopping,
    MLflowLogger,
    OptunaPruning,
    TensorBoardLogger,
)
from skembft.metrics import RetrievalScorer
from tests.distributed.finetuners import each, make, shared

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore:Training did not help:UserWarning"),
]
PARENT = "mlflow.parentRunId"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The address of a store in a file, which takes seconds to be made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
        MlflowClient(uri).search_experiments()
        yield uri


@pytest.fixture
def new_logger(store, request):
    """Makes loggers that log to an experiment of the test."""

    def new(**options):
        return MLflowLogger(store, experiment_name=request.node.nodeid, **options)

    return new


@pytest.fixture
def runs(store, request):
    """Finds the runs of the test, the oldest first."""
    from mlflow import MlflowClient

    client = MlflowClient(store)

    def find():
        experiment = client.get_experiment_by_name(request.node.nodeid)
        if experiment is None:
            return []
        return client.search_runs([experiment.experiment_id])[::-1]

    return find


@pytest.fixture
def metric_history(store):
    """Reads the (step, value) of a metric of a run."""
    from mlflow import MlflowClient

    def read(run, name):
        history = MlflowClient(store).get_metric_history(run.info.run_id, name)
        return {(metric.step, metric.value) for metric in history}

    return read


@pytest.fixture(scope="module")
def pairs(pairs):
    return shared(pairs)


def statuses(runs):
    return Counter(run.info.status for run in runs)


# ---- one fit


@each
def test_a_fit(new_logger, runs, metric_history, static_model, pairs, cls):
    finetuner = make(cls, static_model).set_callbacks(new_logger()).fit(*pairs)
    alone = make(cls, static_model).fit(*pairs)
    assert finetuner.history_ == alone.history_
    (run,) = runs()
    assert run.info.status == "FINISHED" and run.info.run_name == cls.__name__
    params = finetuner.get_params()
    assert params.keys() <= run.data.params.keys()
    for name in ("validation_fraction", "scoring", "random_state"):
        assert run.data.params[name] == str(params[name])
    for name in {name for entry in alone.history_ for name in entry}:
        if name in ("step", "negatives"):
            continue
        expected = {
            (entry["step"], entry[name])
            for entry in alone.history_
            if entry.get(name) is not None
        }
        assert metric_history(run, name.replace("@", "_at_")) == expected
    for name in ("base_score_", "validation_score_", "best_epoch_", "n_iter_"):
        assert run.data.metrics[name] == getattr(alone, name)
    if cls is AdapterFinetuner:
        assert run.data.params["negatives_"] == alone.negatives_
    if cls is CorpusFinetuner:
        assert run.data.metrics["gamma_"] == alone.gamma_


def test_a_fit_of_vectors_without_validation(new_logger, runs, rotated):
    finetuner = AdapterFinetuner(None, epochs=3, validation_fraction=None)
    finetuner.set_callbacks(new_logger()).fit(*rotated)
    (run,) = runs()
    assert run.data.metrics["loss"] == finetuner.history_[-1]["loss"]
    assert run.data.metrics["best_epoch_"] == 3
    assert "validation_score_" not in run.data.metrics
    assert run.data.params["encoder"] == "None"


def test_metrics_are_written_every_second(new_logger, runs, rotated, monkeypatch):
    """An epoch of an adapter takes less than to write of it."""
    from mlflow import MlflowClient

    writings, log_batch = [], MlflowClient.log_batch

    def count(self, run_id, metrics=(), params=(), **kwargs):
        writings.append(len(metrics))
        log_batch(self, run_id, metrics=metrics, params=params, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", count)
    finetuner = AdapterFinetuner(None, epochs=20, negatives="batch", random_state=0)
    finetuner.set_callbacks(new_logger())
    for seconds, least, most in ((0.0, 20, 30), (3600.0, 3, 3)):
        monkeypatch.setattr("skembft.callbacks._mlflow._SECONDS", seconds)
        writings.clear()
        finetuner.fit(*rotated)
        assert least <= len(writings) <= most
    first, second = (run.data.metrics for run in runs())
    assert first == second


def test_mlflows_own_settings(store, static_model, pairs, monkeypatch):
    import mlflow

    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "to be restored")
    try:
        mlflow.set_tracking_uri(store)
        experiment = mlflow.set_experiment("that of mlflow")
        finetuner = make(AdapterFinetuner, static_model, epochs=1)
        finetuner.set_callbacks(MLflowLogger()).fit(*pairs)
        assert mlflow.active_run() is None and mlflow.get_tracking_uri() == store
        client = mlflow.MlflowClient(store)
        assert len(client.search_runs([experiment.experiment_id])) == 1
    finally:
        mlflow.set_tracking_uri("")  # the default


# ---- searches


@each
@pytest.mark.parametrize("backend", ["sequential", "threading", "loky"])
def test_a_search(new_logger, runs, metric_history, static_model, pairs, cls, backend):
    """A run for the search, and in it one for every candidate and fold."""
    if cls is CorpusFinetuner:
        name, values = "method", ["nudge_n", "nudge_m"]
    else:
        name, values = "learning_rate", [0.01, 0.3]
    cv = KFold(3)
    search = GridSearchCV(
        make(cls, static_model),
        {name: values},
        scoring=RetrievalScorer(["ndcg@10", "mrr@10"], corpus=pairs[1]),
        refit="ndcg@10",
        cv=cv,
        error_score="raise",
        n_jobs=2,
    ).set_callbacks(new_logger())
    with parallel_config(backend):
        search.fit(*pairs)
    outer, *inner = runs()
    assert len(inner) == 7 and statuses([outer, *inner]) == {"FINISHED": 8}
    assert outer.info.run_name == "GridSearchCV" and PARENT not in outer.data.tags
    assert {run.data.tags[PARENT] for run in inner} == {outer.info.run_id}
    by_name = {run.info.run_name: run for run in inner}
    assert by_name.pop("refit").data.params[name] == str(search.best_params_[name])
    for candidate, value in enumerate(values):
        for fold, (rows, _) in enumerate(cv.split(pairs[0])):
            run = by_name.pop(f"candidate-{candidate}_fold-{fold}")
            assert run.data.params[name] == str(value)
            if backend == "sequential" or fold > 0:
                continue
            alone = make(cls, static_model, **{name: value})
            alone.fit(*([texts[row] for row in rows] for texts in pairs))
            score = run.data.metrics["validation_score_"]
            assert score == pytest.approx(alone.validation_score_, abs=1e-12)
    assert not by_name
    assert outer.data.params["refit"] == "ndcg@10"
    assert outer.data.params["best_params_"] == repr(search.best_params_)
    assert outer.data.metrics["best_score_"] == search.best_score_
    for metric in ("ndcg@10", "mrr@10"):
        means = search.cv_results_[f"mean_test_{metric}"]
        logged = metric_history(outer, f"mean_test_{metric.replace('@', '_at_')}")
        assert logged == set(enumerate(means))


def test_relative_places_are_those_of_the_logger(rotated, tmp_path, monkeypatch):
    """Worker processes that run already are in another directory."""
    from mlflow import MlflowClient

    grid, cv = {"side": ["query", "both"]}, 2
    search = GridSearchCV(AdapterFinetuner(None, epochs=1), grid, cv=cv, n_jobs=2)
    search.fit(*rotated)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    loggers = MLflowLogger("sqlite:///mlflow.db"), TensorBoardLogger("runs")
    monkeypatch.chdir(elsewhere)
    search.set_callbacks(*loggers).fit(*rotated)
    (directory,) = (tmp_path / "runs").iterdir()
    assert len([path for path in directory.iterdir() if path.is_dir()]) == 5
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert statuses(client.search_runs(["0"])) == {"FINISHED": 6}
    assert not list(elsewhere.iterdir())


def test_a_search_over_a_pipeline(new_logger, runs, static_model, pairs):
    pipeline = make_pipeline("passthrough", make(AdapterFinetuner, static_model))
    grid = {"adapterfinetuner__side": ["query", "both"]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise")
    search.set_callbacks(new_logger()).fit(*pairs)
    outer, *inner = runs()
    assert {run.data.tags[PARENT] for run in inner} == {outer.info.run_id}
    last = "fit-final-estimator"
    fits = [f"candidate-{i}_fold-{j}" for i in (0, 1) for j in (0, 1)]
    names = {run.info.run_name: run.data.params["side"] for run in inner}
    assert names == {
        **{
            f"{fit}/{last}": "both" if "candidate-1" in fit else "query" for fit in fits
        },
        f"refit/{last}": search.best_params_["adapterfinetuner__side"],
    }


@pytest.mark.parametrize("nested", [False, True])
def test_a_finetuner_inside(
    store, request, new_logger, runs, static_model, pairs, optuna_search, nested
):
    """Searches that pass no callback on, and whoever sets it on the finetuner."""
    import mlflow

    parent = None
    if nested:
        client = mlflow.MlflowClient(store)
        experiment_id = client.create_experiment(request.node.nodeid)
        parent = client.create_run(experiment_id, run_name="all").info.run_id
    finetuner = make(AdapterFinetuner, static_model)
    finetuner.set_callbacks(new_logger(parent_run_id=parent))
    grid, options = {"side": ["query", "both"]}, {"cv": 2, "error_score": "raise"}
    searches = {
        5: lambda: GridSearchCV(finetuner, grid, n_jobs=2, **options).fit(*pairs),
        6: lambda: HalvingGridSearchCV(
            finetuner,
            grid,
            resource="epochs",
            max_resources=2,
            min_resources=1,
            factor=2,
            **options,
        ).fit(*pairs),
        2: lambda: cross_validate(finetuner, *pairs, **options),
        3: lambda: optuna_search(finetuner, 1, **options).fit(*pairs),
    }
    n_before = len(runs())
    for n_fits, fit in searches.items():
        fit()
        new = runs()[n_before:]
        n_before += len(new)
        assert statuses(new) == {"FINISHED": n_fits + (n_fits == 6)}
        assert {run.data.tags.get(PARENT) for run in new} == {parent}
    # of whom it is a part: the names that a search gives
    names = {run.info.run_name for run in runs()}
    assert {"fit-0", "fit-1", "fit-2", "fit-3", "refit", "AdapterFinetuner"} <= names


@pytest.fixture
def optuna_search():
    import optuna
    from optuna_integration import OptunaSearchCV

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sides = optuna.distributions.CategoricalDistribution(["query", "both"])

    def new(finetuner, n_trials, **options):
        return OptunaSearchCV(finetuner, {"side": sides}, n_trials=n_trials, **options)

    return new


# ---- fits that fail


def test_failed_fits(new_logger, runs, static_model, pairs):
    """A weight that diverges fails a candidate; the search goes on without it."""
    for n_jobs in (1, 2):
        search = GridSearchCV(
            make(AdapterFinetuner, static_model),
            {"learning_rate": [0.01, 1e9]},
            cv=2,
            n_jobs=n_jobs,
        ).set_callbacks(new_logger())
        with pytest.warns(FitFailedWarning, match="2 fits failed"):
            search.fit(*pairs)
        new = runs()[-6:]
        failed = {run.info.run_name for run in new if run.info.status == "FAILED"}
        assert failed == {"candidate-1_fold-0", "candidate-1_fold-1"}
        assert statuses(new)["FINISHED"] == 4
    alone = make(AdapterFinetuner, static_model, learning_rate=1e9)
    with pytest.raises(Exception, match="learning_rate"):
        alone.set_callbacks(new_logger()).fit(*pairs)
    assert runs()[-1].info.status == "FAILED"


def test_bad_data_make_no_run(new_logger, runs, static_model, pairs):
    finetuner = make(AdapterFinetuner, static_model).set_callbacks(new_logger())
    with pytest.raises(ValueError):
        finetuner.fit(pairs[0], pairs[1][:3])
    assert runs() == []


class Interrupt:
    """Raises at the end of the first epoch."""

    def setup(self, estimator, context):
        pass

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator, context):
        raise KeyboardInterrupt


def test_stopped_fits(new_logger, runs, static_model, pairs):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    finetuner = make(AdapterFinetuner, static_model, epochs=20, n_iter_no_change=None)

    def objective(trial):
        finetuner.set_callbacks(new_logger(), OptunaPruning(trial)).fit(*pairs)

    pruner = optuna.pruners.ThresholdPruner(lower=2)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.optimize(objective, n_trials=1)
    assert study.trials[0].state.name == "PRUNED"
    finetuner.set_callbacks(new_logger(), Interrupt())
    with pytest.raises(KeyboardInterrupt):
        finetuner.fit(*pairs)
    assert statuses(runs()) == {"KILLED": 2}
    assert all("ndcg_at_10" in run.data.metrics for run in runs())
    finetuner.set_callbacks(new_logger(), EarlyStopping(n_iter_no_change=1))
    assert finetuner.fit(*pairs).history_[-1]["epoch"] < 20
    assert runs()[-1].info.status == "FINISHED"


# ---- what is never logged, and where nothing is


SECRET = "hf_do_not_show_me"


class Client:
    def embed_documents(self, texts):
        return [[len(text), 1.0, text.count("e")] for text in texts]

    def __repr__(self):
        return f"Client({SECRET})"

    embed_query = None


class Foreign(TransformerMixin, BaseEstimator):
    """An encoder of somebody else."""

    def __init__(self, api_key=None, client=None, options=None):
        self.api_key, self.client, self.options = api_key, client, options

    def transform(self, X):
        return [[len(text), 1.0, text.count("e")] for text in X]

    transform_documents = transform


def test_no_credentials(store, new_logger, runs, static_model, pairs):
    token = {"token": SECRET}
    client = Client()
    client.embed_query = lambda text: client.embed_documents([text])[0]
    headers = {"Api-Key": SECRET, "Authorization": f"Bearer {SECRET}"}
    foreign = Foreign(SECRET, client, {"headers": headers, "retries": 3})
    options = {"epochs": 1, "random_state": 0}
    for finetuner in (
        EmbeddingFinetuner(static_model, model_params=token, **options),
        AdapterFinetuner(SentenceEncoder(static_model, model_params=token), **options),
        AdapterFinetuner(APIEncoder(client), **options),
        AdapterFinetuner(foreign, **options),
    ):
        finetuner.set_callbacks(new_logger()).fit(*pairs)
        search = GridSearchCV(
            clone(finetuner.set_callbacks()),
            {"epochs": [1], "random_state": [0]},
            cv=2,
            error_score="raise",
        )
        search.set_callbacks(new_logger()).fit(*pairs)
    grid = {"model_params": [token], "trainer_params": [{"run_name": "shown"}]}
    finetuner = EmbeddingFinetuner(static_model, **options)
    search = GridSearchCV(finetuner, grid, cv=2, error_score="raise")
    search.set_callbacks(new_logger()).fit(*pairs)
    assert len(runs()) == 4 * 5 + 4
    assert SECRET not in str([run.to_dictionary() for run in runs()])
    folder = Path(store.removeprefix("sqlite:///")).parent
    content = b"".join(path.read_bytes() for path in folder.iterdir())
    assert b"<hidden>" in content and b"shown" in content
    assert SECRET.encode() not in content
    shown = {k: v for run in runs() for k, v in run.data.params.items()}
    assert "'retries': 3" in shown["encoder__options"]


def test_vectors_are_shown_by_their_number(new_logger, runs, rotated):
    vectors = {f"q{i}": row for i, row in enumerate(rotated[0])}
    documents = {f"d{i}": row for i, row in enumerate(rotated[1])}
    finetuner = AdapterFinetuner(PrecomputedEncoder(vectors, documents), epochs=1)
    finetuner.set_callbacks(new_logger()).fit(list(vectors), list(documents))
    (run,) = runs()
    assert "240" in run.data.params["encoder__queries"]
    assert len(run.data.params["encoder__queries"]) < 100


def test_only_the_first_process_logs(new_logger, runs, rotated, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    finetuner = AdapterFinetuner(None, epochs=1).set_callbacks(new_logger())
    for rank, n_runs in (("1", 0), ("0", 1)):
        monkeypatch.setenv("RANK", rank)
        finetuner.fit(*rotated)
        assert len(runs()) == n_runs


def test_a_logger_travels_and_is_used_again(new_logger, runs, rotated, tmp_path):
    finetuner = AdapterFinetuner(None, epochs=1).set_callbacks(new_logger())
    finetuner.fit(*rotated)
    joblib.dump(finetuner, tmp_path / "finetuner")
    for again in (
        clone(finetuner),
        pickle.loads(pickle.dumps(finetuner)),
        joblib.load(tmp_path / "finetuner"),
    ):
        again.fit(*rotated)
    logger, search = new_logger(), GridSearchCV(finetuner.set_callbacks(), {}, cv=2)
    state = pickle.dumps(logger)
    for _ in range(2):
        search.set_callbacks(logger).fit(*rotated)
    assert pickle.dumps(logger) == state  # nothing is kept of the searches
    assert statuses(runs()) == {"FINISHED": 4 + 2 * 4}


def test_nothing_else_is_written(new_logger, rotated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finetuner = AdapterFinetuner(None, epochs=1).set_callbacks(new_logger())
    finetuner.fit(*rotated)
    assert os.listdir(tmp_path) == []
