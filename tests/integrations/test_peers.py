"""The real LlamaIndex and LangChain, in an environment of their own."""

import json
import re
import subprocess
import textwrap
from pathlib import Path

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    SentenceEncoder,
)
from skembft.datasets import load_qa_dataset, save_qa_dataset
from skembft.integrations import load_llama_index_adapter, save_llama_index_adapter
from tests.integrations.adapters import LAYERS, unit

ROOT = Path(__file__).parents[2]

# toy data: training need not help
pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")


@pytest.fixture
def run_peer(environment, tmp_path):
    """Runs Python code where the peers are installed; returns what it printed."""
    python = environment("peers")

    def run(script, *arguments):
        done = subprocess.run(
            [
                python,
                "-W",
                "ignore",
                "-c",
                textwrap.dedent(script),
                *map(str, arguments),
            ],
            env={
                "PYTHONPATH": str(ROOT),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "CUDA_VISIBLE_DEVICES": "",
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


THEIR_ADAPTER = """
    import json, sys
    import numpy as np
    from llama_index.embeddings.adapter import AdapterEmbeddingModel
    from llama_index.embeddings.adapter.utils import TwoLayerNN
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    model, request, output = sys.argv[1:]
    request = json.loads(request)
    base = HuggingFaceEmbedding(model, device="cpu")
    vectors = {}
    for folder in request["folders"]:
        cls = TwoLayerNN if folder.endswith("mlp") else None
        adapted = AdapterEmbeddingModel(base, folder, adapter_cls=cls, device="cpu")
        found = [adapted.get_query_embedding(text) for text in request["queries"]]
        vectors[folder] = np.array(found)
    np.savez(output, **vectors)
"""


@pytest.mark.slow
def test_llama_index_loads_our_folders(bert_model, pairs, tmp_path, run_peer):
    expected = {}
    for layer, settings in LAYERS.items():
        folder = str(tmp_path / layer)
        adapter = AdapterFinetuner(bert_model, epochs=3, random_state=0, **settings)
        save_llama_index_adapter(adapter.fit(*pairs), folder)
        expected[folder] = adapter.transform(pairs[0])
    request = {"folders": list(expected), "queries": pairs[0]}
    output = tmp_path / "vectors.npz"
    run_peer(THEIR_ADAPTER, bert_model, json.dumps(request), output)
    for folder, vectors in np.load(output).items():
        assert_allclose(unit(vectors), expected[folder], atol=1e-6)


THEIR_ENGINES = """
    import sys
    import numpy as np
    from llama_index.embeddings.adapter.utils import TwoLayerNN
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding
    from llama_index.finetuning import (
        EmbeddingAdapterFinetuneEngine,
        EmbeddingQAFinetuneDataset,
        SentenceTransformersFinetuneEngine,
    )

    model, = sys.argv[1:]
    data = EmbeddingQAFinetuneDataset.from_json("ours.json")
    data.save_json("theirs.json")
    base = HuggingFaceEmbedding(model, device="cpu")
    queries = list(data.queries.values())
    vectors = {}

    def embed(name, embed_model):
        found = [embed_model.get_query_embedding(text) for text in queries]
        vectors[name] = np.array(found)

    two_layers = TwoLayerNN(32, 12, 32, bias=True, add_residual=True)
    for name, settings in {
        "linear": {"model_checkpoint_path": "steps", "checkpoint_save_steps": 3},
        "bias": {"bias": True},
        "mlp": {"adapter_model": two_layers},
    }.items():
        engine = EmbeddingAdapterFinetuneEngine(
            data, base, epochs=3, model_output_path=name, device="cpu",
            optimizer_params={"lr": 0.01}, show_progress_bar=False, **settings
        )
        engine.finetune()
        more = {"adapter_cls": TwoLayerNN} if name == "mlp" else {}
        embed(name, engine.get_finetuned_model(device="cpu", **more))

    engine = SentenceTransformersFinetuneEngine(
        data, model, "full", val_dataset=data, show_progress_bar=False, device="cpu"
    )
    engine.finetune()
    embed("full", engine.get_finetuned_model())
    np.savez("vectors.npz", **vectors)
"""


@pytest.mark.slow
def test_we_load_what_llama_index_wrote(bert_model, pairs, tmp_path, run_peer):
    queries, documents = pairs
    relevant = [[document] for document in documents]
    save_qa_dataset(tmp_path / "ours.json", queries, relevant, [*documents, "größer"])
    run_peer(THEIR_ENGINES, bert_model)
    vectors = dict(np.load(tmp_path / "vectors.npz"))

    ours, theirs = (
        load_qa_dataset(tmp_path / f"{name}.json") for name in ("ours", "theirs")
    )
    for name in ("queries", "relevant", "corpus", "query_ids", "corpus_ids"):
        assert theirs[name] == ours[name]
    assert theirs.queries == queries and theirs.relevant == relevant

    base = SentenceEncoder(bert_model).transform(queries)
    for name in ("linear", "bias", "mlp"):
        assert np.abs(unit(vectors[name]) - base).max() > 1e-3  # it has learned
        loaded = load_llama_index_adapter(tmp_path / name, bert_model)
        assert_allclose(loaded.transform(queries), unit(vectors[name]), atol=1e-6)
    step = load_llama_index_adapter(tmp_path / "steps" / "step_3", bert_model)
    assert np.abs(step.transform(queries) - base).max() > 1e-3

    full = SentenceEncoder(str(tmp_path / "full"))
    assert_allclose(full.transform(queries), vectors["full"], atol=1e-6)
    assert np.abs(vectors["full"] - base).max() > 1e-5


INSIDE_NEIGHBOURS = """
    import asyncio, json, pickle
    import joblib
    import numpy as np
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode
    from skembft.integrations import to_langchain, to_llama_index

    request = json.load(open("request.json"))
    queries, documents = request["queries"], request["documents"]
    names = set()
    for name in request["finetuners"]:
        finetuner = joblib.load(name)
        calls = []
        original = finetuner.transform_documents
        embed_model = to_llama_index(finetuner)
        names.add(embed_model.model_name)
        assert embed_model.model_name == to_llama_index(joblib.load(name)).model_name
        finetuner.transform_documents = lambda D: calls.append(len(D)) or original(D)
        found = embed_model.get_text_embedding_batch(documents)
        assert calls == [len(documents)], calls
        del finetuner.transform_documents
        again = pickle.loads(pickle.dumps(embed_model))
        assert again.to_dict() == embed_model.to_dict()
        single = [embed_model.get_query_embedding(text) for text in queries]

        async def ask():
            texts = await embed_model.aget_text_embedding_batch(documents)
            text = await embed_model.aget_text_embedding(documents[0])
            parts = [embed_model.aget_query_embedding(text) for text in queries]
            return texts, text, await asyncio.gather(*parts)

        texts, text, awaited = asyncio.run(ask())
        for same in (texts, again.get_text_embedding_batch(documents)):
            np.testing.assert_array_equal(same, found)
        np.testing.assert_allclose(text, found[0], atol=1e-6)
        np.testing.assert_allclose(awaited, single, atol=1e-6)
        nodes = [TextNode(text=text, id_=str(i)) for i, text in enumerate(documents)]
        index = VectorStoreIndex(nodes, embed_model=embed_model)
        retriever = index.as_retriever(similarity_top_k=3)
        hits = [retriever.retrieve(query) for query in queries]
        ids = [[int(hit.node.node_id) for hit in row] for row in hits]
        chain = to_langchain(finetuner)
        np.savez(
            f"{name}.npz",
            queries=single,
            documents=found,
            ids=ids,
            chain_queries=[chain.embed_query(text) for text in queries],
            chain_documents=chain.embed_documents(documents),
        )
    assert len(names) == len(request["finetuners"])
"""


@pytest.mark.slow
def test_every_estimator_inside_llama_index_and_langchain(
    bert_model, pairs, tmp_path, run_peer
):
    queries, documents = pairs
    corpus = list(dict.fromkeys(documents))
    settings = {"epochs": 2, "random_state": 0}
    finetuners = {
        "encoder": SentenceEncoder(bert_model),
        "adapter": AdapterFinetuner(bert_model, side="separate", **settings),
        "corpus": CorpusFinetuner(bert_model, gamma=0.2, validation_fraction=None),
        "full": EmbeddingFinetuner(bert_model, learning_rate=1e-3, **settings),
    }
    for name, finetuner in finetuners.items():
        joblib.dump(finetuner.fit(queries, documents), tmp_path / name)
    request = {"queries": queries, "documents": corpus, "finetuners": list(finetuners)}
    (tmp_path / "request.json").write_text(json.dumps(request))
    run_peer(INSIDE_NEIGHBOURS)
    for name, finetuner in finetuners.items():
        found = np.load(tmp_path / f"{name}.npz")
        given = finetuner.transform(queries), finetuner.transform_documents(corpus)
        for prefix in ("", "chain_"):
            assert_allclose(found[f"{prefix}queries"], given[0], atol=1e-6)
            assert_allclose(found[f"{prefix}documents"], given[1], atol=1e-6)
        best = np.argsort(-(given[0] @ given[1].T), axis=1, kind="stable")[:, :3]
        assert_array_equal(found["ids"], best)


THEIR_ARGUMENTS = """
    import inspect, json
    from llama_index.finetuning import (
        EmbeddingAdapterFinetuneEngine,
        SentenceTransformersFinetuneEngine,
        generate_qa_embedding_pairs,
    )
    from llama_index.finetuning.embeddings.adapter_utils import train_model

    def arguments(function):
        return list(inspect.signature(function).parameters)

    fixed = "model", "data_loader", "device", "epochs", "output_path", "warmup_steps"
    more = fixed + ("verbose", "checkpoint_path", "checkpoint_save_steps")
    adapter = EmbeddingAdapterFinetuneEngine
    print(json.dumps({
        "SentenceTransformersFinetuneEngine": arguments(
            SentenceTransformersFinetuneEngine
        ),
        "EmbeddingAdapterFinetuneEngine": [
            *arguments(adapter),
            *(name for name in arguments(train_model) if name not in more),
            *(n for n in arguments(adapter.from_model_path) if n.startswith("model_")),
        ],
        "generate_qa_embedding_pairs": arguments(generate_qa_embedding_pairs),
    }))
"""


@pytest.mark.slow
def test_migration_guide_has_every_argument(run_peer):
    told = json.loads(run_peer(THEIR_ARGUMENTS))
    guide = (ROOT / "docs" / "migrating_from_llama_index.md").read_text("utf-8")
    for name, arguments in told.items():
        section = guide.split(f"\n## {name} ")[1].split("\n## ")[0]
        cells = re.findall(r"^\| (.+?) \| ", section, flags=re.M)
        shown = set(re.findall(r"\w+", " ".join(cells)))
        assert len(arguments) > 5 and set(arguments) <= shown, name


STANDARD_TESTS = """
    import joblib
    from langchain_tests.integration_tests import EmbeddingsIntegrationTests
    from langchain_tests.unit_tests import EmbeddingsUnitTests
    from skembft.integrations import to_langchain

    class Ours:
        @property
        def embeddings_class(self):
            return to_langchain

        @property
        def embedding_model_params(self):
            return {"finetuner": joblib.load("adapter.joblib")}

    class TestUnit(Ours, EmbeddingsUnitTests):
        pass

    class TestIntegration(Ours, EmbeddingsIntegrationTests):
        pass
"""


@pytest.mark.slow
def test_langchain_standard_tests(bert_model, pairs, tmp_path, run_peer):
    adapter = AdapterFinetuner(bert_model, epochs=2, random_state=0).fit(*pairs)
    joblib.dump(adapter, tmp_path / "adapter.joblib")
    (tmp_path / "test_standard.py").write_text(textwrap.dedent(STANDARD_TESTS))
    pytest_here = """
        import pytest, sys
        sys.exit(pytest.main(["-q", "-rA", "-o", "asyncio_mode=auto", "."]))
    """
    told = run_peer(pytest_here)
    assert "passed" in told and "failed" not in told
    for name in ("test_embed_query", "test_embed_documents", "test_aembed_documents"):
        assert f"PASSED test_standard.py::TestIntegration::{name}" in told
