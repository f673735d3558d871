"""What is no bi-encoder, or no whole model, is refused by its name."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
from sentence_transformers import SentenceTransformer

from skembft import AdapterFinetuner, EmbeddingFinetuner, SentenceEncoder
from skembft._models import loading

SETTINGS = "config_sentence_transformers.json"


@pytest.fixture
def base(bert_model, tmp_path):
    shutil.copytree(bert_model, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def plain(bert_model, tmp_path):
    """A directory of transformers."""
    shutil.copytree(Path(bert_model).with_name("hf"), tmp_path / "plain")
    return tmp_path / "plain"


def change(path, **settings):
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**old, **settings}))


def refused(path, message, monkeypatch):
    """By every estimator, before weights are loaded."""

    def load(*args, **kwargs):
        pytest.fail("weights are loaded")

    with monkeypatch.context() as patch:
        patch.setattr(loading, "SentenceTransformer", load)
        for use in (
            lambda: SentenceEncoder(path).transform(["red1"]),
            lambda: EmbeddingFinetuner(path).fit(["red1", "old1"], ["red2", "old2"]),
            lambda: AdapterFinetuner(path).fit(["red1", "old1"], ["red2", "old2"]),
        ):
            with pytest.raises(OSError, match=f"{path.name}'.*{message}"):
                use()


@pytest.mark.parametrize(
    ("cls", "head"),
    [
        ("SparseEncoder", "BertForMaskedLM"),
        ("CrossEncoder", "BertForSequenceClassification"),
        ("MultiVectorEncoder", "BertModel"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_what_the_library_saves_of_other_kinds(plain, tmp_path, monkeypatch, cls, head):
    import transformers

    config = transformers.BertConfig.from_pretrained(plain, num_labels=1)
    getattr(transformers, head)(config).save_pretrained(plain)
    model = getattr(sentence_transformers, cls)(str(plain), device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    message = f"is a {cls} .* fine-tunes bi-encoders.*SentenceTransformer"
    refused(tmp_path / "saved", message, monkeypatch)
    (tmp_path / "saved" / "modules.json").unlink()
    refused(tmp_path / "saved", message, monkeypatch)


@pytest.mark.parametrize(
    ("type_", "message"),
    [
        ("pylate.models.Dense.Dense", "is a MultiVectorEncoder"),
        ("sentence_transformers.sparse_encoder.models.SpladePooling", "a SparseEncod"),
    ],
)
def test_modules_of_other_kinds(base, monkeypatch, type_, message):
    change(base / SETTINGS, model_type=None)
    modules = json.loads((base / "modules.json").read_text())
    modules[1]["type"] = type_
    (base / "modules.json").write_text(json.dumps(modules))
    refused(base, message, monkeypatch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architectures": ["XForSequenceClassification"]}, "is a reranker or classif"),
        ({"architectures": ["BertForTokenClassification"]}, "is a reranker or classif"),
        ({"architectures": ["HF_ColBERT"]}, "is a MultiVectorEncoder"),
        ({"architectures": ["ColPaliForRetrieval"]}, "is a MultiVectorEncoder"),
        ({"model_type": "model2vec"}, r"is a model2vec .*from_model2vec\(path\)"),
    ],
)
def test_directories_of_transformers_by_their_heads(
    plain, monkeypatch, settings, message
):
    change(plain / "config.json", **settings)
    refused(plain, message, monkeypatch)


@pytest.mark.parametrize("whole", [True, False])
def test_names_in_the_cache_of_the_hub(base, plain, tmp_path, monkeypatch, whole):
    """Of one without modules.json only a download tells that there is none."""
    change(base / SETTINGS, model_type="CrossEncoder")
    change(plain / "config.json", architectures=["BertForSequenceClassification"])
    repository = tmp_path / "hub" / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123456789" * 4)
    shutil.copytree(
        base if whole else plain, repository / "snapshots" / ("0123456789" * 4)
    )
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "hub"))
    message = "'owner/tiny' is a CrossEncoder" if whole else "is a reranker or classif"
    for use in (
        lambda: SentenceEncoder("owner/tiny").transform(["red1"]),
        lambda: EmbeddingFinetuner("owner/tiny").fit(["a", "b"], ["c", "d"]),
    ):
        with pytest.raises(OSError, match=message):
            use()


@pytest.mark.parametrize("head", ["BertModel", "BertForMaskedLM", None])
def test_directories_of_transformers_are_pooled_as_by_the_library(plain, head):
    change(plain / "config.json", architectures=[head] if head else None)
    theirs = SentenceTransformer(str(plain), device="cpu").encode(["red1 old1"])
    ours = SentenceEncoder(plain, device="cpu", normalize=False).transform(
        ["red1 old1"]
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_bi_encoder_over_the_transformer_of_a_reranker(base):
    change(base / "config.json", architectures=["BertForSequenceClassification"])
    assert SentenceEncoder(base).transform(["red1"]).shape == (1, 32)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_pointers_of_git_lfs(base, monkeypatch, name):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:53\nsize 9\n"
    (base / name).write_text(pointer)
    refused(base, f"{name} is a pointer of git-lfs.*git lfs pull", monkeypatch)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "tokenizer.json", "1_Pooling/config.json", "config.json"],
)
@pytest.mark.parametrize("share", [0, 2])
def test_half_a_file(base, monkeypatch, name, share):
    content = (base / name).read_bytes()
    (base / name).write_bytes(content[: len(content) // 2 * share // 2])
    refused(base, re.escape(name), monkeypatch)


def test_half_a_pickle_of_weights(base, monkeypatch):
    import torch

    (base / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(99)}, base / "pytorch_model.bin")
    content = (base / "pytorch_model.bin").read_bytes()
    (base / "pytorch_model.bin").write_bytes(content[:-50])
    refused(base, "pytorch_model.bin is damaged", monkeypatch)


def test_missing_shards(base, monkeypatch):
    (base / "model.safetensors").unlink()
    index = {"weight_map": {"weight": "model-1.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    message = "index.json names model-1.safetensors, which is missing"
    refused(base, message, monkeypatch)


@pytest.mark.parametrize("name", ["1_Pooling/config.json", "modules.json"])
def test_missing_settings(base, monkeypatch, name):
    (base / name).unlink()
    refused(base, name, monkeypatch)


def test_a_directory_of_other_things(tmp_path, monkeypatch):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("# notes")
    refused(tmp_path / "notes", "neither modules.json nor config.json", monkeypatch)


@pytest.mark.parametrize("prompts", [None, ["query: "], {"query": 1}])
def test_prompts_that_are_none(base, monkeypatch, prompts):
    change(base / SETTINGS, prompts=prompts)
    refused(base, f"{SETTINGS} has prompts that are not", monkeypatch)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "model-q4.gguf", "tf_model.h5"])
def test_weights_that_torch_does_not_read(base, name):
    (base / "model.safetensors").unlink()
    (base / name).parent.mkdir(exist_ok=True)
    (base / name).write_bytes(b"GGUF")
    message = f"model.safetensors.*there is .'{Path(name).name}'.*backend='onnx'"
    for cls in (SentenceEncoder, EmbeddingFinetuner):
        with pytest.raises(OSError, match=message):
            cls(base).fit(["red1", "old1"], ["red2", "old2"]).transform(["red1"])


def test_a_tokenizer_without_a_vocabulary(base):
    (base / "tokenizer.json").unlink()  # transformers makes one of special tokens
    change(base / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    with pytest.raises(OSError, match="no vocabulary, such as tokenizer.json"):
        SentenceEncoder(base).transform(["red1"])
