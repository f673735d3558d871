"""Directories: loaded by Sentence Transformers elsewhere, and by `skembft.load`."""

import json
import pickle
import shutil
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Normalize, Router
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

import skembft
from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.integrations import load_llama_index_adapter, save_llama_index_adapter

pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")


def adapter(encoder, **options):
    return AdapterFinetuner(
        encoder,
        **{
            "epochs": 5,
            "learning_rate": 0.05,
            "validation_fraction": None,
            "random_state": 0,
            **options,
        },
    )


ADAPTERS = {
    "linear": {},
    "bias": {"adapter_params": {"bias": True}},
    "both": {"side": "both", "adapter_params": {"output_dim": 9}},
    "separate": {"side": "separate"},
    "low_rank": {"adapter": "low_rank", "adapter_params": {"rank": 3}},
    "relu": {"adapter": "mlp"},
    "gelu": {"adapter": "mlp", "adapter_params": {"activation": "gelu"}},
    "silu": {"adapter": "mlp", "adapter_params": {"activation": "silu"}},
}
ENCODERS = {
    "plain": {},
    "settings": {"query_prompt": "red1 ", "document_prompt": "old1 "},
    "truncated": {"truncate_dim": 10, "max_seq_length": 5},
    "raw": {"normalize": False},
    "raw_truncated": {"normalize": False, "truncate_dim": 10},
}
FRESH = """
import sys, numpy as np
from sentence_transformers import SentenceTransformer
assert "skembft" not in sys.modules
texts = sys.argv[2].split("|")
out = {}
for path in sys.argv[3:]:
    model = SentenceTransformer(path, device="cpu")
    out[path] = np.stack([model.encode_query(texts), model.encode_document(texts)])
np.savez(sys.argv[1], **out)
"""


@pytest.fixture(scope="module")
def router_model(static_model, tmp_path_factory):
    """A model that has a Router itself: other weights for documents."""
    query, document = (SentenceTransformer(static_model)[0] for _ in range(2))
    document.embedding.weight.data += 0.5
    router = Router.for_query_document([query], [document])
    path = str(tmp_path_factory.mktemp("router"))
    SentenceTransformer(modules=[router, Normalize()], device="cpu").save_pretrained(
        path, create_model_card=False
    )
    return path


@pytest.fixture(scope="module")
def finetuners(static_model, bert_model, router_model, pairs):
    """One fitted finetuner of every kind that a directory can hold."""
    queries, documents = pairs
    found = {
        name: adapter(static_model, **options).fit(queries, documents)
        for name, options in ADAPTERS.items()
    }
    for name, options in ENCODERS.items():
        encoder = SentenceEncoder(bert_model, **options)
        found[f"over {name}"] = adapter(encoder).fit(queries, documents)
    found["over a router"] = adapter(router_model).fit(queries, documents)
    whole = {"epochs": 1, "batch_size": 20, "learning_rate": 1e-3, "random_state": 0}
    found["whole"] = EmbeddingFinetuner(bert_model, **whole).fit(queries, documents)
    found["whole, truncated"] = EmbeddingFinetuner(
        bert_model, truncate_dim=10, query_prompt="red1 ", **whole
    ).fit(queries, documents)
    found["lora"] = EmbeddingFinetuner(bert_model, trainable="lora", **whole).fit(
        queries, documents
    )
    found["whole router"] = EmbeddingFinetuner(router_model, **whole).fit(
        queries, documents
    )
    for trainable in ("all", "lora"):
        found[f"query side, {trainable}"] = EmbeddingFinetuner(
            bert_model, side="query", trainable=trainable, **whole
        ).fit(queries, documents)
    found["over a query side"] = adapter(found["query side, all"]).fit(
        queries, documents
    )
    found["over a whole model"] = adapter(FrozenEstimator(found["whole"])).fit(
        queries, documents
    )
    return found


@pytest.mark.parametrize(
    "version",  # of Sentence Transformers
    ["ours", *(pytest.param(v, marks=pytest.mark.slow) for v in ("oldest", "newest"))],
)
def test_a_fresh_process_gives_the_same_vectors(
    finetuners, pairs, tmp_path, environment, run_fresh, version
):
    texts = pairs[0][:5]
    paths = {}
    for name, finetuner in finetuners.items():
        paths[name] = str(tmp_path / name)
        finetuner.save_pretrained(paths[name])
    arguments = [str(tmp_path / "out.npz"), "|".join(texts), *paths.values()]
    if version == "ours":
        run_fresh(FRESH, *arguments)
    else:
        subprocess.run([environment(version), "-c", FRESH, *arguments], check=True)
    out = np.load(tmp_path / "out.npz")
    for name, finetuner in finetuners.items():
        queries, documents = out[paths[name]]
        expected = finetuner.transform(texts), finetuner.transform_documents(texts)
        np.testing.assert_allclose(queries, expected[0], atol=1e-6, err_msg=name)
        np.testing.assert_allclose(documents, expected[1], atol=1e-6, err_msg=name)
        if name not in ("both", "lora") and not name.startswith("whole"):
            assert np.abs(expected[0] - expected[1]).max() > 1e-3, name


def test_load_gives_the_finetuner_back(finetuners, pairs, tmp_path):
    texts = pairs[0][:5]
    for name, finetuner in finetuners.items():
        finetuner.save_pretrained(tmp_path / "saved")
        loaded = skembft.load(tmp_path / "saved")
        assert type(loaded) is type(finetuner)
        assert str(loaded) == str(finetuner)
        assert loaded.history_ == finetuner.history_
        assert loaded.history_.best_step == finetuner.history_.best_step
        assert loaded.embedding_dim_ == finetuner.embedding_dim_
        for method in ("transform", "transform_documents"):
            np.testing.assert_allclose(
                getattr(loaded, method)(texts),
                getattr(finetuner, method)(texts),
                atol=1e-6,
                err_msg=name,
            )
        assert loaded.score(*pairs) == pytest.approx(finetuner.score(*pairs), abs=1e-6)
        loaded.save_pretrained(tmp_path / "again")
        again = skembft.load(tmp_path / "again")
        np.testing.assert_allclose(
            again.transform(texts), finetuner.transform(texts), atol=1e-6
        )


def test_moved_documents(static_model, pairs, tmp_path):
    finetuner = CorpusFinetuner(static_model, gamma=0.3, validation_fraction=None)
    finetuner.fit(*pairs)
    finetuner.save_pretrained(tmp_path / "moved")
    loaded = skembft.load(tmp_path / "moved")
    assert loaded.moved_documents_ == finetuner.moved_documents_
    np.testing.assert_array_equal(
        loaded.transform_documents(pairs[1]), finetuner.transform_documents(pairs[1])
    )
    assert loaded.gamma_ == finetuner.gamma_
    assert not (tmp_path / "moved" / "modules.json").exists()


@pytest.mark.parametrize("frozen", [False, True])
def test_moved_documents_over_a_finetuner(finetuners, pairs, tmp_path, frozen):
    for name in ("separate", "whole, truncated"):
        encoder = FrozenEstimator(finetuners[name]) if frozen else finetuners[name]
        finetuner = CorpusFinetuner(encoder, gamma=0.3, validation_fraction=None)
        finetuner.fit(*pairs).save_pretrained(tmp_path / name)
        loaded = skembft.load(tmp_path / name)
        for method, texts in zip(
            ("transform", "transform_documents"), pairs, strict=True
        ):
            np.testing.assert_allclose(
                getattr(loaded, method)(texts),
                getattr(finetuner, method)(texts),
                atol=1e-6,
            )
        assert str(loaded) == str(finetuner)
    with pytest.raises(ValueError, match="a CorpusFinetuner makes no model"):
        finetuner.save_pretrained(tmp_path / "two", split=True)
    of_class = adapter(finetuners["linear"].encoder, adapter=Identity)
    stack = CorpusFinetuner(of_class, gamma=0.3, validation_fraction=None).fit(*pairs)
    with pytest.raises(ValueError, match="adapter=Identity is a class of your own"):
        stack.save_pretrained(tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_dump_is_whole_or_not_at_all(static_model, pairs, tmp_path, monkeypatch):
    finetuner = adapter(static_model).fit(*pairs)
    path = tmp_path / "adapter.joblib"
    skembft.dump(finetuner, path)
    np.testing.assert_array_equal(
        joblib.load(path).transform(pairs[0]), finetuner.transform(pairs[0])
    )
    before = path.read_bytes()
    with pytest.raises(Exception, match="pickle"):
        skembft.dump([finetuner, lambda: None], path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["adapter.joblib"]


def test_two_plain_models(static_model, pairs, tmp_path):
    finetuner = adapter(static_model).fit(*pairs)
    finetuner.save_pretrained(tmp_path / "two", split=True)
    texts = pairs[0][:5]
    for role, expected in (
        ("query", finetuner.transform(texts)),
        ("document", finetuner.transform_documents(texts)),
    ):
        model = SentenceTransformer(str(tmp_path / "two" / role), device="cpu")
        assert not any("Router" in type(module).__name__ for module in model)
        np.testing.assert_allclose(model.encode(texts), expected, atol=1e-6)


def test_names_of_modules_are_those_that_older_versions_know(
    bert_model, pairs, tmp_path
):
    adapter(bert_model).fit(*pairs).save_pretrained(tmp_path / "model")
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())
    assert {m["type"].rpartition(".")[0] for m in modules} == {
        "sentence_transformers.models"
    }
    tokenizer = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    router = json.loads(
        next((tmp_path / "model").glob("*/router_config.json")).read_text()
    )
    assert set(router["types"].values()) == {
        f"sentence_transformers.models.{name}" for name in ("Dense", "Normalize")
    }


def test_the_card_holds_scores_and_no_text(static_model, pairs, tmp_path):
    finetuner = adapter(static_model, validation_fraction=0.2).fit(*pairs)
    finetuner.save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"| before | {finetuner.base_score_:.4f} |" in card
    assert f"| after | {finetuner.validation_score_:.4f} |" in card
    for file in (tmp_path / "model").glob("*.*"):
        if file.suffix in (".md", ".json") and "tokenizer" not in file.name:
            assert not any(text in file.read_text() for text in pairs[0] + pairs[1])


class Identity(torch.nn.Linear):
    def __init__(self, dim):
        super().__init__(dim, dim)


def test_what_modules_cannot_express(static_model, pairs, tmp_path):
    custom = adapter(static_model, adapter=Identity).fit(*pairs)
    index = PrecomputedEncoder({"q": [1.0, 0.5], "d": [1.0, 0.1], "e": [0.0, 1.0]})
    by_id = adapter(index, epochs=1).fit(["q"], ["d"], corpus=["e"])
    vectors = np.random.RandomState(0).normal(size=(20, 4))
    of_vectors = adapter(None, epochs=1).fit(vectors, vectors[::-1])
    for finetuner in (custom, by_id, of_vectors):
        with pytest.raises(
            ValueError, match="adapter='linear', 'low_rank' or 'mlp' over"
        ):
            finetuner.save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotFittedError):
        adapter(static_model).save_pretrained(tmp_path / "model")


def test_what_is_there_is_not_lost(static_model, pairs, tmp_path, monkeypatch):
    finetuner = adapter(static_model).fit(*pairs)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "thesis.txt").write_text("years of work")
    with pytest.raises(OSError, match="is not empty, and save_pretrained did not"):
        finetuner.save_pretrained(notes)
    with pytest.raises(OSError, match="is a file"):
        finetuner.save_pretrained(notes / "thesis.txt")
    with pytest.raises(OSError, match="is or holds the base model, which"):
        finetuner.save_pretrained(static_model)
    finetuner.save_pretrained(tmp_path / "model")
    before = {f: f.read_bytes() for f in (tmp_path / "model").rglob("*.*")}

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("skembft._utils.atomic._flush", full)
    with pytest.raises(OSError, match="No space left"):
        adapter(static_model, epochs=1).fit(*pairs).save_pretrained(tmp_path / "model")
    assert {f: f.read_bytes() for f in (tmp_path / "model").rglob("*.*")} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "notes"]


@pytest.mark.parametrize("name", [".git/HEAD", "notes.txt", "data/x.csv"])
def test_files_of_others_are_not_deleted(static_model, pairs, tmp_path, name):
    finetuner = adapter(static_model, epochs=1).fit(*pairs)
    finetuner.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "model" / name).write_text("precious")
    with pytest.raises(FileExistsError, match=f"also holds '{name}', which save_pre"):
        finetuner.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    finetuner.save_pretrained(tmp_path / "model")


def test_no_base_is_overwritten(static_model, pairs, tmp_path, monkeypatch):
    base = tmp_path / "base"
    shutil.copytree(static_model, base)
    moved = CorpusFinetuner(str(base), gamma=0.3, validation_fraction=None).fit(*pairs)
    with pytest.raises(FileExistsError, match="is or holds the base model"):
        moved.save_pretrained(base)
    adapter(str(base), epochs=1).fit(*pairs).save_pretrained(
        tmp_path / "two", split=True
    )
    over = adapter(str(tmp_path / "two" / "document"), epochs=1).fit(*pairs)
    for finetuner in (over, CorpusFinetuner(over, gamma=0.3, validation_fraction=None)):
        with pytest.raises(FileExistsError, match="is or holds the base model"):
            finetuner.fit(*pairs).save_pretrained(tmp_path / "two")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in (".", "..", tmp_path):
        with pytest.raises(FileExistsError, match="the current directory"):
            over.save_pretrained(path)


def test_the_base_is_in_the_directory(bert_model, pairs, tmp_path, monkeypatch):
    """An adapter opens where its base is not, from what the directory holds of it."""
    texts = pairs[0][:5]
    for name, options in ENCODERS.items():
        for side in ("query", "both", "separate"):
            base = tmp_path / "base"
            shutil.copytree(bert_model, base)
            monkeypatch.chdir(tmp_path)
            finetuner = adapter(SentenceEncoder("base", **options), side=side)
            expected = finetuner.fit(*pairs).transform(texts)
            documents = finetuner.transform_documents(texts)
            finetuner.save_pretrained("saved")
            base.rename(tmp_path / "moved")
            loaded = skembft.load("saved")
            (tmp_path / "moved").rename(base)
            shutil.rmtree(base)
            for again in (loaded, pickle.loads(pickle.dumps(loaded))):
                np.testing.assert_allclose(
                    again.transform(texts), expected, atol=1e-6, err_msg=name
                )
                np.testing.assert_allclose(
                    again.transform_documents(texts), documents, atol=1e-6, err_msg=name
                )
            with pytest.raises(OSError, match="Could not load the model 'base'"):
                loaded.fit(*pairs)


def test_what_cannot_be_loaded_is_not_saved(static_model, pairs, tmp_path):
    class Mine(CorpusFinetuner):
        pass

    options = {"gamma": 0.3, "validation_fraction": None}
    for finetuner in (
        Mine(static_model, **options),
        CorpusFinetuner(CorpusFinetuner(static_model, **options), **options),
    ):
        with pytest.raises(ValueError, match="skembft.dump saves other finetuners"):
            finetuner.fit(*pairs).save_pretrained(tmp_path / "model")
    index = PrecomputedEncoder({"q": [1.0, 0.5], "d": [1.0, 0.1], "e": [0.0, 1.0]})
    by_id = CorpusFinetuner(index, **options).fit(["q"], ["d"], corpus=["e"])
    by_id.save_pretrained(tmp_path / "model")  # ids and vectors, for an index
    with (
        pytest.raises(ValueError, match="skembft.dump keeps the finetuner itself"),
        pytest.warns(UserWarning, match="encoder .skembft.encoders._precomputed.Pre"),
    ):
        skembft.load(tmp_path / "model")


def test_what_is_not_in_the_json_is_told(static_model, bert_model, pairs, tmp_path):
    inner = EmbeddingFinetuner(bert_model, epochs=1, loss=MultipleNegativesRankingLoss)
    finetuner = adapter(
        inner, adapter="low_rank", adapter_params={"rank": np.int64(2)}, epochs=1
    ).fit(*pairs)
    finetuner.save_pretrained(tmp_path / "model")
    with pytest.warns(UserWarning, match="defaults: encoder__loss"):
        loaded = skembft.load(tmp_path / "model")
    loaded.encoder_.save_pretrained(tmp_path / "inner")
    encoder = SentenceEncoder(static_model, cache_dir=str(tmp_path / "store"))
    adapter(encoder, epochs=1).fit(*pairs).save_pretrained(tmp_path / "model")
    loaded = skembft.load(tmp_path / "model")  # paths of this machine do not travel
    assert loaded.encoder_.cache_dir is None


def test_loaded_from_llama_index_and_saved(static_model, pairs, tmp_path):
    trained = adapter(static_model, epochs=1).fit(*pairs)
    save_llama_index_adapter(trained, tmp_path / "theirs")
    finetuner = load_llama_index_adapter(tmp_path / "theirs", static_model)
    finetuner.save_pretrained(tmp_path / "model")
    loaded = skembft.load(tmp_path / "model")
    np.testing.assert_allclose(
        loaded.transform(pairs[0]), trained.transform(pairs[0]), atol=1e-6
    )


def test_output_of_another_fit(bert_model, pairs, tmp_path):
    options = {"epochs": 1, "learning_rate": 1e-2, "random_state": 0}
    first = EmbeddingFinetuner(bert_model, **options).fit(*pairs)
    first.save_pretrained(tmp_path / "model")
    options |= {"random_state": 1, "model_output_path": str(tmp_path / "model")}
    second = EmbeddingFinetuner(bert_model, **options).fit(*pairs)
    with pytest.raises(FileNotFoundError, match="has no skembft.json"):
        skembft.load(tmp_path / "model")
    served = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(
        served.encode_query(pairs[0]), second.transform(pairs[0]), atol=1e-6
    )


def test_a_changed_base_is_noticed(static_model, bert_model, pairs, tmp_path):
    adapter(static_model).fit(*pairs).save_pretrained(tmp_path / "model")
    _change(
        tmp_path / "model", lambda s: s["encoder"]["params"].update(model_id=bert_model)
    )
    with pytest.raises(ValueError, match="is not the one this AdapterFinetuner"):
        skembft.load(tmp_path / "model").transform(pairs[0])


def _change(path, change):
    state = json.loads((path / "skembft.json").read_text())
    change(state)
    (path / "skembft.json").write_text(json.dumps(state))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.update({"class": "os.system"}), "names the class 'os.system'"),
        (lambda s: s.update({"class": ["x"]}), "'class' in skembft.json is"),
        (lambda s: s.update(params=[1]), "'params' in skembft.json is"),
        (lambda s: s["params"].update(shell="rm"), "has no parameter 'shell'"),
        (lambda s: s["params"].update(epochs="many"), "epochs"),
        (lambda s: s["encoder"].update({"class": "Path"}), "names the class 'Path'"),
        (lambda s: s["encoder"]["params"].update(hook=1), "has no parameter 'hook'"),
        (lambda s: s.update(encoder=None), "none that a directory can hold"),
        (lambda s: s.update(history="none"), "'history' in skembft.json is"),
        (lambda s: s["attributes"].update(__class__="x"), "'__class__' in skembft"),
        (lambda s: s.update(adapter=["os"]), "'adapter' in skembft.json is"),
        (lambda s: s.update(adapter=["mlp", {}]), "holds no 'mlp' adapter"),
        (
            lambda s: s.update(adapter=["mlp", {"activation": "x"}]),
            "'adapter' in skemb",
        ),
        (lambda s: s.update(sizes="x"), "'sizes' in skembft.json is"),
        (lambda s: s.update(sizes={"queries": "x"}), "'queries' of 'sizes' in"),
        (lambda s: s.update(sides=["x"]), "'sides' in skembft.json is"),
        (lambda s: s.update(attributes={}), "'n_iter_' in skembft.json is None"),
        (
            lambda s: s["encoder"]["params"].update(trust_remote_code=True),
            "it sets trust_remote_code, which is not for a file",
        ),
        (lambda s: s["params"].update(cache_dir="/tmp"), "no parameter 'cache_dir'"),
        (lambda s: s["encoder"]["params"].update(cache_dir="x"), "it sets cache_dir"),
    ],
)
def test_tampered_state(static_model, pairs, tmp_path, change, message):
    adapter(static_model, epochs=1).fit(*pairs).save_pretrained(tmp_path / "model")
    _change(tmp_path / "model", change)
    with pytest.raises(ValueError, match=message):
        skembft.load(tmp_path / "model")


def test_damaged_files(static_model, pairs, tmp_path):
    path = tmp_path / "model"
    adapter(static_model, epochs=1).fit(*pairs).save_pretrained(path)
    arrays = path / "skembft.safetensors"
    whole = arrays.read_bytes()
    weights = next(path.rglob("model.safetensors"))
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(ValueError, match="model.safetensors is not as it was written"):
        skembft.load(path)
    weights.write_bytes(before)
    skembft.load(path)
    arrays.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="skembft.safetensors is damaged"):
        skembft.load(path)
    arrays.unlink()
    with pytest.raises(ValueError, match="skembft.safetensors is missing"):
        skembft.load(path)
    (path / "skembft.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        skembft.load(path)
    with pytest.raises(FileNotFoundError, match="has no skembft.json"):
        skembft.load(tmp_path)


KILL = """
import itertools, os, random, signal, sys, time
import joblib, numpy as np, skembft
from sentence_transformers import SentenceTransformer

way, n_kills, target, *sources = sys.argv[1:]
texts = ["red1 old1", "wet2"]
finetuners = [skembft.load(path) for path in sources]
expected = [finetuner.transform(texts) for finetuner in finetuners]
assert not np.allclose(*expected, atol=1e-4)

def save(finetuner):
    if way == "dump":
        skembft.dump(finetuner, target)
    else:
        finetuner.save_pretrained(target)

def check():
    loaded = joblib.load(target) if way == "dump" else skembft.load(target)
    found = loaded.transform(texts)
    which = [np.allclose(found, vectors, atol=1e-6) for vectors in expected]
    assert sum(which) == 1
    if way != "dump":
        served = SentenceTransformer(target, device="cpu").encode_query(texts)
        np.testing.assert_allclose(served, found, atol=1e-6)
    return which.index(True)

def fork(forever):
    child = os.fork()
    if not child:
        try:
            for _ in itertools.count() if forever else range(1):
                for finetuner in finetuners:
                    save(finetuner)
            os._exit(0)
        finally:  # only an error gets here
            os._exit(1)
    return child

start = time.perf_counter()
assert os.waitpid(fork(forever=False), 0)[1] == 0
seconds = time.perf_counter() - start
chance, seen = random.Random(0), []
while len(seen) < int(n_kills) or (len(set(seen)) < 2 and len(seen) < 200):
    child = fork(forever=True)
    time.sleep(chance.uniform(0, 2 * seconds))
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    seen.append(check())
print(*sorted(set(seen)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
@pytest.mark.parametrize("way", ["save_pretrained", "dump"])
def test_killed_while_saving(static_model, bert_model, pairs, tmp_path, run_fresh, way):
    """Whenever it is killed, one of both versions is there, complete."""
    for seed in (0, 1):
        if way == "save_pretrained":
            finetuner = adapter(static_model, epochs=1 + 20 * seed)
        else:  # its pickle is large
            finetuner = EmbeddingFinetuner(
                bert_model, epochs=1, learning_rate=1e-2, random_state=seed
            )
        finetuner.fit(*pairs).save_pretrained(tmp_path / f"source{seed}")
    sources = [str(tmp_path / f"source{seed}") for seed in (0, 1)]
    target = str(tmp_path / "target")
    # what is killed leaves its temporary files
    printed = run_fresh(KILL, way, 9, target, *sources, TMPDIR=str(tmp_path))
    assert printed.split() == ["0", "1"]  # both versions were found
