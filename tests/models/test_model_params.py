"""What `model_params` pass on to Sentence Transformers, and what they never show."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

import skembft
from skembft import AdapterFinetuner, APIEncoder, EmbeddingFinetuner, SentenceEncoder
from tests.finetuner.bad_input import MISSING
from tests.models.test_stored_types import same, types_in

OPTIONS = {"epochs": 1, "learning_rate": 1e-3, "random_state": 0, "device": "cpu"}
TOKEN = "hf_secretsecretsecret"
MODELS = [SentenceEncoder, EmbeddingFinetuner]


def in_dtype(dtype):
    return {"model_kwargs": {"dtype": dtype}}


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize(
    "params, message",
    [
        ({"device": "cpu"}, "'device' is not among .*; use the argument device"),
        ({"prompts": {}}, "use the arguments query_prompt and document_prompt"),
        ({"tokenizer_kwargs": {}}, "use the key 'processor_kwargs'"),
        ({"trust_remote_code": True}, "use the argument trust_remote_code"),
        ({"truncate_dim": 3}, "use the argument truncate_dim"),
        ({"revison": "main"}, r"'revison' is not among revision, token"),
        (
            {"model_kwargs": {"device_map": "auto"}},
            "use the argument device",
        ),
        ({"config_kwargs": {"trust_remote_code": True}}, "argument trust_remote_code"),
        ({"model_kwargs": {"token": TOKEN}}, "the key 'token' of model_params"),
        ({"model_kwargs": "bfloat16"}, "model_kwargs must be a dict, got 'bfloat16'"),
        (in_dtype("half"), "'dtype' in model_kwargs is 'half', not among auto, fl"),
        (in_dtype(torch.int8), "'dtype' in model_kwargs is torch.int8, not among"),
        ({"model_kwargs": {"hook": object()}}, "'hook' in model_kwargs is a object"),
        ({"model_kwargs": {"weights_only": False}}, "needs trust_remote_code=True"),
        (
            {"model_kwargs": {"attn_implementation": "owner/kernel"}},
            "'attn_implementation' in model_kwargs brings code .* trust_remote_code",
        ),
        ({"revision": ""}, "revision must name a branch, tag or commit, got ''"),
        ({"token": 3}, "token must be a str or bool, not int"),
        ({"token": TOKEN + "\n"}, "token is empty or holds white space"),
    ],
)
def test_what_is_refused(cls, params, message, pairs):
    """Before a model is looked for, and without a word of the token."""
    with pytest.raises(ValueError, match=f"(?s)model_params.*{message}") as caught:
        cls(MISSING, model_params=params).fit(*pairs).transform(pairs[0])
    assert TOKEN not in str(caught.value)


def test_arguments_that_the_model_refuses(bert_model, pairs):
    for cls in MODELS:
        wrong = {"model_kwargs": {"no_such_argument": 1}}
        with pytest.raises(ValueError, match="model_params: .* cannot be loaded"):
            cls(bert_model, model_params=wrong).fit(*pairs).transform(pairs[0])


def test_a_type_of_the_users_choice(bert_model, pairs, monkeypatch):
    """It is neither copied nor cast, and vectors have unit length."""
    from skembft._models import loading, precision

    full = SentenceEncoder(bert_model, device="cpu").transform(pairs[0])
    monkeypatch.setattr(loading, "bf16_copy", None)
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    for dtype, expected in (
        ("bfloat16", torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
        ("float16", torch.float16),
    ):
        for asked in ("float32", "auto"):
            encoder = SentenceEncoder(
                bert_model, model_params=in_dtype(dtype), precision=asked, device="cpu"
            )
            vectors = encoder.transform(pairs[0])
            assert encoder._load().model.dtype == expected
            assert 1e-6 < np.abs(vectors - full).max() < 0.02
            assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6


def test_static_models_in_a_type(static_model, pairs):
    encoder = SentenceEncoder(static_model, model_params=in_dtype("bfloat16"))
    encoder.transform(pairs[0])
    assert encoder._load().model.dtype == torch.bfloat16


def test_as_stored(bert_model, pairs, tmp_path):
    model = SentenceTransformer(bert_model, device="cpu").bfloat16()
    model.save_pretrained(str(tmp_path), create_model_card=False)
    encoder = SentenceEncoder(str(tmp_path), model_params=in_dtype("auto"))
    encoder.transform(pairs[0])
    assert encoder._load().model.dtype == torch.bfloat16


def test_vectors_of_one_type_are_not_served_for_another(bert_model, pairs, tmp_path):
    vectors, fingerprints = [], set()
    for params in (None, in_dtype("bfloat16"), in_dtype("float16")):
        options = {"model_params": params, "device": "cpu"}
        encoder = SentenceEncoder(bert_model, cache_dir=tmp_path, **options)
        assert np.array_equal(
            encoder.transform(pairs[0]),
            SentenceEncoder(bert_model, **options).transform(pairs[0]),
        )
        vectors.append(encoder.transform(pairs[0]))
        fingerprints.add(encoder._fingerprint())
    assert len({matrix.tobytes() for matrix in vectors}) == len(fingerprints) == 3
    same_type = SentenceEncoder(bert_model, model_params=in_dtype(torch.bfloat16))
    assert same_type._fingerprint() in fingerprints


def test_a_changed_type_is_a_changed_encoder(bert_model, pairs):
    adapter = AdapterFinetuner(bert_model, epochs=1, validation_fraction=None)
    adapter = pickle.loads(pickle.dumps(adapter.fit(*pairs)))
    adapter.encoder_.model_params = in_dtype("bfloat16")
    with pytest.raises(ValueError, match="is not the one"):
        adapter.transform(pairs[0])


def test_all_arguments_arrive(bert_model, pairs):
    params = {
        "model_kwargs": {"attn_implementation": "eager"},
        "processor_kwargs": {"padding_side": "left"},
        "config_kwargs": {"hidden_dropout_prob": 0.0},
    }
    encoder = SentenceEncoder(bert_model, model_params=params, device="cpu")
    finetuner = EmbeddingFinetuner(bert_model, model_params=params, **OPTIONS)
    encoder.transform(pairs[0])
    for model in (encoder._load().model, finetuner.fit(*pairs).model_):
        config = model.transformers_model.config
        assert config._attn_implementation == "eager"
        assert config.hidden_dropout_prob == 0.0
        assert model.tokenizer.padding_side == "left"
        assert model.dtype == torch.float32


# ---- training


def test_weights_in_bfloat16_on_request(bert_model, pairs, tmp_path):
    options = {**OPTIONS, "model_params": in_dtype("bfloat16")}
    finetuner = EmbeddingFinetuner(bert_model, **options).fit(*pairs)
    assert {p.dtype for p in finetuner.model_.parameters()} == {torch.bfloat16}
    lengths = np.linalg.norm(finetuner.transform(pairs[0]), axis=1)
    assert np.abs(lengths - 1).max() < 1e-6
    assert same(finetuner, pickle.loads(pickle.dumps(finetuner)), pairs)
    finetuner.save_pretrained(tmp_path / "saved")
    assert types_in(tmp_path / "saved") == {"BF16"}
    assert same(finetuner, skembft.load(tmp_path / "saved"), pairs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_rank_weights_are_float32(bert_model, pairs, dtype):
    """Beside frozen ones of any type."""
    options = {**OPTIONS, "model_params": in_dtype(dtype), "trainable": "lora"}
    finetuner = EmbeddingFinetuner(bert_model, **options).fit(*pairs)
    for name, parameter in finetuner.model_.named_parameters():
        assert parameter.dtype == (torch.float32 if "lora_" in name else dtype)
    full = EmbeddingFinetuner(bert_model, **OPTIONS, trainable="lora").fit(*pairs)
    gained = full.history_[-1]["loss"] - finetuner.history_[-1]["loss"]
    assert abs(gained) < 0.05


def test_float16_cannot_be_trained(bert_model, pairs):
    options = {**OPTIONS, "model_params": in_dtype("float16")}
    for trainable in ("all", 1):
        with pytest.raises(ValueError, match="weights in float16.*trainable='lora'"):
            EmbeddingFinetuner(bert_model, trainable=trainable, **options).fit(*pairs)


def test_checkpoints_tell_the_arguments(bert_model, pairs, tmp_path):
    options = {
        **OPTIONS,
        "model_output_path": tmp_path,
        "save_checkpoints": True,
        "checkpoint_save_steps": 2,
    }
    params = {"model_kwargs": {"attn_implementation": "eager"}, "token": TOKEN}
    EmbeddingFinetuner(bert_model, model_params=params, **options).fit(*pairs)
    options["resume_from_checkpoint"] = True
    with pytest.raises(ValueError, match="differs in model_params") as caught:
        EmbeddingFinetuner(bert_model, **options).fit(*pairs)
    assert TOKEN not in str(caught.value)
    # the token is no part of what a fit is
    del params["token"]
    EmbeddingFinetuner(bert_model, model_params=params, **options).fit(*pairs)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes()


# ---- revisions


@pytest.fixture
def hub(bert_model, tmp_path, monkeypatch):
    """A local cache of the hub with two revisions of "owner/tiny"."""
    repository = tmp_path / "hub" / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    for name, revision in (("main", "0123456789" * 4), ("old", "abcdef0123" * 4)):
        snapshot = repository / "snapshots" / revision
        shutil.copytree(bert_model, snapshot)
        (repository / "refs" / name).write_text(revision)
    model = SentenceTransformer(bert_model, device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.5
    model.save_pretrained(str(snapshot), create_model_card=False)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "hub"))
    return str(snapshot)


def test_revisions(hub, bert_model, pairs, tmp_path):
    options = {"device": "cpu", "cache_dir": tmp_path / "cache"}
    for revision, path in (("old", hub), (None, bert_model), ("abcdef0123" * 4, hub)):
        params = {"revision": revision}
        encoder = SentenceEncoder("owner/tiny", model_params=params, **options)
        assert same(encoder, SentenceEncoder(path, device="cpu"), pairs)
        finetuner = EmbeddingFinetuner("owner/tiny", model_params=params, **OPTIONS)
        expected = EmbeddingFinetuner(path, **OPTIONS).fit(*pairs)
        assert same(finetuner.fit(*pairs), expected, pairs)


def test_revisions_that_do_not_exist(hub, pairs, encoded_rows):
    params = {"revision": "none", "token": TOKEN}
    for cls in MODELS:
        with pytest.raises(OSError, match="'owner/tiny': revision 'none'") as caught:
            cls("owner/tiny", model_params=params).fit(*pairs).transform(pairs[0])
        assert TOKEN not in str(caught.value)
        with pytest.raises(ValueError, match="revision='none' goes with a name on the"):
            cls(hub, model_params=params).fit(*pairs).transform(pairs[0])
    assert not encoded_rows


# ---- tokens


@pytest.fixture
def given(monkeypatch):
    """Arguments with which models are made."""
    calls = []
    init = SentenceTransformer.__init__

    def recording(self, *args, **kwargs):
        calls.append(kwargs)
        init(self, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "__init__", recording)
    return calls


def shown(estimator):
    """All ways in which an estimator is shown, by itself and within others."""
    within = make_pipeline(AdapterFinetuner(estimator))
    for outer in (estimator, AdapterFinetuner(estimator), within):
        yield from (repr(outer), str(outer), outer._repr_html_())
        yield repr(outer.get_params())


@pytest.mark.parametrize("cls", MODELS)
def test_a_token_is_used_but_never_shown_or_kept(
    static_model, pairs, given, tmp_path, cls
):
    path = str(shutil.copytree(static_model, tmp_path / "model"))
    estimator = cls(path, model_params={"token": TOKEN, "config_kwargs": {}})
    for made in (estimator, clone(estimator), clone(clone(estimator))):
        assert made.model_params["token"] == TOKEN
        assert all(TOKEN not in text for text in shown(made))
        assert TOKEN.encode() not in pickle.dumps(made)
    assert "<hidden>" in repr(estimator)
    estimator.fit(*pairs).transform(pairs[0])
    assert given[0]["token"] == TOKEN
    assert TOKEN.encode() not in pickle.dumps(estimator)
    restored = pickle.loads(pickle.dumps(estimator))
    assert restored.model_params == {"config_kwargs": {}}
    finetuner = estimator
    if cls is SentenceEncoder:
        finetuner = AdapterFinetuner(estimator, epochs=1).fit(*pairs)
        assert TOKEN.encode() not in pickle.dumps(finetuner)
    finetuner.save_pretrained(tmp_path / "saved")
    skembft.dump(finetuner, tmp_path / "saved.joblib")
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or TOKEN.encode() not in file.read_bytes()
    assert same(finetuner, skembft.load(tmp_path / "saved"), pairs)


def test_clients_are_shown_by_their_name(pairs):
    class Client:
        def __init__(self, api_key):
            self.api_key = api_key

        def __repr__(self):
            return f"Client(api_key={self.api_key!r})"

        def encode(self, texts):
            return [[len(text), 1.0] for text in texts]

    client = Client(TOKEN)
    encoder = APIEncoder(client, model_name="lengths")
    for made in (encoder, clone(encoder), APIEncoder(**encoder.get_params())):
        assert made.client is client
        assert all(TOKEN not in text for text in shown(made))
        assert made.get_params() == encoder.get_params()
        given = made.get_params()["client"]
        assert made.set_params(client=given).get_params()["client"] is given
    assert repr(encoder) == "APIEncoder(client=<Client>, model_name='lengths')"
    adapter = AdapterFinetuner(encoder, epochs=1).fit(*pairs)
    adapter.encoder_.model_name, adapter._encoder_checked = "other", False
    with pytest.raises(ValueError, match="is not the one") as caught:
        adapter.transform(pairs[0])
    assert TOKEN not in str(caught.value) + repr(adapter) + adapter._repr_html_()
