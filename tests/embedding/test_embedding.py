"""EmbeddingFinetuner: the bare trainer as the oracle, and nothing left behind."""

import os
import pickle
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Normalize

from skembft import EmbeddingFinetuner
from tests.embedding.bare_trainer import assert_equal_weights, bare_trainer


@pytest.mark.parametrize("validate", [False, True])
def test_weights_equal_those_of_the_bare_trainer(bert_model, pairs, tmp_path, validate):
    """Bit for bit, with dropout, whether or not there is validation on the way."""
    queries, documents = pairs
    expected = bare_trainer(
        bert_model,
        tmp_path,
        {"anchor": queries, "positive": documents},
        losses.MultipleNegativesRankingLoss,
    )
    finetuner = EmbeddingFinetuner(
        bert_model, learning_rate=1e-3, random_state=0, device="cpu", evaluation_steps=3
    )
    if validate:  # on the training data, where the last step is the best
        finetuner.fit(queries, documents, X_val=queries, y_val=documents)
        assert [h["step"] for h in finetuner.history_] == [0, 3, 6, 8]
        assert finetuner.best_step_ == 8
    else:
        finetuner.fit(queries, documents)
    assert_equal_weights(finetuner.model_, expected)
    untouched = SentenceTransformer(bert_model, device="cpu").state_dict()
    assert not torch.equal(
        next(iter(untouched.values())), next(iter(expected.state_dict().values()))
    )


@pytest.mark.parametrize(
    ("loss", "bare", "with_labels"),
    [
        ("contrastive", losses.ContrastiveLoss, True),
        ("cosine_similarity", losses.CosineSimilarityLoss, True),
        (
            "triplet",
            lambda model: losses.TripletLoss(model, triplet_margin=0.3),
            False,
        ),
        (
            "multiple_negatives_ranking",
            losses.MultipleNegativesRankingLoss,
            False,
        ),
    ],
)
def test_every_loss_equals_the_bare_trainer(
    bert_model, pairs, tmp_path, loss, bare, with_labels
):
    """Labelled pairs and triplets of distinct texts, as they are passed."""
    queries, documents = pairs
    if with_labels:
        labels = [i % 2 for i in range(40)]
        columns = {"anchor": queries, "positive": documents, "label": labels}
        data = (list(zip(queries, documents, strict=True)), labels)
    else:
        negatives = [f"{d} n{i}" for i, d in enumerate(documents[1:] + documents[:1])]
        columns = {"anchor": queries, "positive": documents, "negative": negatives}
        data = (list(zip(*columns.values(), strict=True)), None)
    if loss == "cosine_similarity" and with_labels:
        columns["label"] = [float(label) for label in columns["label"]]
    expected = bare_trainer(bert_model, tmp_path, columns, bare)
    finetuner = EmbeddingFinetuner(
        bert_model, loss=loss, learning_rate=1e-3, random_state=0, device="cpu"
    ).fit(*data)
    assert_equal_weights(finetuner.model_, expected)


def test_prompts_are_those_of_the_bare_trainer(bert_model, pairs, tmp_path):
    queries, documents = pairs
    expected = bare_trainer(
        bert_model,
        tmp_path,
        {"anchor": queries, "positive": documents},
        losses.MultipleNegativesRankingLoss,
        prompts={"anchor": "red1 ", "positive": "old1 "},
    )
    finetuner = EmbeddingFinetuner(
        bert_model,
        learning_rate=1e-3,
        random_state=0,
        device="cpu",
        query_prompt="red1 ",
        document_prompt="old1 ",
    ).fit(queries, documents)
    assert_equal_weights(finetuner.model_, expected)
    np.testing.assert_allclose(
        finetuner.transform(queries),
        expected.encode(queries, prompt="red1 "),
        atol=1e-6,
    )
    # the prompts are part of the model: plain Sentence Transformers uses them
    np.testing.assert_allclose(
        finetuner.model_.encode_document(documents),
        finetuner.transform_documents(documents),
        atol=1e-6,
    )


def test_fit_leaves_nothing_behind(bert_model, pairs, tmp_path, monkeypatch, capfd):
    """No file, no output, no changed random state, no text in a saved model card."""
    random.seed(1)
    torch.manual_seed(1)
    before = (
        random.getstate(),
        np.random.get_state()[1].copy(),  # noqa: NPY002
        torch.get_rng_state(),
    )
    (tmp_path / "work").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "work")
    finetuner = EmbeddingFinetuner(bert_model, validation_fraction=0.2, random_state=3)
    finetuner.fit(*pairs)
    finetuner.score(*pairs)
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
    assert os.listdir(tmp_path / "work") == []
    assert os.listdir(tmp_path / "temporary") == []
    output = capfd.readouterr()
    assert output.out == ""
    assert "it/s" not in output.err and "loss" not in output.err
    finetuner.model_.save_pretrained("saved")
    card = (tmp_path / "work" / "saved" / "README.md").read_text()
    assert not any(text in card for text in pairs[0] + pairs[1])


def test_validation_keeps_the_best_weights_and_reports_all_metrics(bert_model, pairs):
    queries, documents = pairs
    finetuner = EmbeddingFinetuner(
        bert_model,
        learning_rate=3e-3,
        epochs=4,
        validation_fraction=0.25,
        evaluation_steps=0,
        random_state=0,
    ).fit(queries, documents)
    history = finetuner.history_
    assert [h["epoch"] for h in history] == [0, 1, 2, 3, 4]
    assert {"ndcg@10", "mrr@10", "map@100", "recall@10"} <= set(history[0])
    assert finetuner.base_score_ == history[0]["ndcg@10"]
    scores = [h["ndcg@10"] for h in history]
    assert finetuner.validation_score_ == max(scores) > finetuner.base_score_
    assert finetuner.best_epoch_ == scores.index(max(scores))
    assert finetuner.n_iter_ == history[-1]["step"] == 12


def test_never_worse_than_the_untouched_model(bert_model, pairs):
    queries, _ = pairs
    with pytest.warns(UserWarning, match="Training did not help"):
        finetuner = EmbeddingFinetuner(bert_model, epochs=1, random_state=0).fit(
            queries, queries, X_val=queries, y_val=queries
        )
    assert finetuner.best_step_ == 0
    model = SentenceTransformer(bert_model, device="cpu")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, finetuner.model_.state_dict()[name].cpu())


def test_early_stopping_and_refit(bert_model, pairs):
    options = {
        "learning_rate": 3e-3,
        "epochs": 6,
        "validation_fraction": 0.25,
        "n_iter_no_change": 1,
        "evaluation_steps": 0,
        "random_state": 0,
    }
    stopped = EmbeddingFinetuner(bert_model, **options).fit(*pairs)
    scores = [h["ndcg@10"] for h in stopped.history_]
    assert scores[-1] <= max(scores) and len(scores) < 7
    refitted = EmbeddingFinetuner(bert_model, refit=True, **options).fit(*pairs)
    assert refitted.history_ == stopped.history_
    assert refitted.score(*pairs) >= stopped.score(*pairs)
    assert not np.allclose(refitted.transform(pairs[0]), stopped.transform(pairs[0]))


@pytest.mark.filterwarnings("ignore:Documents, or relevant ones")
def test_known_positives_are_never_negatives(bert_model):
    """All queries share both documents: alone in its batch, no pair has a loss."""
    queries = [f"red{i} old{i} wet{i % 5}" for i in range(12)]
    y = [["shy1 shy2", "big1 big2"] for _ in queries]
    options = {"epochs": 1, "evaluation_steps": 1, "batch_size": 6, "random_state": 0}
    finetuner = EmbeddingFinetuner(bert_model, use_all_docs=True, **options)
    finetuner.fit(queries, y)
    assert [h["loss"] for h in finetuner.history_[1:]] == [0.0] * 24
    # each its own document, of which every one occurs twice: two batches without
    repeated = EmbeddingFinetuner(bert_model, **options).fit(
        queries, [f"shy{i // 2} big{i // 2}" for i in range(12)]
    )
    assert repeated.n_iter_ == 2
    assert all(h["loss"] > 0 for h in repeated.history_[1:])


def test_explicit_and_sampled_negatives_change_the_loss(bert_model, pairs):
    queries, documents = pairs
    options = {"epochs": 1, "evaluation_steps": 1, "random_state": 0}
    plain = EmbeddingFinetuner(bert_model, **options).fit(queries, documents)
    random_ = EmbeddingFinetuner(bert_model, negatives="random", **options)
    random_.fit(queries, documents)
    rows = [
        (q, d, n, m)
        for q, d, n, m in zip(
            queries,
            documents,
            documents[1:] + documents[:1],
            documents[2:] + documents[:2],
            strict=True,
        )
    ]
    explicit = EmbeddingFinetuner(bert_model, **options).fit(rows)
    first = [f.history_[1]["loss"] for f in (plain, random_, explicit)]
    assert first[0] < first[1] < first[2]  # more candidates, a higher loss


def test_loss_by_class_and_by_callable(bert_model, pairs):
    options = {"epochs": 1, "random_state": 0}
    by_name, by_class, by_callable = (
        EmbeddingFinetuner(bert_model, loss=loss, **options).fit(*pairs)
        for loss in (
            "cosine_similarity",
            losses.CosineSimilarityLoss,
            lambda model: losses.CosineSimilarityLoss(model),
        )
    )
    assert_equal_weights(by_name.model_, by_class.model_)
    assert_equal_weights(by_name.model_, by_callable.model_)
    with pytest.raises(ValueError, match="Unknown loss 'Linear'"):
        EmbeddingFinetuner(bert_model, loss=torch.nn.Linear, **options).fit(*pairs)
    with pytest.raises(ValueError, match="loss made a Identity"):
        identity = torch.nn.Identity()
        EmbeddingFinetuner(bert_model, loss=lambda model: identity).fit(*pairs)


def test_loss_params(bert_model, pairs):
    scores = [
        EmbeddingFinetuner(
            bert_model,
            loss_params={"scale": scale},
            epochs=1,
            evaluation_steps=1,
            random_state=0,
        )
        .fit(*pairs)
        .history_[1]["loss"]
        for scale in (1.0, 20.0)
    ]
    assert scores[0] != scores[1]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_diverged_training_is_an_error(bert_model, pairs):
    with pytest.raises(ValueError, match="diverged|NaN or infinity"):
        EmbeddingFinetuner(
            bert_model, learning_rate=1e30, epochs=3, evaluation_steps=1, random_state=0
        ).fit(*pairs).transform(pairs[0])


def test_vectors_are_those_of_plain_sentence_transformers(bert_model, pairs):
    """Deduplication and token-length batches change nothing; unit length on request."""
    queries, documents = pairs
    texts = queries + [" ".join(documents[:6])] + queries[:5]
    finetuner = EmbeddingFinetuner(bert_model, epochs=1, random_state=0)
    finetuner.fit(queries, documents)
    vectors = finetuner.transform(texts)
    np.testing.assert_allclose(vectors, finetuner.model_.encode(texts), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert isinstance(list(finetuner.model_)[-1], Normalize)
    raw = EmbeddingFinetuner(bert_model, epochs=1, random_state=0, normalize=False)
    raw.fit(queries, documents)
    assert not np.allclose(np.linalg.norm(raw.transform(texts), axis=1), 1)
    short = EmbeddingFinetuner(
        bert_model, epochs=1, random_state=0, truncate_dim=8, max_seq_length=4
    ).fit(queries, documents)
    assert short.transform(texts).shape == (46, 8) and short.embedding_dim_ == 8
    assert short.model_.max_seq_length == 4
    np.testing.assert_allclose(
        np.linalg.norm(short.transform(texts), axis=1), 1, atol=1e-6
    )


def test_callbacks_hear_of_epochs_and_may_stop(bert_model, pairs):
    class Watch:
        scores = []

        def setup(self, estimator, context):
            pass

        def teardown(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
            if context.task_name == "epoch":
                self.scores.append(fitted_estimator.score(X, y))
                return len(self.scores) == 2

    finetuner = EmbeddingFinetuner(
        bert_model, epochs=5, learning_rate=3e-3, random_state=0
    )
    finetuner.set_callbacks(Watch()).fit(*pairs)
    assert len(Watch.scores) == 2 and Watch.scores[1] > Watch.scores[0]
    assert finetuner.best_epoch_ == 2.0
    assert finetuner.score(*pairs) == pytest.approx(Watch.scores[1])


def test_divergence_in_the_last_step_is_an_error(bert_model, pairs):
    with pytest.raises(ValueError, match="diverged|NaN or infinity"):
        EmbeddingFinetuner(
            bert_model,
            epochs=1,
            learning_rate=1e37,
            warmup_ratio=0,
            batch_size=64,
            random_state=0,
        ).fit(*pairs).transform(pairs[0])


def test_fits_in_threads_equal_fits_in_turn(bert_model, pairs):
    """Random states and accelerate's are the process's: fits wait for one another."""

    def fit(_):
        return EmbeddingFinetuner(bert_model, epochs=1, random_state=0).fit(*pairs)

    with ThreadPoolExecutor(3) as pool:
        fitted = list(pool.map(fit, range(3)))
    alone = fit(None)
    for finetuner in fitted:
        assert_equal_weights(finetuner.model_, alone.model_)


def test_use_does_not_depend_on_parameters_changed_after_fit(bert_model, pairs):
    finetuner = EmbeddingFinetuner(
        bert_model, epochs=1, normalize=False, random_state=0
    ).fit(*pairs)
    before = finetuner.transform(pairs[0])
    finetuner.set_params(normalize=True, truncate_dim=8)
    np.testing.assert_array_equal(finetuner.transform(pairs[0]), before)
    again = pickle.loads(pickle.dumps(finetuner))
    np.testing.assert_allclose(again.transform(pairs[0]), before, atol=1e-6)


def test_a_subclass_of_a_loss_is_used_as_it_is(bert_model, pairs):
    class Halved(losses.CosineSimilarityLoss):
        def forward(self, features, labels):
            return super().forward(features, labels) / 2

    options = {"epochs": 1, "evaluation_steps": 1, "random_state": 0}
    whole, half = (
        EmbeddingFinetuner(bert_model, loss=loss, **options).fit(*pairs)
        for loss in (losses.CosineSimilarityLoss, Halved)
    )
    assert half.history_[1]["loss"] == pytest.approx(whole.history_[1]["loss"] / 2)
