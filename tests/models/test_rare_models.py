"""Models and settings of torch that are rare, each of which once went wrong."""

import pickle

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Pooling,
    StaticEmbedding,
    Transformer,
    WordEmbeddings,
    WordWeights,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import (
    WhitespaceTokenizer,
)
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

import skembft
from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    SentenceEncoder,
)
from tests.conftest import WORDS, _word_tokenizer

OPTIONS = {"epochs": 1, "learning_rate": 1e-2, "random_state": 0, "device": "cpu"}


def write(path, *modules):
    model = SentenceTransformer(modules=list(modules), device="cpu")
    model.save_pretrained(str(path), create_model_card=False)
    return str(path)


# ---- what is saved


@pytest.mark.parametrize(
    "modes",
    [["mean", "max"], ["lasttoken", "mean"], ["mean", "cls"], ["cls", "max", "mean"]],
)
def test_pooling_in_several_ways_keeps_their_order(bert_model, pairs, tmp_path, modes):
    torch.manual_seed(0)
    width = 32
    pooling = Pooling(width, pooling_mode=modes)
    dense = Dense(len(modes) * width, 16)
    path = write(tmp_path / "base", Transformer(bert_model), pooling, dense)
    finetuner = EmbeddingFinetuner(path, **OPTIONS).fit(*pairs)
    over = AdapterFinetuner(SentenceEncoder(path, device="cpu"), epochs=2)
    over.set_params(validation_fraction=None).fit(*pairs)
    for name, each in {"model": finetuner, "adapter": over}.items():
        each.save_pretrained(tmp_path / name)
        each.save_pretrained(tmp_path / f"{name}s", split=True)
        expected = each.transform(pairs[0])
        saved = SentenceTransformer(str(tmp_path / name), device="cpu")
        one = SentenceTransformer(str(tmp_path / f"{name}s" / "query"), device="cpu")
        found = [
            saved.encode_query(pairs[0]),
            one.encode(pairs[0]),
            skembft.load(tmp_path / name).transform(pairs[0]),
        ]
        for vectors in found:
            np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_weights_of_words_that_no_file_keeps_are_not_trained(pairs, tmp_path):
    vocabulary = [*WORDS, *(f"q{i}" for i in range(len(pairs[0])))]
    rng = np.random.RandomState(0)
    embeddings = WordEmbeddings(
        WhitespaceTokenizer(vocabulary),
        rng.normal(size=(len(vocabulary), 8)).astype(np.float32),
        update_embeddings=True,
    )
    weights = WordWeights(vocabulary, dict.fromkeys(vocabulary[::2], 0.5))
    path = write(tmp_path / "base", embeddings, weights, Pooling(8))
    options = {**OPTIONS, "learning_rate": 0.1, "validation_fraction": None}
    finetuner = EmbeddingFinetuner(path, **options).fit(*pairs)
    untouched = SentenceEncoder(path, device="cpu").transform(pairs[0])
    expected = finetuner.transform(pairs[0])
    assert np.abs(expected - untouched).max() > 0.1
    again = pickle.loads(pickle.dumps(finetuner)).transform(pairs[0])
    np.testing.assert_allclose(again, expected, atol=1e-6)


# ---- what is loaded


def test_a_model_without_pooling_is_refused(bert_model, pairs, tmp_path):
    path = write(tmp_path / "base", Transformer(bert_model))
    for each in (EmbeddingFinetuner(path), AdapterFinetuner(path)):
        with pytest.raises(OSError, match="add a Pooling"):
            each.fit(*pairs)


@pytest.mark.parametrize("role", ["transform", "transform_documents"])
def test_empty_texts_of_a_tokenizer_that_adds_nothing(tmp_path, role):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_word_tokenizer(), pad_token="[PAD]", unk_token="[UNK]"
    )
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.save_pretrained(str(tmp_path / "hf"))
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=32,
        pad_token_id=0,
    )
    Qwen3Model(config).save_pretrained(str(tmp_path / "hf"))
    path = write(tmp_path / "st", Transformer(str(tmp_path / "hf")), Pooling(16))
    encode = getattr(SentenceEncoder(path, device="cpu"), role)
    alone, beside = encode([""]), encode(["", WORDS[0]])
    assert alone.shape == (1, 16) and np.isfinite(beside).all()
    np.testing.assert_array_equal(alone[0], beside[0])
    np.testing.assert_array_equal(encode(["", ""])[1], alone[0])


# ---- losses


def dense(bert_model, path):
    return write(path, Transformer(bert_model), Pooling(32), Dense(32, 24))


def two_modes(bert_model, path):
    pooling = Pooling(32, pooling_mode=["cls", "max"])
    return write(path, Transformer(bert_model), pooling)


def static(_, path):
    return write(path, StaticEmbedding(_word_tokenizer(), embedding_dim=16))


@pytest.mark.parametrize(
    "make, message",
    [
        (dense, "its decoder reads vectors of width 32, those of the model have 24"),
        (
            two_modes,
            "its decoder reads vectors of width 32, those of the model have 64",
        ),
        (static, "its first module must be a Transformer"),
    ],
)
def test_a_denoising_loss_that_does_not_fit(bert_model, pairs, tmp_path, make, message):
    finetuner = EmbeddingFinetuner(
        make(bert_model, tmp_path / "base"), loss="denoising_auto_encoder", **OPTIONS
    )
    with pytest.raises(ValueError, match=f"cannot be built for this model: {message}"):
        finetuner.fit(*pairs)


# ---- settings of torch


DTYPES = [torch.float64, torch.bfloat16]


@pytest.fixture
def default_dtype(request):
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


class Layer(torch.nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.linear = torch.nn.Linear(dim, dim)
        torch.nn.init.eye_(self.linear.weight)

    def forward(self, x):
        return self.linear(x)


ADAPTERS = [
    {},
    {"adapter": "low_rank"},
    {"adapter": "mlp", "side": "separate"},
    {"adapter": Layer, "side": "both"},
    {"solver": "closed_form"},
    {"side": "both", "adapter_params": {"output_dim": 8, "bias": True}},
]


@pytest.mark.parametrize("default_dtype", DTYPES, indirect=True)
@pytest.mark.parametrize("params", ADAPTERS)
@pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")
def test_another_default_dtype_with_adapters(rotated, default_dtype, params):
    queries, documents = rotated
    options = {"epochs": 3, "random_state": 0, **params}
    finetuner = AdapterFinetuner(None, **options).fit(queries, documents)
    vectors, score = finetuner.transform(queries), finetuner.score(queries, documents)
    found = finetuner.retrieve(queries, documents, k=3)[0]
    torch.set_default_dtype(torch.float32)
    if "adapter" in params and params["adapter"] is Layer:  # whose weights are drawn
        assert vectors.dtype == np.float32
        return
    expected = AdapterFinetuner(None, **options).fit(queries, documents)
    np.testing.assert_array_equal(vectors, expected.transform(queries))
    assert score == expected.score(queries, documents)
    np.testing.assert_array_equal(found, expected.retrieve(queries, documents, k=3)[0])


@pytest.mark.parametrize("default_dtype", DTYPES, indirect=True)
@pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")
@pytest.mark.filterwarnings("ignore:The vectors of documents stay:UserWarning")
def test_another_default_dtype_with_models(static_model, pairs, default_dtype):
    options = {**OPTIONS, "epochs": 2}
    results = []
    for _ in range(2):
        model = EmbeddingFinetuner(static_model, **options).fit(*pairs)
        mover = CorpusFinetuner(SentenceEncoder(static_model, device="cpu"))
        mover.fit(pairs[0][:30], [*pairs[1][:10]] * 3)
        results.append((model.transform(pairs[0]), mover.gamma_, model.score(*pairs)))
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]


def test_a_fit_where_gradients_are_off(static_model, pairs, rotated):
    with torch.no_grad():
        inside = EmbeddingFinetuner(static_model, **OPTIONS).fit(*pairs)
        adapter = AdapterFinetuner(None, epochs=3, random_state=0).fit(*rotated)
        assert not torch.is_grad_enabled()
    outside = EmbeddingFinetuner(static_model, **OPTIONS).fit(*pairs)
    expected = AdapterFinetuner(None, epochs=3, random_state=0).fit(*rotated)
    for a, b, texts in [(inside, outside, pairs[0]), (adapter, expected, rotated[0])]:
        np.testing.assert_array_equal(a.transform(texts), b.transform(texts))
