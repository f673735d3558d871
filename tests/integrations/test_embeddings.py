"""Embedding objects for LlamaIndex and LangChain."""

import pickle
import sys
from contextlib import suppress

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
)
from skembft.integrations import _embeddings, to_langchain, to_llama_index, to_onnx
from tests.integrations.adapters import fit

# toy data: training need not help
pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")


def test_names_differ_with_the_vectors(bert_model, pairs):
    queries, documents = pairs
    settings = {"epochs": 1, "random_state": 0}
    rng = np.random.RandomState(0)
    indices = [
        PrecomputedEncoder((queries + documents, rng.normal(size=(80, 4))))
        for _ in range(2)
    ]
    finetuners = [
        EmbeddingFinetuner(bert_model, **settings),
        EmbeddingFinetuner(bert_model, truncate_dim=8, **settings),
        EmbeddingFinetuner(bert_model, document_prompt="old1 ", **settings),
        EmbeddingFinetuner(bert_model, max_seq_length=3, **settings),
        *(
            AdapterFinetuner(index, learning_rate=1e-300, **settings)
            for index in indices
        ),
        *indices,
    ]
    names = [
        _embeddings.TextEmbedder(f.fit(queries, documents)).name() for f in finetuners
    ]
    assert len(set(names)) == len(names)
    again = [
        _embeddings.TextEmbedder(pickle.loads(pickle.dumps(f))).name()
        for f in finetuners
    ]
    assert again == names


def test_optional_packages_are_named(vectors, tmp_path, monkeypatch):
    encoder = PrecomputedEncoder({"a": [1.0, 0.0]})
    cases = [
        ("llama_index.core.base.embeddings.base", to_llama_index, (encoder,)),
        ("langchain_core.embeddings", to_langchain, (encoder,)),
        ("onnx", to_onnx, (fit(vectors, epochs=1), tmp_path / "adapter.onnx")),
    ]
    _embeddings._llama_index_class.cache_clear()
    _embeddings._langchain_class.cache_clear()
    for module, function, arguments in cases:
        monkeypatch.setitem(sys.modules, module, None)
        extra = function.__name__.removeprefix("to_").replace("_", "-")
        with pytest.raises(ImportError, match=rf"pip install 'skembft\[{extra}\]'"):
            function(*arguments)


@pytest.mark.parametrize("function", [to_langchain, to_llama_index])
def test_what_is_no_embedding_object(vectors, function):
    with pytest.raises(NotFittedError):
        function(AdapterFinetuner("a-model"))
    with pytest.raises(NotFittedError):
        function(GridSearchCV(AdapterFinetuner("a-model"), {}))
    with pytest.raises(ValueError, match=r"takes vectors \(encoder=None\)"):
        function(fit(vectors))
    with pytest.raises(TypeError, match="StandardScaler has no transform_documents"):
        function(StandardScaler().fit(vectors[0]))


def test_ranked_by_inner_product_is_told(static_model, pairs):
    settings = {"gamma": 0.2, "validation_fraction": None}
    mover = CorpusFinetuner(static_model, method="nudge_m", **settings).fit(*pairs)
    for function in (to_langchain, to_llama_index):
        with pytest.warns(UserWarning, match="must be ranked by inner product"):
            with suppress(ImportError):  # the package need not be there
                function(mover)
