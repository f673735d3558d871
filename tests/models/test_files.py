"""Which files of a directory are a model's: the others are the user's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from skembft import AdapterFinetuner, SentenceEncoder

OF_THE_USER = [
    *("train.jsonl", "credentials.txt", "settings.json", "db_config.json", ".env"),
    *("notes.md", "vectors.safetensors", "model.py", "skembft.json", "results.csv"),
    *("model_card.json", "backup/model.safetensors", "1_Pooling/secret.txt"),
    *("trainer_state.json", "optimizer.pt", "training_args.bin"),
]


@pytest.fixture
def base(bert_model, tmp_path):
    shutil.copytree(bert_model, tmp_path / "base")
    return tmp_path / "base"


def add_files_of_the_user(base):
    for name in OF_THE_USER:
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("secret")
    (base.parent / "outside.txt").write_text("secret")
    (base / "link.txt").symlink_to(base.parent / "outside.txt")


def test_files_of_the_user_are_not_published(base, pairs, tmp_path):
    encoder = SentenceEncoder(base)
    before = encoder._fingerprint()
    add_files_of_the_user(base)
    assert encoder._fingerprint() == before
    adapter = AdapterFinetuner(encoder, epochs=1, random_state=0).fit(*pairs)
    for split in (False, True):
        path = tmp_path / f"saved-{split}"
        adapter.save_pretrained(path, split=split)
        for file in path.rglob("*"):
            assert file.is_dir() or b"secret" not in file.read_bytes(), file
    model = SentenceTransformer(str(tmp_path / "saved-False"), device="cpu")
    np.testing.assert_allclose(
        model.encode_query(pairs[0]), adapter.transform(pairs[0]), atol=1e-5
    )


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "modules.json", "config_sentence_transformers.json"),
        *("sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("model.safetensors", "1_Pooling/config.json"),
        # which a model may have
        *("vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
        *("added_tokens.json", "special_tokens_map.json", "chat_template.jinja"),
        *("pytorch_model-00001-of-00002.bin", "model-00001-of-00002.safetensors"),
        *("adapter_config.json", "adapter_model.safetensors", "model.fp16.safetensors"),
        *("additional_chat_templates/query.jinja", "tekken.tiktoken"),
    ],
)
def test_files_of_a_model_are_of_its_fingerprint(base, name):
    from skembft._models.files import ModelFiles

    path, files = base / name, ModelFiles(base)
    before = files.fingerprint()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(path.read_bytes() + b" " if path.exists() else b"new")
    assert files.fingerprint() != before


def test_files_below_routes_and_modules_of_ones_own(tmp_path):
    from skembft._models.files import ModelFiles

    route = "query_0_Dense/model.safetensors"
    for name in (f"0_Router/{route}", "1_Mine/anything.bin", "2_Other/other.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    ours = "sentence_transformers.models"
    modules = [
        {"path": "0_Router", "type": f"{ours}.Router"},
        {"path": "1_Mine", "type": "mine.Mine"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    routes = {"types": {"query_0_Dense": f"{ours}.Dense"}, "structure": {}}
    for name in ("router_config.json", "config.json"):  # of new versions, and of old
        (tmp_path / "0_Router" / "config.json").unlink(missing_ok=True)
        (tmp_path / "0_Router" / "router_config.json").unlink(missing_ok=True)
        (tmp_path / "0_Router" / name).write_text(json.dumps(routes))
        read = {
            path.relative_to(tmp_path).as_posix()
            for path in ModelFiles(tmp_path)._paths("torch", False)
        }
        assert read == {
            *("modules.json", f"0_Router/{name}", f"0_Router/{route}"),
            "1_Mine/anything.bin",
        }


@pytest.mark.parametrize("place", ["../other", "/etc"])
def test_a_module_elsewhere_is_refused(base, place):
    modules = json.loads((base / "modules.json").read_text())
    modules[1]["path"] = place
    (base / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(OSError, match=f"It has a module at '{place}'"):
        SentenceEncoder(base).transform(["red1"])


def test_half_a_sharded_model_has_no_weights(tmp_path):
    from skembft._models.files import ModelFiles

    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = {"weight_map": {"a": names[0], "b": names[1], "c": names[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in names:
        assert not ModelFiles(tmp_path).has_weights()
        Path(tmp_path, name).write_text("weights")
    assert ModelFiles(tmp_path).has_weights()
