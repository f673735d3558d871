"""APIEncoder: each text is paid for once, whatever the client and however it fails."""

import pickle
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold

from skembft import AdapterFinetuner, APIEncoder
from skembft.metrics import RetrievalScorer

pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")

TEXTS = [f"text {i}" for i in range(10)]


def vector(text, shift=0.0):
    return [float(len(text)) + shift, float(text[-1:] == "3"), 1.0]


class LangChain:
    """Has the methods of langchain_core's Embeddings; counts what it is paid for."""

    def __init__(self):
        self.paid = Counter()

    def embed_documents(self, texts):
        self.paid.update(("document", text) for text in texts)
        return [vector(text) for text in texts]

    def embed_query(self, text):
        self.paid["query", text] += 1
        return vector(text, shift=0.5)


class LlamaIndex:
    """Has the methods of llama_index's BaseEmbedding, which is a callable too."""

    def __init__(self):
        self.paid = Counter()

    def get_text_embedding_batch(self, texts, show_progress=False, **kwargs):
        self.paid.update(("document", text) for text in texts)
        return [vector(text) for text in texts]

    def get_query_embedding(self, query):
        self.paid["query", query] += 1
        return vector(query, shift=0.5)

    def __call__(self, nodes, **kwargs):
        raise AssertionError("takes nodes, not texts")


class Function:
    """A plain callable; fails with `error` after so many texts."""

    def __init__(self, fail_after=None):
        self.paid, self.calls, self.fail_after = Counter(), [], fail_after

    def __call__(self, texts):
        if self.fail_after is not None and len(self.paid) >= self.fail_after:
            raise TimeoutError("rate limit")
        self.calls.append(len(texts))
        self.paid.update(texts)
        return np.array([vector(text) for text in texts])


@pytest.mark.parametrize("make", [LangChain, LlamaIndex])
def test_clients_that_tell_queries_from_documents(make):
    client = make()
    encoder = APIEncoder(client, normalize=False, batch_size=4)
    for _ in range(2):
        queries = encoder.transform(TEXTS + TEXTS[:2])
        documents = encoder.transform_documents(TEXTS)
    expected = np.array([vector(t, shift=0.5) for t in TEXTS + TEXTS[:2]], np.float32)
    np.testing.assert_array_equal(queries, expected)
    np.testing.assert_array_equal(documents, np.float32([vector(t) for t in TEXTS]))
    assert queries.dtype == documents.dtype == np.float32
    roles = [(role, text) for role in ("query", "document") for text in TEXTS]
    assert client.paid == dict.fromkeys(roles, 1)


@pytest.mark.parametrize("name", ["__call__", "encode", "embed_documents"])
def test_one_method_for_both_is_paid_for_once(name):
    count = Function()
    client = count if name == "__call__" else SimpleNamespace(**{name: count})
    encoder = APIEncoder(client, batch_size=3).warm(TEXTS)
    np.testing.assert_array_equal(
        encoder.transform(TEXTS), encoder.transform_documents(TEXTS)
    )
    assert count.paid == dict.fromkeys(TEXTS, 1)
    assert count.calls == [3, 3, 3, 1]


def test_normalize_costs_nothing():
    client = Function()
    raw = APIEncoder(client, normalize=False).transform(TEXTS)
    unit = APIEncoder(client).transform(TEXTS)
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected, atol=1e-7)
    assert unit.dtype == np.float32
    assert max(client.paid.values()) == 1


def test_sentence_transformer_as_client(bert_model, pairs):
    model = SentenceTransformer(bert_model, device="cpu")
    model.prompts = {"query": "old1 ", "document": "wet1 "}
    encoder = APIEncoder(model, normalize=False)
    queries = encoder.transform(pairs[0])
    np.testing.assert_allclose(queries, model.encode_query(pairs[0]), atol=1e-6)
    documents = encoder.transform_documents(pairs[1])
    np.testing.assert_allclose(documents, model.encode_document(pairs[1]), atol=1e-6)
    assert clone(encoder).client is model


@pytest.mark.parametrize("on_disk", [False, True])
def test_batches_paid_for_survive_an_error(tmp_path, on_disk):
    options = {"batch_size": 2}
    if on_disk:
        options.update(cache_dir=tmp_path, model_name="m")
    client = Function(fail_after=6)
    encoder = APIEncoder(client, **options)
    with pytest.raises(TimeoutError, match="^rate limit$"):
        encoder.transform(TEXTS)
    client.fail_after = None
    if on_disk:  # another process
        again = APIEncoder(Function(), **options)
        forget_memory()
        again.transform(TEXTS)
        assert again.client.paid == dict.fromkeys(TEXTS[6:], 1)
    else:
        encoder.transform(TEXTS)
        assert client.paid == dict.fromkeys(TEXTS, 1)


def forget_memory():
    from skembft.encoders import _store

    _store._stores.clear()


@pytest.mark.parametrize("error", [TimeoutError, KeyboardInterrupt])
def test_single_queries_paid_for_survive_an_error(error):
    class Failing(LangChain):
        failed = False

        def embed_query(self, text):
            if text == TEXTS[5] and not self.failed:
                self.failed = True
                raise error("gone")
            return super().embed_query(text)

    encoder = APIEncoder(Failing())
    with pytest.raises(error, match="gone"):
        encoder.transform(TEXTS)
    encoder.transform(TEXTS)
    assert encoder.client.paid == {("query", text): 1 for text in TEXTS}


BAD_ANSWERS = {
    "4 vectors": lambda texts: np.ones((len(texts) - 1, 3)),
    "6 vectors": lambda texts: np.ones((len(texts) + 1, 3)),
    "no matrix of numbers": lambda texts: [[1.0] * (1 + i) for i in range(len(texts))],
    r"NaN or infinity \(in vector 2 of them\)": lambda texts: [
        [1.0, np.nan if i == 2 else 0.0] for i in range(len(texts))
    ],
    "NaN or infinity": lambda texts: np.full((len(texts), 2), 1e300),
    "no matrix of numbers ": lambda texts: [["a", "b"]] * len(texts),
    "no matrix of numbers  ": lambda texts: np.ones(len(texts)),
    "no matrix of numbers   ": lambda texts: np.ones((len(texts), 0)),
    "no matrix of numbers    ": lambda texts: [[None, 1.0]] * len(texts),
    "NoneType, not vectors": lambda texts: None,
    "vectors of 5 dimensions, but 3 before": lambda texts: np.ones((len(texts), 5)),
}


@pytest.mark.parametrize("message", BAD_ANSWERS)
def test_bad_answers_are_named_and_not_stored(message):
    class Strange(Function):
        bad = False

        def __call__(self, texts):
            if self.bad and len(self.calls) == 1:
                return BAD_ANSWERS[message](texts)
            return super().__call__(texts)

    client = Strange()
    client.bad = True
    encoder = APIEncoder(client, batch_size=5)
    expected = (
        f"The client Strange returned {message.strip()}.*batch of texts 5 to 9 of 10"
        ".*5 in number.*Nothing of this batch is stored"
    )
    with pytest.raises(ValueError, match=expected):
        encoder.transform_documents(TEXTS)
    client.bad = False
    encoder.transform_documents(TEXTS)
    assert client.paid == dict.fromkeys(TEXTS, 1)


@pytest.mark.parametrize("client", [None, "some-model", object(), LangChain])
def test_a_client_that_cannot_encode(client):
    message = "client is (NoneType|str|object|LangChain), which cannot encode texts"
    for use in (lambda e: e.transform(["a"]), lambda e: e.fit(), lambda e: e.clear()):
        with pytest.raises(ValueError, match=message):
            use(APIEncoder(client))


def test_a_cache_dir_needs_a_name(tmp_path):
    client = Function()
    with pytest.raises(ValueError, match="cache_dir=.* needs a model_name"):
        APIEncoder(client, cache_dir=tmp_path).transform(["a"])
    assert not client.paid


def test_cache_dir_is_shared_and_cleared(tmp_path):
    options = {"model_name": "small", "cache_dir": tmp_path}
    APIEncoder(Function(), **options).transform(TEXTS)
    forget_memory()
    free = APIEncoder(Function(), **options)
    assert free.get_feature_names_out().tolist() == [f"apiencoder{i}" for i in range(3)]
    free.transform(TEXTS)
    assert not free.client.paid
    other = APIEncoder(Function(), **{**options, "model_name": "large"})
    other.transform(TEXTS)
    assert other.client.paid == dict.fromkeys(TEXTS, 1)
    free.clear().transform(TEXTS)
    assert free.client.paid == dict.fromkeys(TEXTS, 1)
    other.transform(TEXTS)
    assert max(other.client.paid.values()) == 1


def test_the_dimension_is_unknown_before_the_first_text():
    encoder = APIEncoder(Function())
    with pytest.raises(ValueError, match="known once it has encoded a text"):
        encoder.get_feature_names_out()
    encoder.transform(["a"])
    assert len(encoder.get_feature_names_out()) == 3
    assert encoder.transform_documents([]).shape == (0, 3)


def test_clients_without_a_name_do_not_share():
    first, second = Function(), Function()
    APIEncoder(first).transform(TEXTS)
    APIEncoder(second).transform(TEXTS)
    assert first.paid == second.paid == dict.fromkeys(TEXTS, 1)
    named = [APIEncoder(Function(), model_name="shared by name") for _ in range(2)]
    for encoder in named:
        encoder.transform(TEXTS)
    assert named[0].client.paid and not named[1].client.paid


def test_a_search_pays_once_and_shares_the_client(pairs):
    queries, documents = pairs
    client = LangChain()
    client.lock = threading.Lock()  # could not be copied
    search = GridSearchCV(
        AdapterFinetuner(APIEncoder(client), epochs=1, learning_rate=1e-2),
        {"side": ["query", "both"]},
        scoring=RetrievalScorer("ndcg@10", corpus=documents),
        cv=KFold(2),
        error_score="raise",
    ).fit(queries, documents)
    assert search.best_estimator_.encoder_.client is client
    expected = {("query", q) for q in queries} | {("document", d) for d in documents}
    assert client.paid == dict.fromkeys(expected, 1)


def test_threads_pay_once():
    client = Function()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: APIEncoder(client).transform(TEXTS), range(8)))
    assert client.paid == dict.fromkeys(TEXTS, 1)


def test_pickles():
    encoder = APIEncoder(Function(), model_name="a pickled one")
    vectors = encoder.transform(TEXTS)
    again = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(again.transform(TEXTS), vectors)
    locked = LangChain()
    locked.lock = threading.Lock()
    with pytest.raises(TypeError, match="client LangChain of the APIEncoder cannot be"):
        pickle.dumps(APIEncoder(locked))


def test_an_adapter_notices_another_model_name(pairs):
    adapter = AdapterFinetuner(APIEncoder(Function(), model_name="v1"), epochs=1)
    adapter.fit(*pairs)
    restored = pickle.loads(pickle.dumps(adapter))
    np.testing.assert_array_equal(
        restored.transform(pairs[0]), adapter.transform(pairs[0])
    )
    adapter.encoder_.set_params(model_name="v2")
    with pytest.raises(ValueError, match=re.escape("have changed")):
        pickle.loads(pickle.dumps(adapter)).transform(pairs[0])


CALLS = Counter()


def counted(texts):
    CALLS.update(texts)
    return [vector(text) for text in texts]


def test_what_a_worker_unpickles_for_every_task_is_paid_for_once():
    """Each task brings a client of its own, and all mean the same vectors."""
    CALLS.clear()
    client = LangChain()
    sent = pickle.dumps(APIEncoder(client))
    arrived = [clone(pickle.loads(sent)) for _ in range(3)]
    arrived.append(pickle.loads(pickle.dumps(arrived[0])))
    for encoder in arrived:
        encoder.transform_documents(TEXTS)
    assert sum(sum(encoder.client.paid.values()) for encoder in arrived) == len(TEXTS)
    other = arrived[0].set_params(client=counted)  # another client, other vectors
    other.transform_documents(TEXTS)
    assert CALLS == Counter(TEXTS)
