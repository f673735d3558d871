"""What searches give on any engine; test_dask and test_ray start two workers."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.callbacks import EarlyStopping
from skembft.metrics import RetrievalScorer
from skembft.model_selection import document_groups
from tests.conftest import write_bert
from tests.distributed.workers import CountingScorer, KillsWorker, counted

OPTIONS = {
    AdapterFinetuner: {"epochs": 2, "learning_rate": 1e-2},
    CorpusFinetuner: {},
    EmbeddingFinetuner: {"epochs": 2, "learning_rate": 1e-2},
}
GRIDS = {
    AdapterFinetuner: {"batch_size": [8, 16], "side": ["query", "both"]},
    CorpusFinetuner: {"gamma": [0.3, 1.0]},
    EmbeddingFinetuner: {"batch_size": [8, 16]},
}
FROZEN = (AdapterFinetuner, CorpusFinetuner)
each = pytest.mark.parametrize("finetuner", list(OPTIONS))
each_trained = pytest.mark.parametrize(
    "finetuner", [AdapterFinetuner, EmbeddingFinetuner]
)


def make(finetuner, model, **options):
    return finetuner(model, **{"random_state": 0, **OPTIONS[finetuner], **options})


def grid(estimator, candidates, corpus=None, **options):
    defaults = {
        "scoring": RetrievalScorer("ndcg@10", corpus=corpus),
        "cv": KFold(2, shuffle=True, random_state=0),
        "n_jobs": 2,
        "error_score": "raise",
    }
    return GridSearchCV(estimator, candidates, **{**defaults, **options})


def check(search, engine, *data, **metadata):
    """All results but times are those of this process, to the bit."""
    serial = clone(search).set_params(n_jobs=1).set_callbacks()
    serial.fit(*data, **metadata)
    with engine():
        search.fit(*data, **metadata)
    ours, theirs = search.cv_results_, serial.cv_results_
    assert list(ours) == list(theirs)
    for name in ours:
        if not name.endswith("_time"):
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    scores = [v for k, v in ours.items() if k.startswith("split")]
    assert np.isfinite(scores).all() and len(np.unique(scores)) > 1
    assert search.best_params_ == serial.best_params_
    assert search.score(*data) == serial.score(*data)


class SearchesOnTwoWorkers:
    """Tests of any engine; a subclass has the fixture `engine`."""

    @each
    def test_search(self, engine, data, tmp_path, capsys, finetuner):
        """Workers read a model once, and encode a text once if the model is frozen.

        The process that searches shows the progress of all.
        """
        width = 8 * (2 + list(OPTIONS).index(finetuner))  # a model of its own
        model = write_bert(tmp_path, width)
        scorer = CountingScorer("ndcg@10", corpus=data[1], folder=tmp_path)
        search = grid(make(finetuner, model), GRIDS[finetuner], scoring=scorer)
        search.set_callbacks(ProgressBar(max_propagation_depth=None))
        check(search, engine, *data)
        n_fits = 2 * len(search.cv_results_["params"]) + 1
        shown = capsys.readouterr().out
        assert shown.count(f"{finetuner.__name__} - fit") == n_fits
        assert counted(tmp_path, "model") == [[model], [model]]
        assert counted(tmp_path, "threads") == [["1"], ["1"]]
        if finetuner in FROZEN:
            for texts in counted(tmp_path, "text"):
                assert sorted(texts) == sorted({*data[0], *data[1]})

    @pytest.mark.parametrize("finetuner", FROZEN)
    def test_with_a_warm_directory_workers_encode_nothing(
        self, engine, bert_model, data, finetuner, tmp_path, encoded_rows
    ):
        SentenceEncoder(bert_model).clear()
        encoder = SentenceEncoder(bert_model, cache_dir=tmp_path / "vectors")
        encoder.warm(data[0] + data[1])
        scorer = CountingScorer("ndcg@10", corpus=data[1], folder=tmp_path)
        search = grid(make(finetuner, encoder), GRIDS[finetuner], scoring=scorer)
        with engine():
            search.fit(*data)
        assert encoded_rows == dict.fromkeys({*data[0], *data[1]}, 1)
        assert counted(tmp_path, "text") == counted(tmp_path, "model") == [[], []]

    @each_trained
    def test_halving(self, engine, static_model, data, finetuner):
        options = {"validation_fraction": None, "learning_rate": 0.1}
        search = HalvingGridSearchCV(
            make(finetuner, static_model, **options),
            {"batch_size": [8, 16], "weight_decay": [0.0, 0.1]},
            resource="epochs",
            min_resources=1,
            max_resources=4,
            factor=2,
            scoring=RetrievalScorer("ndcg@10", corpus=data[1]),
            cv=KFold(2, shuffle=True, random_state=0),
            n_jobs=2,
            error_score="raise",
        )
        check(search, engine, *data)

    @each
    def test_a_killed_worker_costs_nothing_but_time(
        self, engine, static_model, data, finetuner, tmp_path
    ):
        estimator = make(finetuner, static_model)
        killing = clone(estimator).set_callbacks(KillsWorker(tmp_path / "killed"))
        search = grid(killing, GRIDS[finetuner], data[1])
        check(search, engine, *data)
        assert (tmp_path / "killed").exists()

    def test_vectors_that_are_read_only(self, engine, rotated):
        """As engines send arrays without copying them."""
        search = grid(make(AdapterFinetuner, None), GRIDS[AdapterFinetuner], rotated[1])
        check(search, engine, *rotated)

    @pytest.mark.parametrize("finetuner", FROZEN)
    def test_precomputed_vectors(self, engine, rotated, finetuner):
        queries, documents = rotated
        ids = [f"q{i}" for i in range(len(queries))], [f"d{i}" for i in range(240)]
        encoder = PrecomputedEncoder((ids[0], queries), (ids[1], documents))
        search = grid(make(finetuner, encoder), GRIDS[finetuner], ids[1])
        check(search, engine, ids[0], [*ids[1][:120], *ids[1][:120]])


class FormsOnTwoWorkers:
    """Other data, parameters and estimators, where an engine's workers stay alive."""

    def test_halving_over_rows(self, engine, static_model, data):
        search = HalvingGridSearchCV(
            make(CorpusFinetuner, static_model),
            GRIDS[CorpusFinetuner],
            factor=2,
            min_resources=20,
            scoring=RetrievalScorer("ndcg@10", corpus=data[1]),
            cv=KFold(2, shuffle=True, random_state=0),
            random_state=0,
            n_jobs=2,
            error_score="raise",
        )
        check(search, engine, *data)

    @each_trained
    def test_early_stopping(self, engine, static_model, data, finetuner):
        stopping = EarlyStopping(*data, n_iter_no_change=2)
        options = {"epochs": 30, "validation_fraction": None}
        estimator = make(finetuner, static_model, **options).set_callbacks(stopping)
        search = grid(estimator, {"learning_rate": [1e-9, 0.1]}, data[1])
        with engine():
            search.fit(*data)
        assert search.best_estimator_.history_[-1]["epoch"] < 30

    @pytest.mark.parametrize("form", ["pandas", "polars", "array"])
    def test_forms_of_data(self, engine, static_model, data, form):
        if form == "array":
            columns = tuple(np.array(values, dtype=object) for values in data)
        else:
            columns = tuple(pytest.importorskip(form).Series(values) for values in data)
        estimator = make(AdapterFinetuner, static_model)
        check(grid(estimator, GRIDS[AdapterFinetuner], data[1]), engine, *columns)

    def test_groups_metrics_and_a_random_state(self, engine, static_model, data):
        state = np.random.RandomState(0)
        search = grid(
            make(EmbeddingFinetuner, static_model, random_state=state),
            {"batch_size": [8, 16]},
            scoring=RetrievalScorer(["ndcg@10", "mrr@10"], corpus=data[1]),
            refit="ndcg@10",
            cv=GroupKFold(2),
        )
        groups = document_groups(data[1], data[0])
        check(search, engine, *data, groups=groups)

    def test_a_pipeline_and_a_stack(self, engine, static_model, data):
        stacked = make(CorpusFinetuner, make(AdapterFinetuner, static_model))
        pipeline = make_pipeline(FunctionTransformer(list), stacked)
        name = "corpusfinetuner__encoder__side"
        check(grid(pipeline, {name: ["query", "both"]}, data[1]), engine, *data)

    def test_a_search_in_every_fold(self, engine, static_model, data):
        search = grid(make(AdapterFinetuner, static_model), {"batch_size": [8, 16]})
        search.set_params(n_jobs=None)
        cv = KFold(2, shuffle=True, random_state=0)
        serial = cross_val_score(search, *data, cv=cv, error_score="raise")
        with engine():
            got = cross_val_score(search, *data, cv=cv, n_jobs=2, error_score="raise")
        np.testing.assert_array_equal(got, serial)
