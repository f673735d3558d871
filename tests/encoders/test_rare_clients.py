"""Uses of clients and stores that are rare, each of which once went wrong."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from skembft import (
    AdapterFinetuner,
    APIEncoder,
    CorpusFinetuner,
    EmbeddingFinetuner,
    SentenceEncoder,
)
from skembft.encoders import _store
from skembft.encoders._shards import ShardFolder, digests_of

pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")


def letters(texts, width=26):
    counts = [[text.count(chr(97 + i)) for i in range(width)] for text in texts]
    return np.array(counts, dtype=np.float32) + 0.01


class Client:
    def __init__(self):
        self.width, self.n_texts = 26, 0

    def embed(self, texts):
        self.n_texts += len(texts)
        return letters(texts, self.width)


def test_many_clients_are_each_paid_once(pairs):
    clients = [Client() for _ in range(40)]
    for _ in range(2):
        for number, client in enumerate(clients):
            APIEncoder(client.embed, model_name=f"m{number}").transform(pairs[0])
    assert {client.n_texts for client in clients} == {len(pairs[0])}


def test_the_oldest_vectors_go_first(pairs, monkeypatch):
    size = 26 * 4 * len(pairs[0])
    monkeypatch.setattr(_store, "_MAX_BYTES", 30 * size)
    clients = [Client() for _ in range(60)]
    encoders = [APIEncoder(c.embed, model_name=f"o{i}") for i, c in enumerate(clients)]
    for encoder in encoders:
        encoder.transform(pairs[0])
    for encoder in reversed(encoders):
        encoder.transform(pairs[0])
    again = [client.n_texts > len(pairs[0]) for client in clients]
    assert not any(again[-20:]) and all(again[:20])


def test_a_method_is_the_same_client_each_time(pairs):
    client, other = Client(), Client()
    for _ in range(2):
        AdapterFinetuner(APIEncoder(client.embed), epochs=1).fit(*pairs)
    assert client.n_texts == len({*pairs[0], *pairs[1]})
    APIEncoder(other.embed).transform(pairs[0])
    assert other.n_texts == len(pairs[0])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_client_s_own_error_reaches_the_user(error):
    class OneByOne:
        n_asked = 0

        def embed_documents(self, texts):
            raise AssertionError

        def embed_query(self, text):
            self.n_asked += 1
            if self.n_asked == 3:
                raise error
            return [np.nan, 1.0]

    with pytest.raises(error):
        APIEncoder(OneByOne(), model_name="bad").transform(["a", "b", "c", "d"])


@pytest.mark.parametrize("side", ["query", "both", "separate"])
def test_another_width_than_in_the_fit(pairs, side):
    client = Client()

    def changed(finetuner):
        finetuner = finetuner.fit(*pairs)
        client.width = 5
        finetuner.encoder_.clear()
        return finetuner

    encoder = APIEncoder(client.embed, model_name=f"changing {side}")
    for make in (
        lambda: AdapterFinetuner(encoder, side=side, epochs=1),
        lambda: CorpusFinetuner(encoder, gamma=0.1, validation_fraction=None),
    ):
        client.width = 26
        encoder.clear()
        finetuner = changed(make())
        for use in (
            lambda f=finetuner: f.transform(pairs[0]),
            lambda f=finetuner: f.transform_documents(pairs[1]),
            lambda f=finetuner: f.score(*pairs),
            lambda f=finetuner: f.retrieve(pairs[0][:2], pairs[1]),
        ):
            with pytest.raises(ValueError, match=r"5 dimensions, and .* fit.* 26"):
                use()


class Tfidf:
    def __init__(self, kind):
        self.kind = kind

    def get_params(self, deep=True):
        return {"kind": self.kind}

    def transform(self, X):
        return self.kind(letters(X))

    transform_documents = transform


def test_sparse_and_object_vectors(pairs):
    with pytest.raises(TypeError, match=r"sparse matrix of query items.*\.toarray\(\)"):
        AdapterFinetuner(Tfidf(sparse.csr_array), epochs=1).fit(*pairs)
    objects = AdapterFinetuner(Tfidf(lambda v: v.astype(object)), epochs=1)
    plain = AdapterFinetuner(Tfidf(np.asarray), epochs=1)
    for each in (objects, plain):
        each.set_params(random_state=0, validation_fraction=None).fit(*pairs)
    expected = plain.transform(pairs[0])
    np.testing.assert_array_equal(objects.transform(pairs[0]), expected)


@pytest.mark.parametrize("value", [None, 3, np.nan, "\ud800", "elsewhere"])
def test_own_documents_that_are_none(static_model, pairs, value):
    pa = pytest.importorskip("pyarrow")
    own = {pairs[0][0]: value}
    table = pa.table({"query": pairs[0], "document": pairs[1]})
    options = {"epochs": 1, "random_state": 0, "device": "cpu", "exclude_self": own}
    expected = EmbeddingFinetuner(static_model, **options).fit(*pairs)
    found = EmbeddingFinetuner(static_model, **options).fit(table)
    vectors = expected.transform(pairs[0])
    np.testing.assert_array_equal(found.transform(pairs[0]), vectors)


def test_an_own_document_that_is_a_list(static_model, pairs):
    own = {pairs[0][0]: [pairs[1][0]]}
    table = pd.DataFrame({"query": pairs[0], "document": pairs[1]})
    encoder = SentenceEncoder(static_model, device="cpu")
    for data in (pairs, (table,)):
        with pytest.raises(TypeError, match=r"exclude_self\['.*'\] must be a document"):
            AdapterFinetuner(encoder, exclude_self=own).fit(*data)


def test_locks_that_cannot_be_are_told_once(static_model, tmp_path, monkeypatch):
    from filelock import FileLock

    def refuse(self, *args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    texts = [f"red{i}" for i in range(2000)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        SentenceEncoder(static_model, cache_dir=tmp_path, device="cpu").warm(texts)
    told = [str(w.message) for w in caught if "cannot be locked" in str(w.message)]
    assert len(told) == 1


def test_shards_of_two_widths_are_merged_apart(tmp_path):
    folder = ShardFolder(str(tmp_path))
    for i in range(60):
        width = 16 if i % 2 else 5
        digests = digests_of([f"text {i}"])
        ShardFolder(str(tmp_path)).publish(digests, np.full((1, width), i, np.float32))
    folder.tidy()
    widths = {shard.width for shard in folder.shards.values()}
    assert widths == {5, 16} and len(folder.shards) < 60
