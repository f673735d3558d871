"""The prompts that models are saved with, in the ways of known models."""

import json
import shutil

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from skembft import EmbeddingFinetuner, SentenceEncoder

TEXTS = ["wet2 big3", "shy5"]
# {kind: (prompts, default_prompt_name)}
AS_THE_LIBRARY = {
    "none": ({}, None),
    "query and document": ({"query": "red1 ", "document": "old1 "}, None),
    "query": ({"query": "red1 "}, None),
    "document": ({"document": "old1 "}, None),
    "empty document": ({"query": "red1 ", "document": ""}, None),
    "null document": ({"query": "red1 ", "document": None}, None),
    "other tasks": ({"query": "red1 ", "document": "old1 ", "sts": "wet1 "}, None),
    "dotted": ({"retrieval.query": "red1 ", "retrieval.passage": "old1 "}, None),
    "other names": ({"s2p_query": "red1 ", "s2s_query": "old1 "}, None),
    "default of another task": ({"retrieval": "red1 "}, "retrieval"),
    "default query": ({"query": "red1 "}, "query"),
    "default document": ({"query": "red1 ", "document": "old1 "}, "document"),
    "document before passage": ({"document": "old1 ", "passage": "wet1 "}, None),
}
# those the library's encode_document never comes to: it fills in an empty "document"
DOCUMENTS = {
    "passage": {"query": "red1 ", "passage": "old1 "},
    "corpus": {"query": "red1 ", "corpus": "old1 "},
    # as the library saves the first again
    "saved again": {"query": "red1 ", "document": "", "passage": "old1 "},
    "passage before corpus": {"corpus": "wet1 ", "passage": "old1 "},
}


@pytest.fixture
def model_with(bert_model, tmp_path):
    def make(prompts, default=None):
        path = tmp_path / "base"
        shutil.copytree(bert_model, path)
        name = path / "config_sentence_transformers.json"
        config = json.loads(name.read_text())
        config.update(prompts=prompts, default_prompt_name=default)
        name.write_text(json.dumps(config))
        return str(path), SentenceTransformer(str(path), device="cpu")

    return make


def same(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("kind", AS_THE_LIBRARY)
def test_prompts_are_those_of_the_library(model_with, kind):
    path, model = model_with(*AS_THE_LIBRARY[kind])
    encoder = SentenceEncoder(path, normalize=False, device="cpu")
    same(encoder.transform(TEXTS), model.encode_query(TEXTS))
    same(encoder.transform_documents(TEXTS), model.encode_document(TEXTS))
    bare = SentenceEncoder(
        path, query_prompt="", document_prompt="", normalize=False, device="cpu"
    )
    same(bare.transform(TEXTS), model.encode(TEXTS, prompt=""))
    same(bare.transform_documents(TEXTS), model.encode(TEXTS, prompt=""))


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_documents_get_the_prompt_that_models_name_for_them(model_with, kind):
    path, model = model_with(DOCUMENTS[kind])
    encoder = SentenceEncoder(path, normalize=False, device="cpu")
    same(encoder.transform(TEXTS), model.encode_query(TEXTS))
    same(encoder.transform_documents(TEXTS), model.encode(TEXTS, prompt="old1 "))


def test_the_library_gives_a_tuned_model_the_prompts_of_its_training(
    model_with, pairs, tmp_path
):
    path, _ = model_with(DOCUMENTS["passage"])
    few = [values[:10] for values in pairs]
    finetuner = EmbeddingFinetuner(path, epochs=1, random_state=0, device="cpu")
    finetuner.fit(*few).save_pretrained(tmp_path / "saved")
    model = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert model.prompts["document"] == "old1 "
    for saved in (model, finetuner.model_):
        same(saved.encode_query(TEXTS), finetuner.transform(TEXTS))
        same(saved.encode_document(TEXTS), finetuner.transform_documents(TEXTS))
