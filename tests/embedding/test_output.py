"""What `model_output_path` replaces, what it leaves, and what it refuses."""

import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import skembft
from skembft import EmbeddingFinetuner
from skembft._embedding import output as output_files
from tests.finetuner.bad_input import MISSING

OPTIONS = {"epochs": 1, "learning_rate": 1e-3, "random_state": 0, "device": "cpu"}
FITS = {
    "full": {},
    "top": {"trainable": 1},
    "lora": {"trainable": "lora"},
    "merged": {"trainable": "lora", "trainable_params": {"merge": True}},
    "prompts": {"query_prompt": "red1 ", "document_prompt": "old1 "},
    "as it is": {"normalize": False},
}


def loads_as(finetuner, path, pairs):
    model = SentenceTransformer(str(path), device="cpu")
    vectors = model.encode_query(pairs[0]), model.encode_document(pairs[1])
    ours = finetuner.transform(pairs[0]), finetuner.transform_documents(pairs[1])
    return all(np.abs(a - b).max() < 1e-5 for a, b in zip(vectors, ours, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        *("adapter_results.csv", "adapter_utils.py", "model_v1.safetensors.md5"),
        *("pytorch_model_notes.txt", "skembft.ipynb", "README.md", "config.json"),
        *("1_Pooling/mine.txt", "onnx/model.onnx", "skembft_model.json"),
    ],
)
def test_files_of_the_user_are_refused(pairs, tmp_path, name):
    """Before the model, which does not exist, is looked for; nothing is changed."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(ValueError, match=f"holds '{name}', which no fit wrote there"):
        EmbeddingFinetuner(MISSING, model_output_path=tmp_path).fit(*pairs)
    assert (tmp_path / name).read_text() == "precious"


def test_what_is_not_of_a_model_stays(bert_model, pairs, tmp_path):
    path = tmp_path / "output"
    for name in ("runs/1/log.txt", "adapter_results/a.csv", ".gitignore"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("precious")
    (path / "runs" / "link").symlink_to("1/log.txt")
    finetuner = EmbeddingFinetuner(
        bert_model, model_output_path=path, save_checkpoints=True, **OPTIONS
    )
    for learning_rate in (1e-3, 1e-4):  # with checkpoints of both
        finetuner.set_params(learning_rate=learning_rate).fit(*pairs)
    assert loads_as(finetuner, path, pairs)
    for name in ("runs/1/log.txt", "adapter_results/a.csv", ".gitignore", "runs/link"):
        assert (path / name).read_text() == "precious"
    assert (path / "runs" / "link").is_symlink()
    assert len(list((path / "checkpoints").iterdir())) == 2
    assert os.listdir(tmp_path) == ["output"]


@pytest.fixture(scope="module")
def written(bert_model, pairs, tmp_path_factory):
    """Of every kind of fit the directory that it makes."""
    few = [values[:10] for values in pairs]
    folders = {kind: tmp_path_factory.mktemp("written") / "output" for kind in FITS}
    for kind, path in folders.items():
        options = {**OPTIONS, "model_output_path": path, **FITS[kind]}
        EmbeddingFinetuner(bert_model, **options).fit(*few)
    return folders


def names_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("first, second", list(itertools.product(FITS, FITS)))
def test_another_fit_leaves_what_loads(
    bert_model, pairs, tmp_path, written, first, second
):
    path, few = tmp_path / "output", [values[:10] for values in pairs]
    shutil.copytree(written[first], path)
    options = {**OPTIONS, "model_output_path": path, **FITS[second]}
    finetuner = EmbeddingFinetuner(bert_model, **options).fit(*few)
    assert loads_as(finetuner, path, few)
    assert names_in(path) == names_in(written[second])


def test_over_what_save_pretrained_wrote(bert_model, pairs, tmp_path):
    finetuner = EmbeddingFinetuner(bert_model, **OPTIONS).fit(*pairs)
    finetuner.save_pretrained(tmp_path / "saved")
    finetuner.set_params(model_output_path=tmp_path / "saved", epochs=2).fit(*pairs)
    assert loads_as(finetuner, tmp_path / "saved", pairs)
    with pytest.raises(FileNotFoundError, match="has no skembft.json"):
        skembft.load(tmp_path / "saved")


def test_a_failure_leaves_the_old_model(bert_model, pairs, tmp_path, monkeypatch):
    """At every file of the new one."""
    path = tmp_path / "output"
    options = {**OPTIONS, "model_output_path": path, "save_checkpoints": True}
    first = EmbeddingFinetuner(bert_model, **options).fit(*pairs)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}

    def failing(*args, **kwargs):
        raise OSError(28, "No space left on device")

    for owner, name in (
        (SentenceTransformer, "save_pretrained"),
        (output_files, "dump_json"),
        (output_files, "_keep"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing)
            with pytest.raises(OSError, match="No space left"):
                EmbeddingFinetuner(bert_model, **{**options, "epochs": 2}).fit(*pairs)
        assert {name: name.read_bytes() for name in before} == before
        assert loads_as(first, path, pairs)
        assert os.listdir(tmp_path) == ["output"]


def test_places_that_cannot_be_replaced(pairs, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in (".", tmp_path):
        with pytest.raises(ValueError, match="the current directory; it is replaced"):
            EmbeddingFinetuner(MISSING, model_output_path=path).fit(*pairs)
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "volume")
    with pytest.raises(ValueError, match="is a mount point.* pass a directory below"):
        EmbeddingFinetuner(MISSING, model_output_path=tmp_path / "volume").fit(*pairs)
