"""Callbacks: early stopping, scores and progress by epoch; the history they read."""

import json
import pickle
import sys
import warnings

import joblib
import numpy as np
import pytest
from joblib import parallel_config
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    SentenceEncoder,
)
from skembft.callbacks import EarlyStopping, MLflowLogger, TensorBoardLogger
from skembft.metrics import RetrievalScorer

pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")
LEARNING_RATES = {AdapterFinetuner: 2e-2, EmbeddingFinetuner: 0.3}
both = pytest.mark.parametrize("cls", list(LEARNING_RATES))
METRICS = ["ndcg@10", "mrr@10"]


def make(cls, model, **options):
    """A finetuner that validates once an epoch, by no data of its own."""
    defaults = {
        "epochs": 25,
        "batch_size": 16,
        "learning_rate": LEARNING_RATES[cls],
        "validation_fraction": None,
        "n_iter_no_change": None,
        "evaluation_steps": 0,
        "random_state": 0,
    }
    if cls is AdapterFinetuner:
        defaults["negatives"] = "random"
    return cls(model, **{**defaults, **options})


def n_epochs(finetuner):
    return finetuner.history_[-1]["epoch"]


def expected_stop(scores, patience, tol=0.0):
    """The epoch after which to stop; the first score is the untouched model's."""
    best = 0
    for epoch, score in enumerate(scores):
        if score > scores[best] + tol:
            best = epoch
        elif epoch - best == patience:
            return epoch
    return len(scores) - 1


class Watch:
    """Calls a function with the model as it is after every epoch."""

    def __init__(self, look):
        self.look, self.seen, self.tasks = look, [], []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        self.tasks.append(context.task_name)
        if fitted_estimator is not None:
            self.seen.append(self.look(fitted_estimator))


# ---- early stopping


@both
@pytest.mark.parametrize("refit", [False, True])
def test_early_stopping_by_the_finetuners_validation(static_model, pairs, cls, refit):
    """With an evaluation an epoch it is what n_iter_no_change does."""
    options = {"validation_fraction": 0.25, "refit": refit}
    own = make(cls, static_model, n_iter_no_change=3, **options).fit(*pairs)
    watched = make(cls, static_model, **options).set_callbacks(
        EarlyStopping(n_iter_no_change=3)
    )
    watched.fit(*pairs)
    assert watched.history_ == own.history_ and 3 < n_epochs(own) < 25
    np.testing.assert_array_equal(watched.transform(pairs[0]), own.transform(pairs[0]))


@both
@pytest.mark.parametrize("tol", [0.0, 0.02])
def test_early_stopping_by_data_of_its_own(static_model, pairs, cls, tol):
    queries, documents = pairs
    held_out = queries[14:], documents[14:]
    scorer = RetrievalScorer("mrr@10", corpus=documents)
    watch = Watch(lambda fitted: scorer(fitted, *held_out))
    train = queries[:28], documents[:28]
    make(cls, static_model).set_callbacks(watch).fit(*train)
    untouched = scorer(SentenceEncoder(static_model), *held_out)
    expected = expected_stop([untouched, *watch.seen], 3, tol)
    stopping = EarlyStopping(
        *held_out, corpus=documents, scoring="mrr@10", n_iter_no_change=3, tol=tol
    )
    finetuner = make(cls, static_model).set_callbacks(stopping).fit(*train)
    assert n_epochs(finetuner) == finetuner.best_epoch_ == expected
    assert 3 < expected < 25
    # the weights of the last epoch are kept
    assert scorer(finetuner, *held_out) == pytest.approx(watch.seen[expected - 1])


def test_early_stopping_takes_every_form_of_data(static_model, pairs):
    table = list(zip(*pairs, strict=True))
    epochs = {
        n_epochs(
            make(AdapterFinetuner, static_model)
            .set_callbacks(EarlyStopping(*held_out, n_iter_no_change=2))
            .fit(table[:28])
        )
        for held_out in [(table[28:],), (pairs[0][28:], pairs[1][28:])]
    }
    assert len(epochs) == 1 and epochs.pop() < 25
    rng = np.random.RandomState(0)
    X, labels = rng.normal(size=(60, 6)), np.arange(60) % 3
    finetuner = make(AdapterFinetuner, None, side="both")
    finetuner.set_callbacks(EarlyStopping(X[40:], labels[40:], n_iter_no_change=1))
    assert n_epochs(finetuner.fit(X[:40], labels[:40])) < 25


def test_early_stopping_counts_epochs_and_not_evaluations(static_model, pairs):
    """Three steps an epoch: of the first nothing is known before the fourth step."""
    finetuner = make(
        EmbeddingFinetuner,
        static_model,
        evaluation_steps=4,
        learning_rate=1e-12,
        epochs=5,
    ).set_callbacks(EarlyStopping(n_iter_no_change=1))
    finetuner.fit(*pairs, X_val=pairs[0], y_val=pairs[1])
    assert [h["step"] for h in finetuner.history_] == [0, 4, 6]


@both
@pytest.mark.parametrize(
    "where, backend",
    [
        ("search", "sequential"),
        ("finetuner", "threading"),
        ("finetuner", "loky"),
        ("search", "loky"),
    ],
)
def test_early_stopping_in_a_search(static_model, pairs, cls, where, backend):
    """One callback for all fits; each is stopped as if it were alone."""
    queries, documents = pairs
    train = queries[:30], documents[:30]
    grid, cv = {"learning_rate": [1e-12, LEARNING_RATES[cls]]}, KFold(2)

    def stopping():
        return EarlyStopping(*pairs, n_iter_no_change=2)

    def scoring(estimator, X, y):
        scorer = RetrievalScorer("ndcg@10", corpus=documents)
        epochs = estimator.history_[-1]["epoch"]
        return {"ndcg@10": scorer(estimator, X, y), "epochs": epochs}

    finetuner = make(cls, static_model, epochs=15)
    search = GridSearchCV(
        finetuner,
        grid,
        scoring=scoring,
        refit="ndcg@10",
        cv=cv,
        n_jobs=2,
        error_score="raise",
    )
    (finetuner if where == "finetuner" else search).set_callbacks(stopping())
    with parallel_config(backend, **_one_thread(backend)):
        search.fit(*train)
    for i, params in enumerate(search.cv_results_["params"]):
        for fold, (rows, _) in enumerate(cv.split(train[0])):
            alone = make(cls, static_model, epochs=15, **params)
            alone.set_callbacks(stopping())
            alone.fit(*([values[row] for row in rows] for values in train))
            assert search.cv_results_[f"split{fold}_test_epochs"][i] == n_epochs(alone)
    assert search.cv_results_["mean_test_epochs"][0] == 2  # nothing is learned
    assert search.cv_results_["mean_test_epochs"][1] > 2
    assert n_epochs(search.best_estimator_) < 15


def _one_thread(backend):
    return {"inner_max_num_threads": 1} if backend == "loky" else {}


def test_early_stopping_inside_pipelines_halving_and_cross_validation(
    static_model, pairs
):
    def finetuner(**options):
        return make(
            AdapterFinetuner, static_model, learning_rate=1e-12, **options
        ).set_callbacks(EarlyStopping(*pairs, n_iter_no_change=2))

    pipeline = make_pipeline(FunctionTransformer(), finetuner())
    for estimator in (pipeline, clone(pipeline)):
        assert n_epochs(estimator.fit(*pairs)[-1]) == 2
    fitted = cross_validate(finetuner(), *pairs, cv=2, return_estimator=True)
    assert [n_epochs(estimator) for estimator in fitted["estimator"]] == [2, 2]
    halving = HalvingGridSearchCV(
        finetuner(),
        {"side": ["query", "both"]},
        resource="epochs",
        min_resources=5,
        max_resources=10,
        factor=2,
        cv=2,
        error_score="raise",
    ).fit(*pairs)
    assert n_epochs(halving.best_estimator_) == 2


def test_early_stopping_again_and_on_a_pipeline_in_a_search(static_model, pairs):
    finetuner = make(AdapterFinetuner, static_model, learning_rate=1e-12)
    pipeline = make_pipeline("passthrough", finetuner)
    pipeline.set_callbacks(EarlyStopping(*pairs, n_iter_no_change=2))
    for _ in range(2):
        assert n_epochs(pipeline.fit(*pairs)[-1]) == 2
    pipeline.set_callbacks(EarlyStopping(*pairs))
    search = GridSearchCV(pipeline, {}, cv=2, error_score="raise")
    for _ in range(2):
        with pytest.raises(TypeError, match="on the outermost estimator|Register"):
            search.fit(*pairs)


def test_early_stopping_after_it_was_refused(static_model, pairs):
    """A place where it cannot be set changes nothing of it."""
    stopping = EarlyStopping(*pairs, n_iter_no_change=2)
    before = dict(vars(stopping))
    finetuner = make(AdapterFinetuner, static_model, learning_rate=1e-12)
    pipeline = make_pipeline("passthrough", finetuner).set_callbacks(stopping)
    with pytest.raises(TypeError, match="on the outermost estimator"):
        GridSearchCV(pipeline, {}, cv=2, error_score="raise").fit(*pairs)
    assert vars(stopping) == before
    search = GridSearchCV(finetuner, {}, cv=2, error_score="raise")
    search.set_callbacks(stopping).fit(*pairs)
    assert n_epochs(search.best_estimator_) == 2 and vars(stopping) == before


def test_early_stopping_leaves_a_search_as_it_came(static_model, pairs):
    """One that was set on a search can be set on a finetuner inside of one."""
    stopping = EarlyStopping(*pairs, n_iter_no_change=2)
    before = set(vars(stopping))

    def finetuner():
        return make(AdapterFinetuner, static_model, learning_rate=1e-12)

    def search(inner):
        return GridSearchCV(inner, {}, cv=2, error_score="raise")

    outside = search(finetuner()).set_callbacks(stopping)
    inside = search(finetuner().set_callbacks(stopping))
    for searching in (outside, inside, outside, inside):
        searching.fit(*pairs)
        assert n_epochs(searching.best_estimator_) == 2
        assert set(vars(stopping)) == before
    with pytest.raises(ValueError, match="n_splits=2"):
        search(finetuner()).set_callbacks(stopping).fit([], [])
    assert set(vars(stopping)) == before
    assert n_epochs(finetuner().set_callbacks(stopping).fit(*pairs)) == 2


@both
def test_early_stopping_with_nothing_to_watch(static_model, pairs, cls):
    watch = Watch(id)
    finetuner = make(cls, static_model).set_callbacks(watch, EarlyStopping())
    with pytest.raises(ValueError, match="nothing to watch.*EarlyStopping\\(X_val"):
        finetuner.fit(*pairs)
    assert not watch.tasks  # before anything was trained
    finetuner.set_params(validation_fraction=0.2)
    finetuner.set_callbacks(watch, EarlyStopping(scoring="recall@3"))
    with pytest.raises(ValueError, match="'recall@3', which history_ .* 'ndcg@10'"):
        finetuner.fit(*pairs)
    finetuner.set_callbacks(watch, EarlyStopping(pairs[0], [None] * 40))
    with pytest.raises(TypeError, match="None"):
        finetuner.fit(*pairs)
    assert not watch.tasks


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_iter_no_change": 0}, "n_iter_no_change"),
        ({"tol": -1.0}, "tol"),
        ({"scoring": "ndgc@10"}, "ndcg"),
        ({"y_val": ["a"]}, "go with X_val"),
        ({"corpus": ["a"]}, "go with X_val"),
    ],
)
def test_early_stopping_checks_its_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**options)


def test_early_stopping_does_not_harm_a_closed_form(static_model, pairs):
    options = {"validation_fraction": 0.25, "random_state": 0}
    for plain in (
        CorpusFinetuner(static_model, **options),
        AdapterFinetuner(static_model, solver="closed_form", **options),
    ):
        plain.fit(*pairs)
        for stopping in (EarlyStopping(), EarlyStopping(*pairs)):
            stopping.n_iter_no_change = 1
            watched = clone(plain).set_callbacks(stopping).fit(*pairs)
            assert watched.history_ == plain.history_
            np.testing.assert_array_equal(
                watched.transform_documents(pairs[1]),
                plain.transform_documents(pairs[1]),
            )


def test_early_stopping_travels_with_the_estimator(static_model, pairs, tmp_path):
    finetuner = make(AdapterFinetuner, static_model, learning_rate=1e-12)
    finetuner.set_callbacks(EarlyStopping(*pairs, n_iter_no_change=2)).fit(*pairs)
    joblib.dump(finetuner, tmp_path / "finetuner")
    loaded = joblib.load(tmp_path / "finetuner")
    assert loaded.history_ == finetuner.history_
    assert n_epochs(loaded.fit(*pairs)) == 2


# ---- trackers


@pytest.mark.parametrize(
    "logger, package",
    [(MLflowLogger(), "mlflow"), (TensorBoardLogger("runs"), "tensorboard")],
)
def test_a_tracker_that_is_not_installed(
    static_model, pairs, monkeypatch, tmp_path, logger, package
):
    """Known at once, and in one line; `make distributed` tests those that are."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    watch, message = Watch(id), f"needs {package} .*pip install 'skembft\\[{package}"
    finetuner = make(AdapterFinetuner, static_model).set_callbacks(watch, logger)
    with pytest.raises(ImportError, match=message) as error:
        finetuner.fit(*pairs)
    assert "\n" not in str(error.value)
    with pytest.raises(ImportError, match=message):
        GridSearchCV(finetuner, {}, error_score="raise").fit(*pairs)
    assert not watch.tasks and not list(tmp_path.iterdir())


# ---- scores by epoch


@both
def test_scoring_monitor_records_every_epoch(static_model, pairs, cls):
    monitor = ScoringMonitor(scoring={"ndcg": RetrievalScorer("ndcg@10")})
    estimator = make(cls, static_model, epochs=3).set_callbacks(monitor)
    estimator.fit(*pairs)
    log = [r for r in monitor.get_logs().data if r["task_name"] == "epoch"]
    assert len(log) == 3
    assert log[-1]["ndcg"] == pytest.approx(estimator.score(*pairs))


@both
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_scoring_monitor_in_a_search(static_model, pairs, cls, backend):
    """The epochs of all fits arrive from workers, with the scores of one process."""
    logs = []
    for n_jobs in (1, 2):
        monitor = ScoringMonitor(scoring=RetrievalScorer(METRICS, corpus=pairs[1]))
        search = GridSearchCV(
            make(cls, static_model).set_callbacks(monitor),
            {"epochs": [2, 3]},
            scoring=RetrievalScorer(METRICS, corpus=pairs[1]),
            refit="ndcg@10",
            cv=KFold(2),
            n_jobs=n_jobs,
            error_score="raise",
        )
        with parallel_config(backend, **_one_thread(backend)):
            search.fit(*pairs)
        (log,) = monitor.get_logs(select="all")
        assert log.estimator_name == "GridSearchCV"
        logs.append(log.data)
        of_refit = [row for row in log.data if len(row["task_id_path"]) == 3]
        assert len(of_refit) == search.best_params_["epochs"]
        score = search.scorer_(search.best_estimator_, *pairs)
        assert of_refit[-1]["mrr@10"] == pytest.approx(score["mrr@10"], abs=1e-12)
    assert len(logs[0]) == 2 * 2 + 2 * 3 + search.best_params_["epochs"]
    for serial, parallel in zip(*(sorted(log, key=_task) for log in logs), strict=True):
        assert _task(serial) == _task(parallel)
        for metric in METRICS:
            assert serial[metric] == pytest.approx(parallel[metric], abs=1e-12)
    assert len({row["ndcg@10"] for row in logs[0]}) > 4


def _task(row):
    return row["task_id_path"]


@both
def test_epochs_of_a_refit_are_named_so(static_model, pairs, cls, any_gain):
    watch = Watch(lambda fitted: fitted.history_.metric)
    finetuner = make(cls, static_model, epochs=5, validation_fraction=0.25, refit=True)
    finetuner.set_callbacks(watch).fit(*pairs)
    n_refit = round(finetuner.best_epoch_)
    assert n_refit > 0
    assert watch.tasks == ["epoch"] * 5 + ["refit-epoch"] * n_refit + ["fit"]
    assert watch.seen == ["ndcg@10"] * 5 + [None] * n_refit


@both
def test_callbacks_see_the_history_as_it_is_now(static_model, pairs, cls, any_gain):
    watch = Watch(lambda f: (f.history_, f.n_iter_, f.best_step_, f.validation_score_))
    finetuner = make(cls, static_model, epochs=4, validation_fraction=0.25, refit=False)
    finetuner.set_callbacks(watch).fit(*pairs)
    for epoch, (history, n_iter, best_step, score) in enumerate(watch.seen, start=1):
        assert history == finetuner.history_[: epoch + 1]
        assert n_iter == history[-1]["step"] and best_step == history.best_step
        assert score == max(entry["ndcg@10"] for entry in history)
    assert watch.seen[-1][0].best_step == finetuner.best_step_


def test_callbacks_after_another_fit_with_another_encoder(static_model, pairs):
    finetuner = make(AdapterFinetuner, static_model, epochs=2).fit(*pairs)
    finetuner = pickle.loads(pickle.dumps(finetuner))
    watch = Watch(lambda fitted: fitted.score(*pairs))
    finetuner.set_callbacks(watch)
    finetuner.set_params(encoder=SentenceEncoder(static_model, truncate_dim=8))
    finetuner.fit(*pairs)
    assert watch.seen[-1] == finetuner.score(*pairs)


def test_a_fitted_model_is_not_packed_for_callbacks(static_model, pairs, monkeypatch):
    import skembft._embedding.packed_model as packing

    finetuner = make(EmbeddingFinetuner, static_model, epochs=2).fit(*pairs)
    monkeypatch.setattr(packing, "pack_model", lambda model: 1 / 0)
    watch = Watch(lambda fitted: fitted.score(*pairs))
    finetuner.set_callbacks(watch).fit(*pairs)
    assert watch.seen[-1] == pytest.approx(finetuner.score(*pairs))


# ---- progress


@both
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_nested_progress_bars(static_model, pairs, capsys, cls, n_jobs):
    search = GridSearchCV(
        make(cls, static_model, epochs=2),
        {"batch_size": [8, 16]},
        scoring=RetrievalScorer(METRICS, corpus=pairs[1]),
        refit="ndcg@10",
        cv=KFold(2),
        n_jobs=n_jobs,
        error_score="raise",
    )
    search.set_callbacks(ProgressBar(max_propagation_depth=None))
    with parallel_config("loky", inner_max_num_threads=1):
        search.fit(*pairs)
    output = capsys.readouterr().out
    assert "GridSearchCV - fit" in output and "search #0" in output
    assert output.count(f"{cls.__name__} - fit") == 5  # 2 × 2 and the final fit


@both
def test_progress_counts_epochs_of_the_refit_too(static_model, pairs, capsys, cls):
    estimator = make(cls, static_model, epochs=3, validation_fraction=0.25, refit=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.set_callbacks(ProgressBar()).fit(*pairs)
    assert "100%" in capsys.readouterr().out


# ---- the history


@pytest.fixture(scope="module")
def fitted(static_model, pairs):
    options = {"epochs": 4, "validation_fraction": 0.25, "interpolation": None}
    return make(AdapterFinetuner, static_model, **options).fit(*pairs)


def test_history_is_a_list_that_knows_what_was_chosen(fitted, static_model, pairs):
    history = fitted.history_
    plain = [dict(entry) for entry in history]
    assert isinstance(history, list) and history == plain and len(history) == 5
    assert history.metric == "ndcg@10" and history.best_step == fitted.best_step_
    assert json.loads(json.dumps(history)) == plain
    without = make(AdapterFinetuner, static_model, epochs=2).fit(*pairs)
    assert without.history_.metric is None
    assert without.history_.best_step == without.n_iter_ == without.best_step_ == 6


def test_history_survives_being_saved(fitted, tmp_path):
    joblib.dump(fitted, tmp_path / "finetuner")
    for again in (
        pickle.loads(pickle.dumps(fitted)).history_,
        joblib.load(tmp_path / "finetuner").history_,
    ):
        assert type(again) is type(fitted.history_) and again == fitted.history_
        assert again.metric == "ndcg@10" and again.best_step == fitted.best_step_


@pytest.mark.parametrize("metric", [None, "mrr@10"])
def test_history_plots_itself(fitted, metric, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    inspection = pytest.importorskip("skembft.inspection")
    plt = pytest.importorskip("matplotlib.pyplot")
    _, ax = plt.subplots()
    display = fitted.history_.plot(metric, ax=ax)
    assert isinstance(display, inspection.TrainingHistoryDisplay)
    values = [entry[metric or "ndcg@10"] for entry in fitted.history_]
    drawn = [line.get_ydata() for a in ax.figure.axes for line in a.lines]
    assert any(np.array_equal(line, values) for line in drawn)
    plt.close(ax.figure)
