"""describe: counts by hand, and Sentence Transformers' own tokens."""

import shutil
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from skembft import (
    AdapterFinetuner,
    APIEncoder,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.datasets import describe

DESCRIBED = (
    ["old red", "wet", "old red", "shy and big dog", "cat"],
    [
        {"a b": 2, "c": 1, "a": 0},
        "a b c",
        ["a b", "d"],
        {"a b": 0, "c": -1},
        {"a": 1},
    ],
)


def test_description_by_hand():
    found = describe(*DESCRIBED, corpus=["a b", "e f g h", "i"])
    assert found.n_rows == 5
    assert found.n_queries == 4
    assert found.n_repeated_queries == 1
    assert found.n_queries_without_document == 1
    assert found.n_documents == 7  # a b, c, a, a b c, d, e f g h, i
    assert found.n_documents_without_query == 2
    assert found.n_judged_negatives == 3
    # a b, c and d; a b c; none; a
    assert found.relevant_per_query == {"min": 0, "median": 1, "mean": 1.25, "max": 3}
    assert found.length_unit == "words"
    assert found.query_lengths == {
        **{"min": 1, "median": 1.5, "max": 4},
        "95%": pytest.approx(np.percentile([2, 1, 4, 1], 95)),
    }
    assert found.document_lengths == {
        **{"min": 1, "median": 1, "max": 4},
        "95%": pytest.approx(np.percentile([2, 1, 1, 3, 1, 4, 1], 95)),
    }
    assert found.max_seq_length is None
    assert found.truncated_queries is None and found.truncated_documents is None
    assert repr(found).splitlines() == [
        "Retrieval data of 5 row(s)",
        "  queries: 4, of them 1 in several rows, 1 without a relevant document",
        "  documents: 7, of them 2 relevant to no query",
        "  relevant documents per query: min 0, median 1, mean 1.25, max 3",
        "  judged negatives: 3",
        "  words per query: min 1, median 1.5, 95% 3.7, max 4",
        "  words per document: min 1, median 1, 95% 3.7, max 4",
    ]


GRADES = st.dictionaries(
    st.integers(0, 6).map("document number {}".format),
    st.integers(-1, 2),
    min_size=1,
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcde"), GRADES), min_size=1, max_size=8))
def test_description_counts_distinct_pairs(rows):
    highest = {}
    for query, grades in rows:
        for document, grade in grades.items():
            pair = query, document
            highest[pair] = max(grade, highest.get(pair, grade))
    positive = {pair for pair, grade in highest.items() if grade > 0}
    n_relevant = [sum(q == query for q, _ in positive) for query in dict(rows)]
    found = describe(*map(list, zip(*rows, strict=True)))
    assert found.n_rows == len(rows)
    assert found.n_queries == len(n_relevant)
    times = Counter(query for query, _ in rows).values()
    assert found.n_repeated_queries == sum(count > 1 for count in times)
    assert found.n_queries_without_document == n_relevant.count(0)
    assert found.n_documents == len({document for _, document in highest})
    asked = {document for _, document in positive}
    assert found.n_documents_without_query == found.n_documents - len(asked)
    assert found.n_judged_negatives == len(highest) - len(positive)
    assert found.relevant_per_query == {
        "min": min(n_relevant),
        "median": np.median(n_relevant),
        "mean": pytest.approx(np.mean(n_relevant)),
        "max": max(n_relevant),
    }


def table(values):
    return {"query": values[0], "document": values[1], "negative": values[2]}


@pytest.mark.parametrize(
    "make", [pd.DataFrame, pl.DataFrame, datasets.Dataset.from_dict]
)
def test_description_of_tables(make):
    columns = ["one", "two", "two"], ["a b", "c", "a b"], ["c", "d", "e"]
    found = describe(make(table(columns)))
    assert found == describe(list(zip(*columns, strict=True)))
    assert (found.n_rows, found.n_queries, found.n_documents) == (3, 2, 4)
    assert found.n_judged_negatives == 3
    labelled = describe([("one", "a"), ("one", "b")], [1.0, 0.0])
    assert (labelled.n_judged_negatives, labelled.n_documents_without_query) == (1, 1)


def token_counts(path, texts, role, **prompts):
    """What Sentence Transformers itself makes of every text, one at a time."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(path, device="cpu")
    model.max_seq_length = 10**6
    prompt = prompts.get(f"{role}_prompt", "")
    return [
        int(model.preprocess([text], prompt=prompt)["attention_mask"].sum())
        for text in texts
    ]


def check_tokens(found, queries, documents, limit):
    for name, counts in (("query", queries), ("document", documents)):
        assert getattr(found, f"{name}_lengths") == {
            "min": min(counts),
            "median": np.median(counts),
            "95%": pytest.approx(np.percentile(counts, 95)),
            "max": max(counts),
        }
    assert found.length_unit == "tokens"
    assert found.max_seq_length == limit
    shares = found.truncated_queries, found.truncated_documents
    for share, counts in zip(shares, (queries, documents), strict=True):
        assert share == np.mean(np.array(counts) > limit)


def test_tokens_are_those_of_the_model(minilm):
    queries = ["Resetting unbelievable passwords!", "", "naïve " * 300, "x " * 254]
    documents = ["one two", "x " * 254, "x " * 255, "un-tokenizable " * 100]
    with pytest.warns(UserWarning, match="An empty string"):
        found = describe(queries, documents, corpus=documents[1:], encoder=minilm)
    # special tokens count: 254 words fit into 256 places, 255 do not
    check_tokens(
        found,
        token_counts(minilm, queries, "query"),
        token_counts(minilm, documents, "document"),
        256,
    )
    assert (found.truncated_queries, found.truncated_documents) == (1 / 4, 2 / 4)
    assert repr(found).splitlines()[-1] == (
        "  cut at 256 tokens: 25.0% of the queries, 50.0% of the documents"
    )


@pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")
def test_tokens_of_every_estimator_over_a_model(bert_model, pairs):
    queries, documents = pairs
    prompts = {"query_prompt": "find: ", "document_prompt": "this is "}
    expected = (
        token_counts(bert_model, queries, "query", **prompts),
        token_counts(bert_model, list(dict.fromkeys(documents)), "document", **prompts),
    )
    options = {**prompts, "max_seq_length": 5}
    encoder = SentenceEncoder(bert_model, **options)
    whole = EmbeddingFinetuner(bert_model, **options, epochs=1, random_state=0)
    adapter = AdapterFinetuner(encoder, epochs=1, random_state=0)
    for estimator in (
        encoder,
        whole,
        whole.fit(queries, documents),
        adapter,
        adapter.fit(queries, documents),
        AdapterFinetuner(adapter),
        CorpusFinetuner(encoder).fit(queries, documents),
        FrozenEstimator(adapter),
    ):
        check_tokens(describe(*pairs, encoder=estimator), *expected, 5)
    by_name = describe(*pairs, encoder=AdapterFinetuner(bert_model))
    assert by_name == describe(*pairs, encoder=Path(bert_model))
    assert by_name.max_seq_length == 32 and by_name.truncated_documents == 0


def test_fitted_finetuners_need_no_other_model(bert_model, pairs, tmp_path):
    path = shutil.copytree(bert_model, tmp_path / "model")
    expected = describe(*pairs, encoder=bert_model)
    whole = EmbeddingFinetuner(path, epochs=1, random_state=0)
    options = {"epochs": 1, "validation_fraction": None, "random_state": 0}
    adapter = AdapterFinetuner(clone(whole), **options).fit(*pairs)
    whole.fit(*pairs)
    shutil.rmtree(path)
    assert describe(*pairs, encoder=whole) == expected
    assert describe(*pairs, encoder=adapter) == expected


def test_tokens_of_a_model_without_a_limit(static_model, pairs):
    found = describe(*pairs, encoder=SentenceEncoder(static_model, query_prompt="old "))
    assert found.max_seq_length is None
    assert found.truncated_queries == found.truncated_documents == 0
    counts = [len(query.split()) for query in pairs[0]]
    assert found.query_lengths["max"] == max(counts) + 1
    assert "cut" not in repr(found)


@pytest.fixture
def cut_tokenizer():
    """A tokenizer whose file says to cut texts to 3 tokens, and to pad them to 9."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "red", "old", "wet"]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    return tokenizer


def test_a_limit_in_the_file_of_the_tokenizer(cut_tokenizer, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    path = str(tmp_path)
    module = StaticEmbedding(cut_tokenizer, embedding_dim=4)
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(
        path, create_model_card=False
    )
    found = describe(["old", "wet red"], ["red " * 5, "wet old red"], encoder=path)
    assert found.query_lengths["max"] == 2
    assert found.document_lengths["max"] == 5
    assert found.max_seq_length == 3
    assert (found.truncated_queries, found.truncated_documents) == (0, 0.5)
    encoder = SentenceEncoder(path)  # which truly cuts, also after it was described
    vectors = encoder.transform_documents(["red red red wet", "red"])
    np.testing.assert_allclose(*vectors, rtol=1e-6)


@pytest.mark.parametrize("kind", ["BertModel", "RobertaModel", "MPNetModel"])
def test_a_limit_of_positions(cut_tokenizer, tmp_path, kind):
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = getattr(transformers, kind.replace("Model", "Config"))(
        **sizes, vocab_size=5, intermediate_size=8, max_position_embeddings=12
    )
    getattr(transformers, kind)(config).save_pretrained(tmp_path / "hf")
    cut_tokenizer.no_truncation()
    cut_tokenizer.no_padding()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=cut_tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(tmp_path / "hf")
    transformer = Transformer(str(tmp_path / "hf"))
    transformer.max_seq_length = 1000
    model = SentenceTransformer(modules=[transformer, Pooling(8)], device="cpu")
    path = str(tmp_path / "st")
    model.save_pretrained(path, create_model_card=False)
    limit = 12 if kind == "BertModel" else 10  # two are of the padding
    documents = ["red " * limit, "red " * (limit + 1)]
    found = describe(["old", "wet"], documents, encoder=path)
    assert (found.max_seq_length, found.truncated_documents) == (limit, 0.5)
    encoder = SentenceEncoder(path, max_seq_length=limit)
    assert encoder.transform_documents(documents).shape == (2, 8)
    message = f"max_seq_length={limit + 1}, but the model has positions for {limit}"
    for estimator in (
        SentenceEncoder(path, max_seq_length=limit + 1),
        AdapterFinetuner(SentenceEncoder(path, max_seq_length=limit + 1)),
        EmbeddingFinetuner(path, max_seq_length=limit + 1),
    ):
        with pytest.raises(ValueError, match=message):
            describe(["old"], documents[:1], encoder=estimator)
    with pytest.raises(ValueError, match=message):
        EmbeddingFinetuner(path, max_seq_length=limit + 1).fit(["old"], ["wet"])
    with pytest.raises(ValueError, match=message):
        SentenceEncoder(path, max_seq_length=limit + 1).transform(["old"])


MODULE = """
import torch
from sentence_transformers.sentence_transformer.modules import InputModule

class Letters(InputModule):
    config_keys = []
    def preprocess(self, inputs, prompt=None, **kwargs):
        counts = [[float((prompt or "").count(c) + t.count(c)) for c in "abcd"]
                  for t in inputs]
        return {"counts": torch.tensor(counts)}
    def forward(self, features, **kwargs):
        features["sentence_embedding"] = features["counts"]
        return features
    def get_embedding_dimension(self):
        return 4
    def save(self, output_path, *args, **kwargs):
        self.save_config(output_path)
    @classmethod
    def load(cls, *args, **kwargs):
        return cls()
"""


def test_a_model_without_a_tokenizer(tmp_path):
    (tmp_path / "letters.py").write_text(MODULE)
    (tmp_path / "0_Letters").mkdir()
    (tmp_path / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "0_Letters", "type": "letters.Letters"}]'
    )
    (tmp_path / "0_Letters" / "config.json").write_text("{}")
    encoder = SentenceEncoder(
        str(tmp_path), trust_remote_code=True, normalize=False, device="cpu"
    )
    texts = ["abba", "cd", "d" * 7, "a"]
    found = encoder.transform_documents(texts)
    np.testing.assert_array_equal(found, [[t.count(c) for c in "abcd"] for t in texts])
    assert AdapterFinetuner(encoder, epochs=1).fit(texts, texts[::-1]).n_iter_ > 0
    with pytest.raises(ValueError, match="tokens of the model .* cannot be counted"):
        describe(texts, texts, encoder=encoder)


def test_texts_are_tokenized_in_portions(static_model, pairs, monkeypatch):
    expected = describe(*pairs, encoder=static_model)
    monkeypatch.setattr("skembft.datasets._describe._PORTION", 7)
    assert describe(*pairs, encoder=static_model) == expected


def test_describing_leaves_the_model_as_it_was(bert_model, pairs):
    queries, documents = pairs
    long = [" ".join([*queries[:12], "q"])]
    before = SentenceEncoder(bert_model, max_store_bytes=0).transform(long)
    describe(long, ["a"], encoder=bert_model)
    after = SentenceEncoder(bert_model, max_store_bytes=0).transform(long)
    np.testing.assert_array_equal(after, before)


def test_ids_have_no_lengths():
    index = PrecomputedEncoder({"q": [1.0, 0], "a": [1.0, 0], 3: [0, 1.0]})
    for encoder in (index, AdapterFinetuner(index)):
        found = describe(["q"], [["a", 3]], encoder=encoder)
        assert (
            found.length_unit is found.query_lengths is found.document_lengths is None
        )
        assert repr(found).splitlines()[-1] == "  judged negatives: 0"
    assert describe([1, 2], ["a", "b"]).length_unit is None
    assert describe(["a", "b"], ["a", "b"]).length_unit == "words"


@pytest.mark.parametrize(
    "encoder, message",
    [
        (APIEncoder(len), "tokens of APIEncoder cannot be counted.*encoder=None"),
        (AdapterFinetuner(APIEncoder(len)), "tokens of AdapterFinetuner cannot be"),
        (AdapterFinetuner(None), "describe takes texts or ids, and this encoder takes"),
    ],
)
def test_encoders_without_tokens(encoder, message):
    with pytest.raises(ValueError, match=message):
        describe(["q"], ["a"], encoder=encoder)


@pytest.mark.parametrize(
    "X, y, options, error, message",
    [
        (["q"], None, {}, ValueError, "requires y to be passed"),
        (["q"], [[]], {}, ValueError, r"y\[0\] is empty"),
        (["q"], ["a"], {"corpus": [None]}, TypeError, r"corpus\[0\] must be a str"),
        ([1], ["a"], {"encoder": "nowhere"}, TypeError, r"X\[0\] must be a str"),
        (["q"], ["a"], {"encoder": "./nowhere"}, OSError, "Could not load the model"),
    ],
)
def test_describing_bad_data(X, y, options, error, message):
    with pytest.raises(error, match=message):
        describe(X, y, **options)
