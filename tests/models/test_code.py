"""Models with code that is not of Sentence Transformers: kept, or refused in time."""

import json
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

from skembft import AdapterFinetuner, EmbeddingFinetuner, SentenceEncoder

SCALER = """
import torch
from sentence_transformers.base.modules import Module
from {helper} import SCALE


class Scaler(Module):
    config_keys = ["dim"]

    def __init__(self, dim):
        super().__init__()
        self.dim = dim
        self.weight = torch.nn.Parameter(torch.linspace(0.5, SCALE, dim))

    def forward(self, features, **kwargs):
        features["sentence_embedding"] = features["sentence_embedding"] * self.weight
        return features

    def save(self, output_path, *args, safe_serialization=True, **kwargs):
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path, **kwargs):
        names = ("subfolder", "token", "cache_folder", "revision", "local_files_only")
        hub = {{k: v for k, v in kwargs.items() if k in names}}
        model = cls(**cls.load_config(model_name_or_path, **hub))
        return cls.load_torch_weights(model_name_or_path, model=model, **hub)
"""
TRANSFORMER = """
from sentence_transformers.base.modules import Transformer


class MyTransformer(Transformer):
    pass
"""
MODEL = """
from transformers import BertConfig, BertModel


class MyConfig(BertConfig):
    model_type = "mybert"


class MyModel(BertModel):
    config_class = MyConfig
"""


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def add_scaler(path, type_):
    def change(modules):
        modules.append({"idx": 2, "name": "2", "path": "2_Scaler", "type": type_})

    edit(path / "modules.json", change)
    (path / "2_Scaler").mkdir()
    (path / "2_Scaler" / "config.json").write_text('{"dim": 32}')
    weights = {"weight": torch.linspace(0.5, 2.0, 32)}
    save_file(weights, path / "2_Scaler" / "model.safetensors")


def a_module(path):
    (path / "my_scaler.py").write_text(SCALER.format(helper=".my_helper"))
    (path / "my_helper.py").write_text("SCALE = 1.5\n")
    add_scaler(path, "my_scaler.Scaler")


def the_first_module(path):
    (path / "my_transformer.py").write_text(TRANSFORMER)
    edit(
        path / "modules.json",
        lambda modules: modules[0].update(type="my_transformer.MyTransformer"),
    )


def the_transformer(path):
    (path / "modeling_my.py").write_text(MODEL)
    code = {"AutoConfig": "modeling_my.MyConfig", "AutoModel": "modeling_my.MyModel"}
    edit(
        path / "config.json",
        lambda config: config.update(model_type="mybert", auto_map=code),
    )


KINDS = [a_module, the_first_module, the_transformer]
OPTIONS = {"epochs": 1, "learning_rate": 1e-3, "random_state": 0, "device": "cpu"}


@pytest.fixture
def few(pairs):
    return [values[:12] for values in pairs]


@pytest.fixture
def base(bert_model, tmp_path):
    shutil.copytree(bert_model, tmp_path / "base")
    return tmp_path / "base"


def test_code_and_routes(base, tmp_path, few):
    """That of a transformer is found in each route, that of a module in none."""
    options = {**OPTIONS, "side": "query", "trust_remote_code": True}
    for kind in (a_module, the_first_module):
        path = shutil.copytree(base, tmp_path / kind.__name__)
        kind(path)
        with pytest.raises(ValueError, match="no code is read, such as that of"):
            EmbeddingFinetuner(path, **options).fit(*few)
    the_transformer(base)
    output = tmp_path / "output"
    finetuner = EmbeddingFinetuner(base, model_output_path=output, **options).fit(*few)
    shutil.rmtree(base)
    model = SentenceTransformer(str(output), device="cpu", trust_remote_code=True)
    assert np.allclose(model.encode_query(few[0]), finetuner.transform(few[0]))
    assert {path.parent.name for path in output.glob("*/modeling_my.py")} == {
        "query_0_Transformer",
        "document_0_Transformer",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_code_of_the_directory(base, tmp_path, few, run_fresh, kind):
    """It is written with the model, into a directory of its own, and never pickled."""
    kind(base)
    output = tmp_path / "output"
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceEncoder(base).transform(few[0])
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        EmbeddingFinetuner(base).fit(*few)
    options = {**OPTIONS, "trust_remote_code": True, "model_output_path": output}
    finetuner = EmbeddingFinetuner(base, **options).fit(*few)
    with pytest.raises(pickle.PicklingError, match="code of its own .* model_output_"):
        pickle.dumps(finetuner)
    with pytest.raises(ValueError, match="code|trust_remote_code"):
        finetuner.save_pretrained(tmp_path / "saved")
    again = EmbeddingFinetuner(str(output), **{**options, "model_output_path": None})
    assert again.fit(*few).n_iter_
    shutil.rmtree(base)
    if kind is not a_module:
        model = SentenceTransformer(str(output), device="cpu", trust_remote_code=True)
        vectors = model.encode_query(["red1 old2"])
        expected = finetuner.transform(["red1 old2"])
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
        return
    program = (
        "import sys, numpy as np; from sentence_transformers import SentenceTransformer"
        "\nmodel = SentenceTransformer(sys.argv[1], device='cpu', trust_remote_code="
        "True)\nnp.save(sys.argv[2], model.encode_query(['red1 old2']))"
    )
    run_fresh(program, output, tmp_path / "vectors.npy")
    np.testing.assert_allclose(
        np.load(tmp_path / "vectors.npy"), finetuner.transform(["red1 old2"]), atol=1e-6
    )


def test_a_module_of_an_installed_package(base, tmp_path, few, monkeypatch):
    """Pickled by its name, as classes are, and imported from there."""
    (tmp_path / "lib" / "scalers").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    package = tmp_path / "lib" / "scalers"
    (package / "__init__.py").write_text(SCALER.format(helper="scalers.helper"))
    (package / "helper.py").write_text("SCALE = 1.5\n")
    add_scaler(base, "scalers.Scaler")
    options = {**OPTIONS, "trust_remote_code": True}
    finetuner = EmbeddingFinetuner(base, **options).fit(*few)
    expected = finetuner.transform(few[0])
    pickled = pickle.dumps(finetuner)
    np.testing.assert_allclose(
        pickle.loads(pickled).transform(few[0]), expected, atol=1e-6
    )
    adapter = AdapterFinetuner(SentenceEncoder(base, trust_remote_code=True), epochs=1)
    adapter.fit(*few)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(adapter)).transform(few[0]), adapter.transform(few[0])
    )
    for name in [name for name in sys.modules if name.startswith("scalers")]:
        del sys.modules[name]
    shutil.rmtree(package)
    with pytest.raises(ModuleNotFoundError, match="scalers"):
        pickle.loads(pickled)


def test_no_code_comes_from_a_state(bert_model, few):
    """Whatever the state says of trust, and whichever classes its model names."""
    finetuner = EmbeddingFinetuner(bert_model, **OPTIONS).fit(*few)
    state = finetuner.__getstate__()
    import io
    import zipfile

    source = zipfile.ZipFile(io.BytesIO(state["model_"]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            if name == "modules.json":
                modules = json.loads(content)
                modules.append({**modules[-1], "type": "antigravity.X"})
                content = json.dumps(modules)
            archive.writestr(name, content)
    evil = {**state, "model_": buffer.getvalue(), "trust_remote_code": True}
    with pytest.raises(ValueError, match="antigravity"):
        EmbeddingFinetuner().__setstate__(evil)
    assert "antigravity" not in sys.modules


def test_search_and_resume(base, tmp_path, few):
    from sklearn.model_selection import cross_val_score

    a_module(base)
    options = {**OPTIONS, "trust_remote_code": True, "batch_size": 4}
    assert len(cross_val_score(EmbeddingFinetuner(base, **options), *few, cv=2)) == 2
    whole = EmbeddingFinetuner(base, **options).fit(*few)
    options.update(
        model_output_path=tmp_path / "output",
        save_checkpoints=True,
        checkpoint_save_steps=1,
    )
    EmbeddingFinetuner(base, **options).fit(*few)
    newest = sorted((tmp_path / "output").glob("checkpoints/*/*/checkpoint-*"))[-1]
    shutil.rmtree(newest)
    options.update(resume_from_checkpoint=True)
    resumed = EmbeddingFinetuner(base, **options).fit(*few)
    np.testing.assert_array_equal(resumed.transform(few[0]), whole.transform(few[0]))


def test_a_model_without_code_ignores_the_flag(bert_model, few, tmp_path):
    options = {**OPTIONS, "trust_remote_code": True}
    finetuner = EmbeddingFinetuner(bert_model, **options).fit(*few)
    again = pickle.loads(pickle.dumps(finetuner))
    np.testing.assert_array_equal(again.transform(few[0]), finetuner.transform(few[0]))
    assert isinstance(again.model_, SentenceTransformer)
