"""Limits of tokens: a model's own, those that are asked for, and its positions."""

import json
import shutil

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Pooling,
    Router,
    StaticEmbedding,
)

from skembft import AdapterFinetuner, EmbeddingFinetuner, SentenceEncoder
from tests.conftest import WORDS, _word_tokenizer

POSITIONS = 40  # of bert_model, whose own limit is 32
SIZES = {
    "vocab_size": 65,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "max_position_embeddings": 20,
    "pad_token_id": 0,
}
# of each kind: its settings, and tokens that it can read
TABLES = {
    "Electra": (SIZES, 20),
    "XLMRoberta": (SIZES, 19),
    "Camembert": ({**SIZES, "pad_token_id": 1}, 18),
    "OPT": ({**SIZES, "ffn_dim": 16, "word_embed_proj_dim": 16}, 20),
    "GPT2": ({**SIZES, "bos_token_id": 1, "eos_token_id": 1}, 20),
    "CLIPText": ({**SIZES, "bos_token_id": 1, "eos_token_id": 1}, 20),
}
# positions are computed, for texts of any length
COMPUTED = {
    "ModernBert": {**SIZES, "cls_token_id": 2, "sep_token_id": 3},
    "Llama": SIZES,
    "T5Encoder": {"vocab_size": 65, "d_model": 16, "num_layers": 1, "num_heads": 1},
    "DebertaV2": {**SIZES, "position_biased_input": False, "relative_attention": True},
}


@pytest.fixture
def model_of(tmp_path):
    """Makes a directory of a kind, whose tokenizer has no limit."""
    import transformers
    from sentence_transformers.sentence_transformer.modules import Transformer

    def make(kind, settings):
        config = getattr(transformers, f"{kind.removesuffix('Encoder')}Config")
        config = config(**settings)
        getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path / "hf")
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=_word_tokenizer(), pad_token="[PAD]", unk_token="[UNK]"
        ).save_pretrained(tmp_path / "hf")
        transformer = Transformer(str(tmp_path / "hf"))
        SentenceTransformer(
            modules=[transformer, Pooling(16)], device="cpu"
        ).save_pretrained(str(tmp_path / "st"), create_model_card=False)
        return tmp_path / "st"

    return make


def own_limit(path, limit):
    settings = json.loads((path / "sentence_bert_config.json").read_text())
    settings["max_seq_length"] = limit
    (path / "sentence_bert_config.json").write_text(json.dumps(settings))
    return str(path)


def words(n):
    return " ".join(np.random.RandomState(n).choice(WORDS, n))


@pytest.mark.parametrize("kind", TABLES)
def test_no_more_tokens_than_positions(model_of, kind):
    settings, limit = TABLES[kind]
    path = str(model_of(kind, settings))
    texts = ["red1", words(limit), words(60)]
    longest = SentenceEncoder(path, max_seq_length=limit).transform(texts)
    # as it is loaded, too: the library reads two more of RoBERTa's kin, and fails
    np.testing.assert_allclose(SentenceEncoder(path).transform(texts), longest)
    message = f"max_seq_length={limit + 1}, .* positions for {limit} tokens"
    pairs = ["red1", "old1"], [words(60), words(50)]
    for fit in (
        lambda: SentenceEncoder(path, max_seq_length=limit + 1).transform(["red1"]),
        lambda: EmbeddingFinetuner(path, max_seq_length=limit + 1).fit(*pairs),
        lambda: AdapterFinetuner(SentenceEncoder(path, max_seq_length=limit + 1)).fit(
            *pairs
        ),
    ):
        with pytest.raises(ValueError, match=message):
            fit()


@pytest.mark.parametrize("kind", COMPUTED)
def test_any_number_of_tokens(model_of, kind):
    path = str(model_of(kind, COMPUTED[kind]))
    text = words(60)
    model = SentenceTransformer(path, device="cpu")
    model.max_seq_length = 60
    encoder = SentenceEncoder(path, max_seq_length=60, normalize=False, device="cpu")
    np.testing.assert_allclose(
        encoder.transform([text]), model.encode([text]), atol=1e-6
    )
    assert not np.allclose(
        encoder.transform([text]), encoder.transform([words(60)[:100]]), atol=1e-3
    )


def test_an_own_limit_beyond_the_positions(bert_model, pairs, tmp_path):
    """Sentence Transformers raises an IndexError at the first long text."""
    shutil.copytree(bert_model, tmp_path / "base")
    path = own_limit(tmp_path / "base", 60)
    long = [words(n) for n in range(50, 60)]
    vectors = SentenceEncoder(path, device="cpu").transform(long)
    cut = SentenceEncoder(path, max_seq_length=POSITIONS, device="cpu")
    np.testing.assert_allclose(cut.transform(long), vectors)
    finetuner = EmbeddingFinetuner(path, epochs=1, random_state=0, device="cpu")
    finetuner.fit(pairs[0][:10], long)
    finetuner.save_pretrained(tmp_path / "saved")
    model = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(
        model.encode_document(long), finetuner.transform_documents(long), atol=1e-6
    )


def test_limits_of_routes_stay_as_they_are(bert_model, tmp_path):
    """One was given the limit of the other, and failed at the next long text."""
    other = tmp_path / "other"
    shutil.copytree(bert_model, other)
    routes = [
        list(SentenceTransformer(own_limit(other, limit), device="cpu"))
        for limit in (10, 32)
    ]
    router = Router.for_query_document(*routes)
    path = str(tmp_path / "router")
    SentenceTransformer(modules=[router], device="cpu").save_pretrained(
        path, create_model_card=False
    )
    texts = [words(30), words(31)]

    def vectors(**options):
        encoder = SentenceEncoder(path, max_store_bytes=0, device="cpu", **options)
        return encoder.transform(texts), encoder.transform_documents(texts)

    before = vectors()
    for options in ({"max_seq_length": 20}, {}):
        SentenceEncoder(path, device="cpu", **options).transform(texts)
        after = vectors()
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, other)
    message = f"positions for {POSITIONS} tokens"
    with pytest.raises(ValueError, match=message):
        vectors(max_seq_length=POSITIONS + 1)


def test_a_route_that_reads_whole_texts(bert_model, pairs, tmp_path):
    static = [StaticEmbedding(_word_tokenizer(), embedding_dim=32), Dense(32, 32)]
    tower = list(SentenceTransformer(bert_model, device="cpu"))
    router = Router.for_query_document(static, tower)
    path = str(tmp_path / "router")
    SentenceTransformer(modules=[router], device="cpu").save_pretrained(
        path, create_model_card=False
    )
    texts = [words(30), words(31)]
    whole, cut = (
        SentenceEncoder(path, max_seq_length=limit, device="cpu") for limit in (None, 8)
    )
    np.testing.assert_array_equal(whole.transform(texts), cut.transform(texts))
    assert not np.allclose(
        whole.transform_documents(texts), cut.transform_documents(texts)
    )
    finetuner = EmbeddingFinetuner(path, max_seq_length=8, epochs=1, device="cpu")
    finetuner.fit(*(values[:10] for values in pairs))
    assert finetuner.model_[0].sub_modules["document"][0].max_seq_length == 8


@pytest.mark.parametrize("truncate_dim", [None, 12])
def test_dimensions_that_a_model_is_saved_with(
    static_model, pairs, tmp_path, truncate_dim
):
    """None means all; an adapter was saved with those of its base behind it."""
    model = SentenceTransformer(static_model, truncate_dim=8, device="cpu")
    path = str(tmp_path / "base")
    model.save_pretrained(path, create_model_card=False)
    encoder = SentenceEncoder(path, truncate_dim=truncate_dim, device="cpu")
    adapter = AdapterFinetuner(encoder, epochs=1, random_state=0).fit(*pairs)
    adapter.save_pretrained(tmp_path / "saved")
    saved = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert adapter.embedding_dim_ == (truncate_dim or 16)
    np.testing.assert_allclose(
        saved.encode_query(pairs[0]), adapter.transform(pairs[0]), atol=1e-5
    )


def test_a_model_that_cannot_cut(static_model):
    for cls in (SentenceEncoder, EmbeddingFinetuner):
        with pytest.raises(ValueError, match="a StaticEmbedding reads the whole"):
            cls(static_model, max_seq_length=8).fit(["a", "b"], ["c", "d"]).transform(
                ["a"]
            )
