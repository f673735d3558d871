"""Model selection: grid and halving search, cross-validation, pipelines."""

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.callback import ProgressBar
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    cross_validate,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skembft import AdapterFinetuner, EmbeddingFinetuner, SentenceEncoder
from skembft.metrics import RetrievalScorer
from skembft.model_selection import document_groups

pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")
CV = KFold(3, shuffle=True, random_state=0)


def adapter(model, **options):
    return AdapterFinetuner(
        model, **{"epochs": 2, "learning_rate": 1e-2, "random_state": 0, **options}
    )


def test_grid_search_encodes_every_text_once(bert_model, pairs, encoded_rows):
    """4 candidates × 3 folds + refit, scored on a corpus: one encode a text."""
    queries, documents = pairs
    queries = queries + queries[:3]  # repeated texts count once as well
    documents = documents + documents[:3]
    SentenceEncoder(bert_model).clear()
    search = GridSearchCV(
        adapter(bert_model),
        {"batch_size": [8, 16], "side": ["query", "both"]},
        scoring=RetrievalScorer("ndcg@10", corpus=documents),
        cv=CV,
        error_score="raise",
    ).fit(queries, documents)
    assert encoded_rows == dict.fromkeys({*queries, *documents}, 1)
    assert len(search.cv_results_["params"]) == 4
    search.score(queries, documents)
    assert max(encoded_rows.values()) == 1


def test_a_store_of_no_bytes_forgets(static_model, encoded_rows):
    encoder = SentenceEncoder(static_model, max_store_bytes=0, query_prompt="wet1 ")
    for _ in range(2):
        encoder.transform(["red1 red2"])
    assert encoded_rows["red1 red2"] == 2


@pytest.mark.parametrize("finetuner", [AdapterFinetuner, EmbeddingFinetuner])
def test_grid_over_batch_size_epochs_and_loss(static_model, pairs, finetuner):
    search = GridSearchCV(
        finetuner(
            static_model, learning_rate=0.1, validation_fraction=None, random_state=0
        ),
        {
            "batch_size": [8, 16],
            "epochs": [1, 2],
            "loss": ["multiple_negatives_ranking", "triplet"],
        },
        scoring=RetrievalScorer("ndcg@10", corpus=pairs[1]),
        cv=KFold(2),
        error_score="raise",
    ).fit(*pairs)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    assert search.best_params_["epochs"] in (1, 2)
    indices, _ = search.best_estimator_.retrieve(pairs[0][:2], pairs[1], k=3)
    assert indices.shape == (2, 3)


def test_default_scoring_is_the_estimators_score(static_model, pairs):
    search = GridSearchCV(adapter(static_model), {"batch_size": [8, 16]}, cv=CV)
    search.fit(*pairs)
    assert search.score(*pairs) == search.best_estimator_.score(*pairs)


@pytest.mark.slow
@pytest.mark.parametrize("finetuner", [AdapterFinetuner, EmbeddingFinetuner])
def test_two_processes_give_the_scores_of_one_slow(bert_model, pairs, finetuner):
    _check_two_processes(finetuner(bert_model, epochs=1, random_state=0), pairs)


@pytest.mark.parametrize("finetuner", [AdapterFinetuner, EmbeddingFinetuner])
def test_two_processes_give_the_scores_of_one(static_model, pairs, finetuner):
    _check_two_processes(
        finetuner(static_model, epochs=1, learning_rate=0.05, random_state=0), pairs
    )


def _check_two_processes(finetuner, pairs):
    """Grouped folds, several metrics and progress bars, as users have them."""
    queries, documents = pairs
    documents = [*documents[:20], *documents[:20]]  # two queries each
    scores = []
    for n_jobs in (1, 2):
        with parallel_config("loky", inner_max_num_threads=1):
            search = GridSearchCV(
                finetuner,
                {"batch_size": [8, 16]},
                scoring=RetrievalScorer(["ndcg@10", "mrr@10"], corpus=pairs[1]),
                refit="ndcg@10",
                cv=GroupKFold(2),
                n_jobs=n_jobs,
                error_score="raise",
            )
            search.set_callbacks(ProgressBar(max_propagation_depth=None))
            search.fit(queries, documents, groups=document_groups(documents, queries))
        results = search.cv_results_
        scores.append([results["mean_test_ndcg@10"], results["mean_test_mrr@10"]])
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-12)
    assert len(np.unique(scores[0])) > 1


def test_halving_over_epochs(static_model, pairs):
    search = HalvingGridSearchCV(
        adapter(static_model, validation_fraction=None),
        {"side": ["query", "both"], "batch_size": [8, 16]},
        resource="epochs",
        max_resources=8,
        min_resources=2,
        factor=2,
        scoring=RetrievalScorer("ndcg@10", corpus=pairs[1]),
        cv=KFold(2),
        error_score="raise",
    ).fit(*pairs)
    assert search.n_resources_ == [2, 4, 8]
    assert search.best_params_["epochs"] == 8
    assert search.best_estimator_.history_[-1]["epoch"] == 8


def test_cross_validate_with_several_metrics_ranks_once_a_fold(
    static_model, pairs, monkeypatch
):
    import skembft.metrics._scoring as scoring

    calls = []
    top_k = scoring.top_k
    monkeypatch.setattr(
        scoring, "top_k", lambda *a, **k: calls.append(1) or top_k(*a, **k)
    )
    metrics = ["ndcg@10", "mrr@10", "recall@5"]
    results = cross_validate(
        adapter(static_model, validation_fraction=None),
        *pairs,
        scoring=RetrievalScorer(metrics, corpus=pairs[1]),
        cv=CV,
        error_score="raise",
    )
    assert {f"test_{m}" for m in metrics} <= set(results)
    assert len(calls) == 3


def test_pipeline_cleans_queries_before_the_finetuner(static_model, pairs):
    queries, documents = pairs
    noisy = [f"  {q.upper()} " for q in queries]

    def clean(X):
        return [x.strip().lower() for x in X]

    pipeline = make_pipeline(FunctionTransformer(clean), adapter(static_model))
    pipeline.fit(noisy, documents)
    direct = adapter(static_model).fit(clean(noisy), documents)
    assert pipeline.score(noisy, documents) == direct.score(clean(noisy), documents)
    assert RetrievalScorer()(pipeline, noisy, documents) == pipeline.score(
        noisy, documents
    )
    np.testing.assert_array_equal(
        pipeline.transform(noisy), direct.transform(clean(noisy))
    )
    search = GridSearchCV(
        pipeline,
        {"adapterfinetuner__side": ["query", "both"]},
        scoring=RetrievalScorer("ndcg@10", corpus=documents),
        cv=CV,
        error_score="raise",
    ).fit(noisy, documents)
    assert RetrievalScorer()(search, noisy, documents) > 0


def test_frozen_finetuner_before_a_classifier(static_model, pairs):
    queries, documents = pairs
    labels = [i % 2 for i in range(len(queries))]
    finetuner = adapter(static_model).fit(queries, documents)
    pipeline = Pipeline(
        [("embed", FrozenEstimator(finetuner)), ("classify", LogisticRegression())]
    ).fit(queries, labels)
    assert pipeline.predict(queries).shape == (len(queries),)
    assert pipeline["embed"].transform(queries).shape == (len(queries), 16)


def test_frozen_finetuner_as_encoder(static_model, pairs):
    inner = adapter(static_model).fit(*pairs)
    outer = adapter(FrozenEstimator(inner)).fit(*pairs)
    assert outer.encoder_.estimator is inner
    assert outer.score(*pairs) >= 0


def test_encoder_parameters_are_searched(static_model, pairs):
    search = GridSearchCV(
        adapter(SentenceEncoder(static_model)),
        {"encoder__query_prompt": ["", "red1 "], "encoder__truncate_dim": [8, None]},
        cv=KFold(2),
        error_score="raise",
    ).fit(*pairs)
    assert len(set(search.cv_results_["mean_test_score"])) > 1


# ---- a candidate that diverges


@pytest.mark.filterwarnings("ignore:One or more of the test scores:UserWarning")
@pytest.mark.parametrize("validation_fraction", [None, 0.25])
@pytest.mark.parametrize("finetuner", [AdapterFinetuner, EmbeddingFinetuner])
def test_a_diverged_candidate_is_nan_and_never_wins(
    static_model, pairs, finetuner, validation_fraction
):
    """Also where validation would keep the untouched model, and cosines stay finite."""
    search = GridSearchCV(
        finetuner(
            static_model,
            weight_decay=0.0,  # with any the weights soon become infinite
            validation_fraction=validation_fraction,
            epochs=3,
            random_state=0,
        ),
        {"learning_rate": [1e6, 1e-2]},
        scoring=RetrievalScorer("ndcg@10", corpus=pairs[1]),
        cv=KFold(2),
    )
    with pytest.warns(FitFailedWarning, match="times as large as before training"):
        search.fit(*pairs)
    scores = search.cv_results_["mean_test_score"]
    assert np.isnan(scores[0]) and np.isfinite(scores[1])
    assert search.best_params_ == {"learning_rate": 1e-2}
    search.set_params(error_score="raise")
    with pytest.raises(ValueError, match="training has diverged. Lower learning_rate"):
        search.fit(*pairs)


@pytest.mark.parametrize(
    "options",
    [
        {"adapter": "linear", "adapter_params": {"bias": True}},
        {"adapter": "low_rank", "adapter_params": {"rank": 4}},
        {"adapter": "mlp"},
        {"adapter": "linear", "side": "both", "loss": "triplet"},
        {"adapter": "linear", "side": "separate", "loss": "cosine_similarity"},
        {"adapter": "linear", "weight_decay": "auto"},
    ],
    ids=str,
)
@pytest.mark.parametrize("refit", [False, True])
def test_every_adapter_that_diverges_is_an_error(static_model, pairs, options, refit):
    options = {"weight_decay": 0.0, **options}
    for fraction in (None, 0.25):
        diverged = AdapterFinetuner(
            static_model,
            learning_rate=1e6,
            validation_fraction=fraction,
            refit=refit,
            random_state=0,
            **options,
        )
        with pytest.raises(ValueError, match="training has diverged"):
            diverged.fit(*pairs)


@pytest.mark.parametrize("trainable", ["all", 1, "lora"])
def test_every_part_of_a_model_that_diverges_is_an_error(bert_model, pairs, trainable):
    if trainable == "lora":
        pytest.importorskip("peft")
    diverged = EmbeddingFinetuner(
        bert_model, trainable=trainable, learning_rate=1e6, epochs=1, random_state=0
    )
    with pytest.raises(ValueError, match="training has diverged"):
        diverged.fit(*pairs)


@pytest.mark.parametrize("adapter", ["linear", "low_rank", "mlp"])
def test_a_high_learning_rate_is_no_divergence(static_model, pairs, adapter):
    """A hundred times the default, for long, without weight decay."""
    finetuner = AdapterFinetuner(
        static_model,
        adapter=adapter,
        learning_rate=0.25,
        weight_decay=0.0,
        batch_size=8,
        epochs=100,
        validation_fraction=None,
        random_state=0,
    ).fit(*pairs)
    assert np.isfinite(finetuner.score(*pairs))
