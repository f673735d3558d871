"""What is written of low-rank weights opens as the fitted model, on any base."""

import json
import pickle
import shutil

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import skembft
from skembft import AdapterFinetuner, EmbeddingFinetuner, SentenceEncoder

OPTIONS = {"epochs": 1, "learning_rate": 1e-2, "random_state": 0, "device": "cpu"}
LORA = {**OPTIONS, "trainable": "lora", "validation_fraction": None}
CHECKPOINTS = {"save_checkpoints": True, "checkpoint_save_steps": 1}


def opens_as_fitted(path, finetuner, pairs):
    model = SentenceTransformer(str(path), device="cpu")
    for role, texts in zip(("query", "document"), pairs, strict=True):
        encode = getattr(model, f"encode_{role}")
        vectors = finetuner.transform(texts)
        if role == "document":
            vectors = finetuner.transform_documents(texts)
        np.testing.assert_allclose(encode(texts), vectors, atol=1e-5)


def is_low_rank(path):
    return (path / "adapter_config.json").exists()


def ranks(finetuner):
    state = finetuner.model_.state_dict()
    return {len(weights) for name, weights in state.items() if "lora_A" in name}


def newest_checkpoint(path):
    found = path.glob("checkpoints/**/checkpoint-*")
    return max(found, key=lambda each: int(each.name.rpartition("-")[2]))


def test_a_directory_of_low_rank_weights_as_the_base(bert_model, pairs, tmp_path):
    first = EmbeddingFinetuner(bert_model, model_output_path=tmp_path / "a", **LORA)
    opens_as_fitted(tmp_path / "a", first.fit(*pairs), pairs)
    assert is_low_rank(tmp_path / "a")  # kilobytes
    second = EmbeddingFinetuner(
        tmp_path / "a", model_output_path=tmp_path / "b", **LORA, **CHECKPOINTS
    ).fit(*pairs)
    assert not is_low_rank(tmp_path / "b")
    opens_as_fitted(tmp_path / "b", second, pairs)
    opens_as_fitted(newest_checkpoint(tmp_path / "b"), second, pairs)


@pytest.mark.parametrize("how", ["trained", "merged", "unpickled", "loaded", "again"])
def test_warm_starts(bert_model, pairs, tmp_path, how):
    out = tmp_path / "out"
    trainable = {"trained": {"trainable": "all"}, "merged": {}}.get(how, {})
    if how == "merged":
        trainable = {"trainable_params": {"merge": True}}
    options = {**LORA, "warm_start": True, **trainable}
    finetuner = EmbeddingFinetuner(bert_model, **options).fit(*pairs)
    if how == "unpickled":
        finetuner = pickle.loads(pickle.dumps(finetuner))
    elif how == "loaded":
        finetuner.save_pretrained(tmp_path / "dumped")
        finetuner = skembft.load(tmp_path / "dumped")
    finetuner.set_params(trainable="lora", trainable_params=None, model_output_path=out)
    opens_as_fitted(out, finetuner.fit(*pairs), pairs)
    assert is_low_rank(out) == (how == "again")


def test_a_relative_directory_opens_from_anywhere(
    bert_model, pairs, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    SentenceTransformer(bert_model, device="cpu").save_pretrained("base")
    finetuner = EmbeddingFinetuner("base", model_output_path="out", **LORA).fit(*pairs)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert is_low_rank(tmp_path / "out")
    opens_as_fitted(tmp_path / "out", finetuner, pairs)


@pytest.mark.parametrize("params", [{}, {"init_lora_weights": "pissa"}])
def test_queries_alone(bert_model, pairs, tmp_path, params):
    finetuner = EmbeddingFinetuner(
        bert_model,
        side="query",
        model_output_path=tmp_path,
        trainable_params=params,
        **LORA,
        **CHECKPOINTS,
    ).fit(*pairs)
    opens_as_fitted(tmp_path, finetuner, pairs)
    checkpoint = SentenceTransformer(str(newest_checkpoint(tmp_path)), device="cpu")
    expected = finetuner.transform(pairs[0])
    np.testing.assert_allclose(checkpoint.encode(pairs[0]), expected, atol=1e-5)


def test_a_transformer_in_a_folder_of_its_own(bert_model, pairs, tmp_path):
    """As older versions of Sentence Transformers wrote it."""
    base = tmp_path / "base"
    SentenceTransformer(bert_model, device="cpu").save_pretrained(str(base))
    modules = json.loads((base / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (base / "modules.json").write_text(json.dumps(modules))
    (base / "0_Transformer").mkdir()
    kept = {"modules.json", "config_sentence_transformers.json", "README.md"}
    for path in [path for path in base.iterdir() if path.is_file()]:
        if path.name not in kept:
            path.rename(base / "0_Transformer" / path.name)
    out = tmp_path / "out"
    finetuner = EmbeddingFinetuner(base, model_output_path=out, **LORA).fit(*pairs)
    opens_as_fitted(out, finetuner, pairs)


@pytest.mark.parametrize(
    "initial", [True, "gaussian", "orthogonal", "pissa", "pissa_niter_2", "olora"]
)
def test_initial_values(bert_model, pairs, tmp_path, initial):
    params = {"init_lora_weights": initial, "r": 4}
    finetuner = EmbeddingFinetuner(
        bert_model, model_output_path=tmp_path, trainable_params=params, **LORA
    ).fit(*pairs)
    opens_as_fitted(tmp_path, finetuner, pairs)
    untouched = EmbeddingFinetuner(
        bert_model, trainable_params=params, **{**LORA, "learning_rate": 1e-12}
    ).fit(*pairs)
    expected = SentenceEncoder(bert_model, device="cpu").transform(pairs[0])
    np.testing.assert_allclose(untouched.transform(pairs[0]), expected, atol=1e-5)


def test_initial_values_of_another_model_are_refused(bert_model, pairs):
    params = {"init_lora_weights": False}
    with pytest.raises(ValueError, match="init_lora_weights=False begins with other"):
        EmbeddingFinetuner(bert_model, trainable_params=params, **LORA).fit(*pairs)


@pytest.mark.parametrize("params", [{"r": 8}, {"r": 2, "lora_alpha": 64}, None])
def test_a_warm_start_with_other_low_rank_weights(bert_model, pairs, params):
    options = {**LORA, "warm_start": True, "trainable_params": {"r": 2}}
    finetuner = EmbeddingFinetuner(bert_model, **options).fit(*pairs)
    before = finetuner.transform(pairs[0])
    finetuner.set_params(trainable_params=params, learning_rate=1e-12).fit(*pairs)
    np.testing.assert_allclose(finetuner.transform(pairs[0]), before, atol=1e-5)
    rank = (params or {"r": 16})["r"]
    assert ranks(finetuner) == {rank}
    finetuner.fit(*pairs)  # the same again goes on with them
    assert ranks(finetuner) == {rank}


def test_vectors_follow_the_base_of_low_rank_weights(bert_model, pairs, tmp_path):
    """Which lies elsewhere, and may be trained further."""
    base, out = tmp_path / "base", tmp_path / "out"
    EmbeddingFinetuner(bert_model, model_output_path=base, **OPTIONS).fit(*pairs)
    EmbeddingFinetuner(base, model_output_path=out, **LORA).fit(*pairs)
    cache = {"cache_dir": tmp_path / "cache", "device": "cpu"}
    before = SentenceEncoder(out, **cache).transform(pairs[0])
    over = AdapterFinetuner(
        SentenceEncoder(out, device="cpu"), validation_fraction=None
    )
    pickled = pickle.dumps(over.set_params(epochs=1).fit(*pairs))
    EmbeddingFinetuner(
        bert_model, model_output_path=base, **{**OPTIONS, "epochs": 3}
    ).fit(*pairs)
    expected = SentenceTransformer(str(out), device="cpu").encode_query(pairs[0])
    assert np.abs(expected - before).max() > 1e-3
    for encoder in (SentenceEncoder(out, device="cpu"), SentenceEncoder(out, **cache)):
        np.testing.assert_allclose(encoder.transform(pairs[0]), expected, atol=1e-5)
    with pytest.raises(ValueError, match="changed"):
        pickle.loads(pickled).transform(pairs[0])


@pytest.mark.parametrize("pinned", [False, True])
def test_a_name_on_the_hub(bert_model, pairs, tmp_path, monkeypatch, pinned):
    """The owner is filled in, and a revision is named by no file."""
    commit = "0123456789" * 4
    repository = tmp_path / "hub" / "models--sentence-transformers--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(bert_model, repository / "snapshots" / commit)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "hub"))
    params = {"revision": commit} if pinned else None
    out = tmp_path / "out"
    finetuner = EmbeddingFinetuner(
        "tiny", model_params=params, model_output_path=out, **LORA
    ).fit(*pairs)
    assert is_low_rank(out) != pinned
    opens_as_fitted(out, finetuner, pairs)
    # from a directory that has one of the same name
    (tmp_path / "elsewhere" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    opens_as_fitted(out, finetuner, pairs)
