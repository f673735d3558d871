"""Real studies of Optuna: what they are told of a fit, and how they end it."""

import math
import tempfile
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skembft import AdapterFinetuner, CorpusFinetuner, EmbeddingFinetuner
from skembft.callbacks import EarlyStopping, OptunaPruning
from skembft.metrics import RetrievalScorer
from tests.distributed.finetuners import OPTIONS, each, make, shared, trained

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore:Training did not help:UserWarning"),
    # a step is reported once
    pytest.mark.filterwarnings("error:The reported value is ignored:UserWarning"),
]


@pytest.fixture(scope="module")
def optuna():
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@pytest.fixture
def new_study(optuna):
    """Makes a study that prunes at a step, or never."""

    class PruneAt(optuna.pruners.BasePruner):
        def __init__(self, step):
            self.step = step

        def prune(self, study, trial):
            return trial.last_step >= self.step

    def new(step=math.inf, direction="maximize", **options):
        pruner = PruneAt(step)
        return optuna.create_study(direction=direction, pruner=pruner, **options)

    return new


@pytest.fixture(scope="module")
def pairs(pairs):
    return shared(pairs)


def pruned_fit(study, estimator, pairs):
    """Fit in a trial that must be pruned; return it."""

    def objective(trial):
        estimator.set_callbacks(OptunaPruning(trial))
        estimator.fit(*pairs)

    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    assert trial.state.name == "PRUNED"
    return trial


def evaluations(finetuner, metric="ndcg@10"):
    """The metric of every evaluation of a training, without those of blends."""
    return [e[metric] for e in finetuner.history_[1:] if "interpolation" not in e]


# ---- what is reported


@each
@pytest.mark.parametrize("scoring", [None, "mrr@10"])
def test_every_epoch_is_reported(new_study, static_model, pairs, cls, scoring):
    trial = new_study().ask()
    options = {"scoring": scoring} if cls is CorpusFinetuner and scoring else {}
    finetuner = make(cls, static_model, **options)  # it records no other metrics
    finetuner.set_callbacks(OptunaPruning(trial, scoring)).fit(*pairs)
    expected = evaluations(finetuner, scoring or "ndcg@10")
    if cls is CorpusFinetuner:  # it tries all step sizes in its only epoch
        expected = [max(expected)]
    reported = trial.study.trials[0].intermediate_values
    assert reported == dict(enumerate(expected))
    assert len(reported) == getattr(finetuner, "epochs", 1)


@trained
def test_a_refit_is_not_reported(new_study, static_model, pairs, cls, any_gain):
    trial = new_study(7).ask()
    finetuner = make(cls, static_model, refit=True)
    finetuner.set_callbacks(OptunaPruning(trial)).fit(*pairs)
    assert finetuner.best_step_ > 0  # it was fitted again
    assert list(trial.study.trials[0].intermediate_values) == list(range(4))


def test_compared_negatives_follow_each_other(new_study, static_model, pairs):
    """Each at a multiple of `epochs`, however soon the one before has stopped."""
    trial = new_study().ask()
    finetuner = make(
        AdapterFinetuner,
        static_model,
        negatives="auto",
        interpolation=None,  # tries no share at the end
        n_iter_no_change=2,
        epochs=10,
    )
    finetuner.set_callbacks(OptunaPruning(trial)).fit(*pairs)
    reported = trial.study.trials[0].intermediate_values
    assert list(reported.values()) == evaluations(finetuner)
    runs = [e["negatives"] for e in finetuner.history_ if "negatives" in e]
    sizes = [runs.count(name) for name in dict.fromkeys(runs)]
    assert len(sizes) == 3 and min(sizes) < 10
    assert list(reported) == [
        10 * run + epoch for run, n in enumerate(sizes) for epoch in range(n)
    ]


def test_an_epoch_is_worth_its_best_evaluation(new_study, static_model, pairs):
    """With two steps an epoch: evaluated after each, or after three."""
    pairs = [values[::3] for values in pairs]  # one of each document
    for every in (1, 3):
        trial = new_study().ask()
        finetuner = make(
            EmbeddingFinetuner, static_model, batch_size=10, evaluation_steps=every
        )
        finetuner.set_callbacks(OptunaPruning(trial)).fit(*pairs)
        by_epoch = {}
        for entry in finetuner.history_[1:]:
            values = by_epoch.setdefault(math.ceil(entry["epoch"]) - 1, [])
            values.append(entry["ndcg@10"])
        best = {epoch: max(values) for epoch, values in by_epoch.items()}
        assert trial.study.trials[0].intermediate_values == best
        assert len(best) == (4 if every == 1 else 3)


def test_a_fixed_trial_has_nobody_to_tell(optuna, static_model, pairs):
    callback = OptunaPruning(optuna.trial.FixedTrial({}))
    finetuner = make(AdapterFinetuner, static_model).set_callbacks(callback)
    alone = make(AdapterFinetuner, static_model).fit(*pairs)
    assert finetuner.fit(*pairs).history_ == alone.history_


# ---- pruning


class Epochs:
    """Counts the epochs that have ended."""

    def __init__(self):
        self.n = 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.n += context.task_name.endswith("epoch")


@each
def test_a_pruned_fit_leaves_nothing(
    new_study, static_model, pairs, cls, tmp_path, monkeypatch
):
    temporary, here = tmp_path / "temporary", tmp_path / "here"
    temporary.mkdir(), here.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(here)
    count = Epochs()
    finetuner, last = make(cls, static_model), 0 if cls is CorpusFinetuner else 2

    def objective(trial):
        finetuner.set_callbacks(count, OptunaPruning(trial)).fit(*pairs)

    study = new_study(last)
    study.optimize(objective, n_trials=2)
    for trial in study.trials:
        assert trial.state.name == "PRUNED" and trial.last_step == last
    assert count.n == 2 * (last + 1)
    assert not list(temporary.iterdir()) and not list(here.iterdir())
    with pytest.raises(NotFittedError):
        finetuner.transform(pairs[0])
    alone = make(cls, static_model).fit(*pairs)
    again = finetuner.set_callbacks().fit(*pairs)
    assert again.history_ == alone.history_


@each
def test_a_pruned_fit_keeps_the_one_before(new_study, static_model, pairs, cls):
    finetuner = make(cls, static_model).fit(*pairs)
    before = finetuner.transform(pairs[0]), finetuner.transform_documents(pairs[1])
    history = list(finetuner.history_)
    pruned_fit(new_study(0), finetuner, [values[:60] for values in pairs])
    assert finetuner.history_ == history
    np.testing.assert_array_equal(finetuner.transform(pairs[0]), before[0])
    np.testing.assert_array_equal(finetuner.transform_documents(pairs[1]), before[1])


def test_checkpoints_of_a_pruned_fit_go_on(new_study, static_model, pairs, tmp_path):
    options = {
        "model_output_path": str(tmp_path),
        "save_checkpoints": True,
        "checkpoint_save_steps": 2,  # an epoch
    }
    finetuner = make(EmbeddingFinetuner, static_model, **options)
    before = pruned_fit(new_study(2), finetuner, pairs).intermediate_values
    assert list(tmp_path.rglob("checkpoint-*"))
    trial = new_study().ask()
    finetuner.set_params(resume_from_checkpoint=True)
    finetuner.set_callbacks(OptunaPruning(trial)).fit(*pairs)
    alone = make(EmbeddingFinetuner, static_model).fit(*pairs)
    assert finetuner.history_ == alone.history_
    after = trial.study.trials[0].intermediate_values
    assert after == dict(enumerate(evaluations(alone)))
    assert before == {step: after[step] for step in range(3)}


@each
@pytest.mark.parametrize("where", ["finetuner", "pipeline"])
def test_pruning_in_a_pipeline(new_study, static_model, pairs, cls, where):
    def objective(trial):
        pruning, finetuner = OptunaPruning(trial), make(cls, static_model)
        if where == "finetuner":
            finetuner.set_callbacks(pruning)
        pipeline = clone(make_pipeline("passthrough", finetuner))
        if where == "pipeline":
            pipeline.set_callbacks(pruning)
        pipeline.fit(*pairs)

    study = new_study(0)
    study.optimize(objective, n_trials=2)
    assert [t.state.name for t in study.trials] == 2 * ["PRUNED"]
    assert [t.intermediate_values.keys() for t in study.trials] == 2 * [{0}]


@each
def test_pruning_in_cross_validation(new_study, static_model, pairs, cls):
    """The second fold begins at step 4, wherever the first has ended."""
    n_epochs = OPTIONS[cls].get("epochs", 1)
    stopping = [] if cls is CorpusFinetuner else [EarlyStopping(n_iter_no_change=2)]

    def objective(trial):
        finetuner = make(cls, static_model)
        finetuner.set_callbacks(OptunaPruning(trial), *stopping)
        scores = cross_val_score(
            make_pipeline(FunctionTransformer(), finetuner),
            *pairs,
            scoring=RetrievalScorer("ndcg@10", corpus=pairs[1]),
            cv=KFold(3),
            error_score="raise",
        )
        return scores.mean()

    whole = new_study()
    whole.optimize(objective, n_trials=1)
    study = new_study(n_epochs)  # the first step of the second fold
    study.optimize(objective, n_trials=1)
    assert whole.trials[0].state.name == "COMPLETE"
    assert study.trials[0].state.name == "PRUNED"
    reported = whole.trials[0].intermediate_values
    assert list(reported) == sorted(reported)
    assert {step // n_epochs for step in reported} == {0, 1, 2}
    for fold, (rows, _) in enumerate(KFold(3).split(pairs[0])):
        alone = make(cls, static_model).set_callbacks(*stopping)
        alone.fit(*([values[row] for row in rows] for values in pairs))
        expected = evaluations(alone)
        expected = [max(expected)] if cls is CorpusFinetuner else expected
        for epoch, value in enumerate(expected):
            assert reported[fold * n_epochs + epoch] == value
    assert study.trials[0].last_step == n_epochs


def test_the_studys_own_pruner_ends_what_does_not_learn(optuna, rotated):
    def objective(trial):
        rate = 1e-7 if trial.number > 4 else 3e-3
        finetuner = AdapterFinetuner(
            None, learning_rate=rate, epochs=8, negatives="batch", random_state=0
        ).set_callbacks(OptunaPruning(trial))
        return finetuner.fit(*rotated).validation_score_

    pruner = optuna.pruners.MedianPruner(n_warmup_steps=2)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.optimize(objective, n_trials=7)
    assert [t.state.name for t in study.trials] == 5 * ["COMPLETE"] + 2 * ["PRUNED"]
    assert [t.last_step for t in study.trials] == 5 * [7] + 2 * [2]


def test_trials_in_threads_and_from_a_store(optuna, rotated, tmp_path):
    """As in several processes: only the store is shared."""

    def objective(trial):
        finetuner = AdapterFinetuner(None, epochs=3, negatives="batch", random_state=0)
        finetuner.set_callbacks(OptunaPruning(trial))
        return finetuner.fit(*rotated).validation_score_

    store = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(direction="maximize", storage=store, study_name="s")
    study.optimize(objective, n_trials=4, n_jobs=2)
    loaded = optuna.load_study(study_name="s", storage=store)
    assert len(loaded.trials) == 4
    for trial in loaded.trials:
        assert trial.state.name == "COMPLETE"
        assert list(trial.intermediate_values) == [0, 1, 2]


# ---- what cannot work


@each
@pytest.mark.parametrize(
    "options, study, message",
    [
        ({}, {"direction": "minimize"}, "direction is minimize: .*'maximize'"),
        ({"validation_fraction": None}, {}, "OptunaPruning has nothing to watch"),
        ({"scoring": "recall@3"}, {}, "watches 'ndcg@9', which history_ does not"),
    ],
)
def test_what_cannot_be_reported(
    new_study, static_model, pairs, cls, options, study, message
):
    scoring = "ndcg@9" if "scoring" in options else None
    if cls is CorpusFinetuner and "validation_fraction" in options:
        options = {**options, "gamma": 0.2}
    pruning, count = OptunaPruning(new_study(**study).ask(), scoring), Epochs()
    finetuner = make(cls, static_model, **options).set_callbacks(count, pruning)
    with pytest.raises(ValueError, match=message):
        finetuner.fit(*pairs)
    assert count.n == 0


def test_several_objectives(optuna, static_model, pairs):
    study = optuna.create_study(directions=["maximize", "maximize"])
    finetuner = make(AdapterFinetuner, static_model)
    finetuner.set_callbacks(OptunaPruning(study.ask()))
    with pytest.raises(ValueError, match="direction is maximize and maximize"):
        finetuner.fit(*pairs)


def test_arguments(new_study):
    with pytest.raises(ValueError, match="'trial' parameter"):
        OptunaPruning("trial")
    with pytest.raises(ValueError, match="ndcg"):
        OptunaPruning(new_study().ask(), "ndgc@10")


def test_errors_must_be_raised(new_study, static_model, pairs):
    """Otherwise scikit-learn goes on with the other folds of a pruned trial."""
    trial = new_study(1).ask()
    search = GridSearchCV(make(AdapterFinetuner, static_model), {}, cv=2)
    search.set_callbacks(OptunaPruning(trial))
    with pytest.raises(ValueError, match="error_score must be 'raise'"):
        search.fit(*pairs)
    finetuner = make(AdapterFinetuner, static_model)
    finetuner.set_callbacks(OptunaPruning(trial))
    with pytest.raises(ValueError, match="error_score must be 'raise'"):
        cross_val_score(finetuner, *pairs, cv=3)
    assert trial.study.trials[0].last_step == 1


def test_folds_in_other_processes(new_study, static_model, pairs):
    finetuner = make(AdapterFinetuner, static_model)
    finetuner.set_callbacks(OptunaPruning(new_study().ask()))
    with pytest.raises(RuntimeError, match="n_jobs=1 inside of the objective"):
        cross_val_score(finetuner, *pairs, cv=2, n_jobs=2, error_score="raise")


# ---- OptunaSearchCV


@each
def test_optuna_search_cv(optuna, static_model, pairs, cls):
    """It is a search as scikit-learn's: equal scores, and the best one fitted again."""
    from optuna_integration import OptunaSearchCV

    if cls is CorpusFinetuner:
        name, values = "gamma", [0.1, 0.3]
    else:
        name, values = "learning_rate", [1e-6, 0.3]
    scorer = RetrievalScorer("ndcg@10", corpus=pairs[1])
    options = {"scoring": scorer, "cv": KFold(2), "error_score": "raise"}
    finetuner = make(cls, static_model, validation_fraction=None)
    sampler = optuna.samplers.GridSampler({name: values})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        search = OptunaSearchCV(
            finetuner,
            {name: optuna.distributions.CategoricalDistribution(values)},
            n_trials=2,
            study=optuna.create_study(direction="maximize", sampler=sampler),
            **options,
        ).fit(*pairs)
    grid = GridSearchCV(finetuner, {name: values}, **options).fit(*pairs)
    scores = {trial.params[name]: trial.value for trial in search.trials_}
    assert scores == dict(zip(values, grid.cv_results_["mean_test_score"], strict=True))
    assert search.best_params_ == grid.best_params_
    assert search.best_score_ == grid.best_score_
    found = search.best_estimator_
    np.testing.assert_array_equal(
        found.transform(pairs[0]), grid.best_estimator_.transform(pairs[0])
    )
    assert scorer(found, *pairs) == scorer(grid, *pairs)
