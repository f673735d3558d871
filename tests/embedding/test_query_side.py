"""side="query": the query encoder is trained, documents keep their vectors."""

import json
import pickle

import numpy as np
import pytest
from scipy.special import logsumexp
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Router,
)
from sklearn.model_selection import GridSearchCV
from sklearn.utils._param_validation import InvalidParameterError

import skembft
from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    SentenceEncoder,
)
from skembft._embedding import fixed_documents
from skembft._losses.table import LOSSES, VECTOR_LOSSES
from tests.losses.training import FORMS, N

OPTIONS = {"side": "query", "epochs": 1, "learning_rate": 1e-3, "random_state": 0}


def finetuner(model, **options):
    return EmbeddingFinetuner(model, **{**OPTIONS, **options})


def save_model(modules, path):
    model = SentenceTransformer(modules=modules, device="cpu")
    model.save_pretrained(str(path), create_model_card=False)
    return str(path)


def routes(bert_model):
    """A model that has routes itself, of which that of documents differs."""
    query, document = (SentenceTransformer(bert_model, device="cpu") for _ in range(2))
    for parameter in document.parameters():
        parameter.data *= 1.1
    return [Router.for_query_document(list(query), list(document))]


def dense(bert_model):
    return [*SentenceTransformer(bert_model, device="cpu"), Dense(32, 12), Normalize()]


# ---- documents are the untouched model's


def test_each_document_is_encoded_once(bert_model, pairs, encoded_rows):
    queries, documents = pairs
    encoder = SentenceEncoder(bert_model).clear()
    fitted = finetuner(
        bert_model,
        negatives="hard",
        evaluation_steps=1,
        validation_fraction=0.2,
        refit=True,
    ).fit(queries, documents, corpus=["red0 old1", *documents])
    fitted.fit(queries[:30], documents[:30], X_val=queries[30:], y_val=documents[30:])
    fitted.score(queries, documents)
    fitted.retrieve(queries, documents)
    pickle.loads(pickle.dumps(fitted)).transform_documents(documents)
    vectors = fitted.transform_documents(documents)
    assert np.array_equal(vectors, encoder.transform_documents(documents))
    counts = [encoded_rows[text] for text in [*documents, "red0 old1"]]
    assert counts == [1] * 41
    encoder.clear()  # what is gone is encoded by the route of documents
    assert np.allclose(fitted.transform_documents(documents), vectors, atol=1e-6)
    assert encoded_rows[documents[0]] == 2


def test_documents_stay_and_queries_move(bert_model, pairs):
    queries, documents = pairs
    fitted = finetuner(bert_model).fit(queries, documents)
    untouched = SentenceEncoder(bert_model)
    assert np.abs(fitted.transform(queries) - untouched.transform(queries)).max() > 1e-2
    as_documents = fitted.transform_documents(queries)
    assert np.array_equal(as_documents, untouched.transform_documents(queries))
    assert fitted.history_[0]["loss"] is None and fitted.history_[1]["loss"] > 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"trainable": 1},
        {"trainable": "lora"},
        {"trainable": "lora", "trainable_params": {"merge": True, "r": 4}},
        {"normalize": False, "query_prompt": "red0 ", "document_prompt": "old0 "},
        {"truncate_dim": 8, "max_seq_length": 4},
        {"model": routes},
        {"model": dense, "trainable": "lora"},
        {"model": "static"},
    ],
)
def test_a_directory_gives_both_vectors(
    bert_model, static_model, pairs, tmp_path, options
):
    options = dict(options)
    make = options.pop("model", None)
    model = static_model if make == "static" else bert_model
    if callable(make):
        model = save_model(make(bert_model), tmp_path / "base")
    fitted = finetuner(model, **options).fit(*pairs)
    texts = pairs[0]
    expected = fitted.transform(texts), fitted.transform_documents(texts)
    settings = {k: v for k, v in options.items() if not k.startswith("trainable")}
    untouched = SentenceEncoder(model, **settings)
    assert np.allclose(expected[1], untouched.transform_documents(texts), atol=1e-6)
    assert not np.allclose(expected[0], untouched.transform(texts), atol=1e-4)
    fitted.save_pretrained(tmp_path / "one")
    fitted.save_pretrained(tmp_path / "two", split=True)
    untouched.clear()
    loaded = skembft.load(tmp_path / "one")
    one, query, document = (
        SentenceTransformer(str(tmp_path / name), device="cpu")
        for name in ("one", "two/query", "two/document")
    )
    assert not any(isinstance(module, Router) for module in [*query, *document])
    for ways in (
        (loaded.transform, loaded.transform_documents),
        (one.encode_query, one.encode_document),
        (query.encode, document.encode),
    ):
        for ours, theirs in zip(expected, ways, strict=True):
            assert np.allclose(ours, theirs(texts), atol=1e-6)


def test_the_output_of_a_fit_has_both_routes(bert_model, pairs, tmp_path):
    fitted = finetuner(bert_model, model_output_path=tmp_path / "model").fit(*pairs)
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    queries, documents = (texts[:9] for texts in pairs)
    assert np.allclose(
        model.encode_query(queries), fitted.transform(queries), atol=1e-6
    )
    expected = fitted.transform_documents(documents)
    assert np.allclose(model.encode_document(documents), expected, atol=1e-6)
    assert "encode_document" in (tmp_path / "model" / "README.md").read_text()


# ---- losses


def first_loss(model, data, **options):
    """Of the first step, before anything has changed."""
    fitted = finetuner(model, evaluation_steps=1, **options).fit(*data)
    return fitted.history_[1]["loss"]


def test_the_whole_corpus_is_the_denominator(no_dropout, pairs):
    """Known positives are left out, and a query counts once."""
    queries, documents = pairs
    y = [[documents[i], documents[(i + 1) % 40]] for i in range(40)]
    encoder = SentenceEncoder(no_dropout)
    corpus = ["shy0 shy1", "wet3"]
    pool = [*documents, *corpus]
    cosines = encoder.transform(queries) @ encoder.transform_documents(pool).T
    logits = 20.0 * cosines.astype(np.float64)
    expected = []
    for i, row in enumerate(logits):
        others = np.delete(row, [i, (i + 1) % 40])
        for j in (i, (i + 1) % 40):
            expected.append(logsumexp([*others, row[j]]) - row[j])
    options = {"negatives": "corpus", "use_all_docs": True, "batch_size": 80}
    fitted = finetuner(no_dropout, evaluation_steps=1, **options)
    fitted.fit(queries, y, corpus=corpus)
    assert fitted.history_[1]["loss"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_batches_have_the_loss_of_both_sides(no_dropout, pairs):
    """Where no document repeats the library's InfoNCE is ours."""
    for options in ({}, {"loss_params": {"scale": 5.0}}):
        ours, theirs = (
            first_loss(no_dropout, pairs, side=side, **options)
            for side in ("query", "both")
        )
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("loss", sorted(set(VECTOR_LOSSES)))
def test_losses_of_vectors(no_dropout, pairs, loss):
    queries, documents = pairs
    y = [{documents[i]: 2, documents[i - 1]: 1, documents[i - 2]: 0} for i in range(40)]
    data = (queries, y) if loss in ("margin_mse", "distill_kl_div") else pairs
    ours = first_loss(no_dropout, data, loss=loss)
    theirs = first_loss(no_dropout, data, loss=loss, side="both")
    if loss in ("mse", "embed_distill"):  # of queries alone, not the mean of both texts
        theirs *= 2
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_data(no_dropout, pairs, form):
    queries, documents = pairs[0][:N], pairs[1][:N]
    X, y = FORMS[form](queries, documents, pairs[1][N : 2 * N])
    options = {"negatives": "corpus", "use_all_docs": True, "batch_size": 64}
    fitted = finetuner(no_dropout, evaluation_steps=1, epochs=9, **options).fit(X, y)
    losses = [entry["loss"] for entry in fitted.history_[1:]]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "loss", [*sorted(set(LOSSES) - set(VECTOR_LOSSES)), losses.SoftmaxLoss]
)
def test_losses_of_the_whole_model_are_refused(loss):
    with pytest.raises(InvalidParameterError, match="goes with side='both' only"):
        finetuner("/no/model", loss=loss).fit(["a", "b"], ["c", "d"])


def test_bad_parameters():
    class Mine(losses.MultipleNegativesRankingLoss):
        pass

    for options, message in (
        ({"side": "both", "negatives": "corpus"}, "goes with side='query'"),
        ({"side": "document"}, "'side' parameter .* must be a str among"),
        ({"loss": lambda model: None}, "takes a loss by name or class"),
        ({"loss": Mine}, "side='query' computes by itself"),
        ({"loss_params": {"similarity_fct": "x"}}, "'similarity_fct' is not among"),
        ({"loss": "triplet", "loss_params": {"margin": 1}}, "'margin' is not among"),
    ):
        with pytest.raises(InvalidParameterError, match=message):
            finetuner("/no/model", **options).fit(["a", "b"], ["c", "d"])


def test_negatives_add_candidates(no_dropout, pairs):
    small, random_, corpus = (
        first_loss(no_dropout, pairs, negatives=negatives)
        for negatives in ("batch", "random", "corpus")
    )
    hard = first_loss(no_dropout, pairs, negatives="hard")
    assert small < random_ < corpus
    assert small < hard < corpus
    assert first_loss(no_dropout, pairs, negatives="corpus", batch_size=1) > small


def test_no_known_positive_is_a_negative(no_dropout, pairs):
    """Every document answers every query: nothing is left to compare."""
    y = [pairs[1][:3]] * 40
    for negatives in ("batch", "random", "corpus"):
        options = {"use_all_docs": True, "negatives": negatives}
        assert first_loss(no_dropout, (pairs[0], y), **options) == pytest.approx(0)


def test_weights_count_in_the_loss(no_dropout, pairs):
    queries, documents = pairs
    twice = finetuner(no_dropout, negatives="corpus", batch_size=80)
    some = twice.fit(queries, documents, [1.0] * 20 + [0.0] * 20).transform(queries)
    alone = twice.fit(queries[:20], documents[:20], corpus=documents)
    assert np.allclose(alone.transform(queries), some, atol=1e-5)


def test_a_corpus_larger_than_a_batch_is_sampled(bert_model, pairs, monkeypatch):
    monkeypatch.setattr(fixed_documents, "MAX_CANDIDATES", 16)
    first = first_loss(bert_model, pairs, negatives="corpus", batch_size=4)
    again = first_loss(bert_model, pairs, negatives="corpus", batch_size=4)
    assert first == again > 0


# ---- fits


def test_a_fit_goes_on_where_it_was_killed(bert_model, pairs, tmp_path, monkeypatch):
    """With the random candidates that it would have drawn."""
    monkeypatch.setattr(fixed_documents, "MAX_CANDIDATES", 16)
    options = {"negatives": "corpus", "epochs": 2, "save_checkpoints": True}
    options |= {"checkpoint_save_steps": 3, "evaluation_steps": 2}
    path = tmp_path / "whole"
    whole = finetuner(bert_model, model_output_path=path, **options).fit(*pairs)
    for late in path.glob("checkpoints/*/fit/checkpoint-[68]"):
        (late / "progress.json").unlink()  # as if killed before
    resumed = finetuner(
        bert_model, model_output_path=path, resume_from_checkpoint=True, **options
    ).fit(*pairs)
    assert np.array_equal(resumed.transform(pairs[0]), whole.transform(pairs[0]))
    assert resumed.history_ == whole.history_


@pytest.mark.parametrize("trainable", ["all", "lora"])
def test_warm_start_moves_queries_only(bert_model, pairs, tmp_path, trainable):
    fitted = finetuner(bert_model, warm_start=True, trainable=trainable).fit(*pairs)
    fitted.save_pretrained(tmp_path / "saved")
    before = fitted.transform(pairs[0])
    for goes_on in (fitted, skembft.load(tmp_path / "saved")):
        goes_on.fit(*pairs)
        SentenceEncoder(bert_model).clear()
        documents = goes_on.transform_documents(pairs[1])
        untouched = SentenceEncoder(bert_model).transform_documents(pairs[1])
        assert np.allclose(documents, untouched, atol=1e-6)
        assert not np.allclose(goes_on.transform(pairs[0]), before, atol=1e-3)
        assert len(list(goes_on.model_[0].sub_modules)) == 2
    with pytest.raises(ValueError, match="side was 'query' in its fit"):
        fitted.set_params(side="both").fit(*pairs)
    both = finetuner(bert_model, warm_start=True, side="both").fit(*pairs)
    with pytest.raises(ValueError, match="side was 'both' in its fit"):
        both.set_params(side="query").fit(*pairs)


def test_warm_start_with_other_settings(bert_model, pairs):
    """The store is asked for what the settings make."""
    fitted = finetuner(bert_model, warm_start=True, max_seq_length=4).fit(*pairs)
    fitted.set_params(max_seq_length=None, document_prompt="red1 ", truncate_dim=8)
    documents = fitted.fit(*pairs).transform_documents(pairs[1])
    options = {"document_prompt": "red1 ", "truncate_dim": 8}
    encoder = SentenceEncoder(bert_model, max_seq_length=4, **options)
    assert np.allclose(documents, encoder.transform_documents(pairs[1]), atol=1e-6)


def test_searches_and_stacks(static_model, pairs, tmp_path, encoded_rows):
    SentenceEncoder(static_model).clear()
    grid = {"side": ["query", "both"], "learning_rate": [1e-3, 1e-1]}
    search = GridSearchCV(finetuner(static_model), grid, cv=2, refit=False)
    search.fit(*pairs)
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    fitted = finetuner(static_model, learning_rate=0.1)
    moved = CorpusFinetuner(fitted, gamma=1.0, validation_fraction=None).fit(*pairs)
    moved.save_pretrained(tmp_path / "moved")
    adapter = AdapterFinetuner(fitted, epochs=2, validation_fraction=None).fit(*pairs)
    adapter.save_pretrained(tmp_path / "adapter")
    adapter.save_pretrained(tmp_path / "two", split=True)
    for name, stack in (("moved", moved), ("adapter", adapter)):
        loaded = skembft.load(tmp_path / name)
        for method in ("transform", "transform_documents"):
            ours, theirs = (getattr(f, method)(pairs[0]) for f in (stack, loaded))
            assert np.allclose(ours, theirs, atol=1e-6)
    for role, method in (("query", "transform"), ("document", "transform_documents")):
        plain = SentenceTransformer(str(tmp_path / "two" / role), device="cpu")
        expected = getattr(adapter, method)(pairs[0])
        assert np.allclose(plain.encode(pairs[0]), expected, atol=1e-6)


def test_a_damaged_key_is_told(static_model, pairs, tmp_path):
    finetuner(static_model).fit(*pairs).save_pretrained(tmp_path / "saved")
    state = tmp_path / "saved" / "skembft.json"
    content = json.loads(state.read_text())
    for key in ({}, ["a"], [[]] * len(content["document_key"])):
        state.write_text(json.dumps({**content, "document_key": key}))
        with pytest.raises(ValueError, match="'document_key' in skembft.json is"):
            skembft.load(tmp_path / "saved")
