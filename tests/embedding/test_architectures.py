"""Top layers of tiny random models of many kinds, on texts beyond their windows."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Pooling,
    Transformer,
    WordEmbeddings,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import (
    WhitespaceTokenizer,
)
from transformers import PreTrainedTokenizerFast

from skembft import EmbeddingFinetuner
from skembft._embedding import trainer as training
from skembft._embedding.speed import lower_layers
from skembft._embedding.trainable import layer_rates
from skembft._models import precision as types
from tests.conftest import WORDS, _word_tokenizer

OPTIONS = {
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "random_state": 0,
    "device": "cpu",
}
WINDOW = 8  # tokens; queries are shorter, documents longer
SIZES = {
    "vocab_size": 65,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
DECODER = {"num_key_value_heads": 1, "head_dim": 16}
# of each kind: its settings, and the path of its layers
KINDS = {
    "Bert": ({**SIZES, **NO_DROPOUT, "num_hidden_layers": 4}, "encoder.layer"),
    "MPNet": ({**SIZES, **NO_DROPOUT, "num_hidden_layers": 4}, "encoder.layer"),
    "Gemma2": (
        {**SIZES, **DECODER, "num_hidden_layers": 4, "sliding_window": WINDOW},
        "layers",
    ),
    "Gemma3Text": (
        {
            **{**SIZES, **DECODER, "num_hidden_layers": 7, "sliding_window": WINDOW},
            "use_bidirectional_attention": True,
        },
        "layers",
    ),
    "ModernBert": (
        {**SIZES, "num_hidden_layers": 4, "local_attention": WINDOW},
        "layers",
    ),
    "Qwen3": ({**SIZES, **DECODER, "num_hidden_layers": 4}, "layers"),
    "T5Encoder": (
        {
            **{"vocab_size": 65, "d_model": 32, "d_kv": 16, "d_ff": 64},
            **{"num_layers": 4, "num_heads": 2, "dropout_rate": 0.0},
        },
        "encoder.block",
    ),
}
# those of which the layers beneath cannot be left out: they hand more on than states
WHOLE = {"T5Encoder"}
IN_BF16 = ["Bert", "Gemma2", "T5Encoder"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Makes a directory of a kind."""

    def make(kind):
        path = tmp_path_factory.mktemp(kind)
        settings, _ = KINDS[kind]
        config = getattr(transformers, f"{kind.removesuffix('Encoder')}Config")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = getattr(transformers, f"{kind}Model")(config(**settings))
            for parameter in model.parameters():
                if parameter.ndim > 1:  # so that attention tells
                    torch.nn.init.normal_(parameter, std=0.15)
        model.save_pretrained(str(path / "hf"))
        PreTrainedTokenizerFast(
            tokenizer_object=_word_tokenizer(),
            pad_token="[PAD]",
            unk_token="[UNK]",
            model_max_length=128,
        ).save_pretrained(str(path / "hf"))
        modules = [Transformer(str(path / "hf")), Pooling(32), Dense(32, 16)]
        SentenceTransformer(modules=modules, device="cpu").save_pretrained(
            str(path / "st"), create_model_card=False
        )
        return str(path / "st")

    made = {}
    return lambda kind: made.get(kind) or made.setdefault(kind, make(kind))


@pytest.fixture(scope="module")
def pairs():
    """Queries within the window, and documents of up to seven times its length."""
    rng = np.random.RandomState(0)
    queries = [" ".join(rng.choice(WORDS, 4)) for _ in range(24)]
    documents = [
        f"{query} {' '.join(rng.choice(WORDS, rng.randint(20, 50)))}"
        for query in queries
    ]
    return queries, documents


def changed(finetuner, path):
    """Names of the weights that differ from those of the untouched model."""
    before = SentenceTransformer(path, device="cpu").state_dict()
    after = finetuner.model_.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("kind", "precision"),
    [*((kind, "float32") for kind in KINDS), *((kind, "auto") for kind in IN_BF16)],
)
def test_layers_that_are_left_out_are_not_missed(
    models, pairs, kind, precision, monkeypatch
):
    """The oracle is the model run whole, in every step and evaluation."""
    monkeypatch.setattr(types, "has_bf16", lambda device: True)
    options = {**OPTIONS, "trainable": 2, "precision": precision}
    fits = []
    for _ in range(2):
        finetuner = EmbeddingFinetuner(models(kind), **options)
        fits.append(finetuner.fit(*pairs, X_val=pairs[0], y_val=pairs[1]))
        monkeypatch.setattr(training, "lower_layers_once", lambda *_: nullcontext())
    once, always = fits
    tolerance = 1e-5 if precision == "float32" else 0.02
    for texts in pairs:
        difference = once.transform(texts) - always.transform(texts)
        assert np.abs(difference).max() < tolerance
    if precision == "float32":
        for ours, theirs in zip(once.history_, always.history_, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5, nan_ok=True)
        assert once.score(*pairs) == pytest.approx(once.validation_score_, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_layers_run_once_a_text(models, pairs, kind, monkeypatch):
    model = SentenceTransformer(models(kind), device="cpu")
    layer = model[0].auto_model.get_submodule(KINDS[kind][1])[0]
    rows, forward = [], type(layer).forward

    def counting(self, hidden_states, *args, **kwargs):
        rows.append((id(self), len(hidden_states)))
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(type(layer), "forward", counting)
    EmbeddingFinetuner(models(kind), trainable=1, **OPTIONS).fit(*pairs)
    n_layers = len({layer for layer, _ in rows})
    counts = [sum(n for i, n in rows if i == layer) for layer in {i for i, _ in rows}]
    texts = len(pairs[0]) + len(pairs[1])
    assert n_layers > 1
    if kind in WHOLE:
        assert min(counts) > 2 * texts
    else:  # besides those of the comparisons
        assert sorted(counts)[-2] < 2 * texts < max(counts)


def test_long_texts_decide_whether_layers_can_be_left_out(models, pairs, monkeypatch):
    """What is right for queries only is found before training, and not used."""
    padded = lower_layers._HiddenStates.padded

    def wrong_beyond_queries(self, keys, width):
        return padded(self, keys, width) + float(width > 10)

    monkeypatch.setattr(lower_layers._HiddenStates, "padded", wrong_beyond_queries)
    fits = []
    for _ in range(2):
        finetuner = EmbeddingFinetuner(models("Bert"), trainable=2, **OPTIONS)
        fits.append(finetuner.fit(*pairs).transform(pairs[1]))
        monkeypatch.setattr(training, "lower_layers_once", lambda *_: nullcontext())
    assert np.abs(fits[0] - fits[1]).max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_the_layers_is_trained(models, pairs, kind):
    """And nothing that feeds them, wherever it is registered."""
    path, (_, layers) = models(kind), KINDS[kind]
    finetuner = EmbeddingFinetuner(path, trainable=1, **OPTIONS).fit(*pairs)
    names = {name.partition("model.")[2] or name for name in changed(finetuner, path)}
    top = len(finetuner.model_[0].auto_model.get_submodule(layers)) - 1
    norms = {
        "Gemma2": {"norm.weight"},
        "Gemma3Text": {"norm.weight"},
        "ModernBert": {"final_norm.weight"},
        "Qwen3": {"norm.weight"},
        "T5Encoder": {"encoder.final_layer_norm.weight"},
    }
    of_layers = {name for name in names if name.startswith(f"{layers}.{top}.")}
    dense = {"2.linear.weight", "2.linear.bias"}
    assert of_layers
    assert names - of_layers == norms.get(kind, set()) | dense
    assert all(p.requires_grad for p in finetuner.model_.parameters())


def test_rates_of_what_feeds_and_what_follows(models):
    model = SentenceTransformer(models("MPNet"), device="cpu")
    (rate,) = [
        rate
        for name, rate in layer_rates(model, 1.0, 0.5).items()
        if "relative_attention_bias" in name
    ]
    assert rate == 0.5**4
    model = SentenceTransformer(models("T5Encoder"), device="cpu")
    assert not any("final_layer_norm" in name for name in layer_rates(model, 1.0, 0.5))


# ---- modules that say that they are not trained


@pytest.fixture
def words(tmp_path):
    def make(update, *modules):
        vectors = np.random.RandomState(0).normal(size=(len(WORDS), 16))
        module = WordEmbeddings(
            WhitespaceTokenizer(WORDS), vectors, update_embeddings=update
        )
        path = str(tmp_path / str(update))
        SentenceTransformer(
            modules=[module, Pooling(16), *modules], device="cpu"
        ).save_pretrained(path, create_model_card=False)
        return path

    return make


@pytest.mark.parametrize("update", [False, True])
def test_word_embeddings_are_trained_where_they_say_so(words, pairs, update):
    path = words(update, Dense(16, 8))
    finetuner = EmbeddingFinetuner(path, warm_start=True, **OPTIONS)
    for _ in range(2):
        names = changed(finetuner.fit(*pairs), path)
        assert ("0.emb_layer.weight" in names) is update
        assert "2.linear.weight" in names


def test_a_model_without_anything_to_train(words, pairs, encoded_rows):
    with pytest.raises(ValueError, match="WordEmbeddings says update_embeddings=False"):
        EmbeddingFinetuner(words(False), **OPTIONS).fit(*pairs)
    assert not encoded_rows
