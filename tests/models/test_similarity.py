"""What raw vectors are ranked by: what the model says, and the library does."""

import json
import shutil

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from sklearn.utils._param_validation import InvalidParameterError

import skembft
from skembft import AdapterFinetuner, EmbeddingFinetuner, SentenceEncoder
from skembft.metrics import RetrievalScorer
from skembft.mining import mine_hard_negatives

TINY = {"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0, "random_state": 0}
RAW = {"normalize": False, "device": "cpu"}


@pytest.fixture
def model_by(static_model, tmp_path):
    """Makes a model that compares by a function, of vectors of many lengths."""

    def make(name, unit=False):
        path = tmp_path / "base"
        if unit:
            model = SentenceTransformer(static_model, device="cpu")
            model.append(Normalize())
            model.save_pretrained(str(path), create_model_card=False)
        else:
            shutil.copytree(static_model, path)
        settings = path / "config_sentence_transformers.json"
        config = json.loads(settings.read_text())
        config["similarity_fn_name"] = name
        settings.write_text(json.dumps(config))
        return str(path)

    return make


def by_the_library(path, queries, documents):
    """Ranks of the documents, and whether the best is that of the query."""
    model = SentenceTransformer(path, device="cpu")
    vectors = model.encode_query(queries), model.encode_document(documents)
    scores = model.similarity(*vectors).numpy()
    order = np.argsort(-scores, axis=1, kind="stable")
    return order, np.mean(order[:, 0] == np.arange(len(queries)))


@pytest.mark.parametrize("name", ["cosine", "dot", None])
def test_raw_vectors_are_ranked_as_by_the_library(model_by, pairs, name, tmp_path):
    path = model_by(name)
    order, hit_rate = by_the_library(path, *pairs)
    encoder = SentenceEncoder(path, **RAW)
    scorer = RetrievalScorer("hit_rate@1")
    assert scorer(encoder, *pairs) == pytest.approx(hit_rate)
    finetuner = EmbeddingFinetuner(path, scoring="hit_rate@1", **RAW, **TINY)
    finetuner.fit(*pairs, X_val=pairs[0], y_val=pairs[1])
    assert finetuner.base_score_ == pytest.approx(hit_rate)
    assert finetuner.score(*pairs) == pytest.approx(hit_rate)
    indices, scores = finetuner.retrieve(*pairs, k=40)
    np.testing.assert_array_equal(indices, order)
    finetuner.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(
        by_the_library(str(tmp_path / "saved"), *pairs)[0], order
    )
    loaded = skembft.load(tmp_path / "saved")
    np.testing.assert_allclose(loaded.retrieve(*pairs, k=40)[1], scores, atol=1e-6)
    saved = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert saved.similarity_fn_name == (name or "cosine")


def test_the_dot_product_is_another_ranking(model_by, pairs):
    path = model_by("dot")
    scorer = RetrievalScorer("ndcg@10")
    raw, unit = (
        SentenceEncoder(path, normalize=n, device="cpu") for n in (False, True)
    )
    assert scorer(raw, *pairs) != scorer(unit, *pairs)


@pytest.mark.parametrize("name", ["dot", "euclidean", "manhattan"])
def test_unit_vectors_are_compared_by_the_cosine(model_by, pairs, name, tmp_path):
    path = model_by(name)
    finetuner = EmbeddingFinetuner(path, device="cpu", **TINY).fit(*pairs)
    assert finetuner.model_.similarity_fn_name == "cosine"
    for fitted in (
        finetuner,
        AdapterFinetuner(SentenceEncoder(path, **RAW), epochs=1, random_state=0),
    ):
        fitted.fit(*pairs).save_pretrained(tmp_path / type(fitted).__name__)
        saved = str(tmp_path / type(fitted).__name__)
        order, _ = by_the_library(saved, *pairs)
        np.testing.assert_array_equal(fitted.retrieve(*pairs, k=40)[0], order)


@pytest.mark.parametrize(
    ("name", "unit"),
    [("euclidean", False), ("manhattan", False), ("manhattan", True)],
)
def test_distances_are_refused_before_work(model_by, pairs, name, unit, encoded_rows):
    path = model_by(name, unit)
    encoder = SentenceEncoder(path, **RAW)
    message = f"normalize=False, .* {name} distance.*normalize=True"
    for use in (
        lambda: RetrievalScorer("ndcg@10")(encoder, *pairs),
        lambda: mine_hard_negatives(encoder, *pairs),
        lambda: EmbeddingFinetuner(path, **RAW).fit(*pairs),
    ):
        with pytest.raises(InvalidParameterError, match=message):
            use()
    assert not encoded_rows
    assert encoder.transform(pairs[0]).shape == (40, 16)


@pytest.mark.parametrize("name", ["dot", "euclidean"])
def test_a_model_of_unit_vectors_may_have_a_distance(model_by, pairs, name):
    path = model_by(name, unit=True)
    _, hit_rate = by_the_library(path, *pairs)
    scorer = RetrievalScorer("hit_rate@1")
    assert scorer(SentenceEncoder(path, **RAW), *pairs) == pytest.approx(hit_rate)
    finetuner = EmbeddingFinetuner(path, **RAW, **TINY).fit(*pairs)
    assert scorer(finetuner, *pairs) == pytest.approx(hit_rate)
    cut = SentenceEncoder(path, truncate_dim=8, **RAW)  # no more of unit length
    if name == "dot":
        scorer = RetrievalScorer("ndcg@10")
        unit = SentenceEncoder(path, truncate_dim=8, device="cpu")
        assert scorer(cut, *pairs) != scorer(unit, *pairs)
    else:
        with pytest.raises(InvalidParameterError, match="euclidean distance"):
            scorer(cut, *pairs)


def test_mining_by_dot_products_is_refused(model_by, pairs):
    encoder = SentenceEncoder(model_by("dot"), **RAW)
    message = "this SentenceEncoder ranks by dot product: mine with normalize=True"
    with pytest.raises(ValueError, match=message):
        mine_hard_negatives(encoder, *pairs)
