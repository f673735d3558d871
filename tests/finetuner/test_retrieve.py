"""Retrieval from prepared vectors, and of labelled rows."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from skembft import AdapterFinetuner, CorpusFinetuner, EmbeddingFinetuner

pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")


def counted(monkeypatch, finetuner):
    """The numbers of documents that a finetuner makes vectors of, as it is used."""
    sizes, transform = [], finetuner.transform_documents
    monkeypatch.setattr(
        finetuner, "transform_documents", lambda D: sizes.append(len(D)) or transform(D)
    )
    return sizes


@pytest.mark.parametrize(
    "make",
    [
        lambda encoder: AdapterFinetuner(encoder, side="both", epochs=2),
        lambda encoder: CorpusFinetuner(encoder, gamma=0.1),
        lambda encoder: CorpusFinetuner(encoder, gamma=0.1, method="nudge_m"),
        lambda encoder: EmbeddingFinetuner(encoder, epochs=1),
        lambda encoder: AdapterFinetuner(
            encoder, adapter_params={"output_dim": 8}, side="both", epochs=1
        ),
    ],
)
def test_retrieve_from_prepared_vectors(
    make, static_model, pairs, monkeypatch, tmp_path
):
    queries, corpus = pairs
    finetuner = make(static_model).fit(queries, corpus)
    expected = finetuner.retrieve(queries, corpus, k=5)
    prepared = finetuner.transform_documents(corpus)
    np.save(tmp_path / "prepared.npy", prepared)
    mapped = np.load(tmp_path / "prepared.npy", mmap_mode="r")
    sizes = counted(monkeypatch, finetuner)
    for vectors in (
        prepared,
        mapped,
        np.float64(prepared),
        np.asfortranarray(prepared),
    ):
        for found, wanted in zip(
            finetuner.retrieve(queries, vectors, k=5), expected, strict=True
        ):
            np.testing.assert_array_equal(found, wanted)
    assert not sizes  # nothing is encoded or adapted again


def test_wrong_prepared_vectors(static_model, pairs):
    finetuner = AdapterFinetuner(static_model, epochs=1).fit(*pairs)
    prepared = finetuner.transform_documents(pairs[1])
    with pytest.raises(ValueError, match="of width 5, and those of"):
        finetuner.retrieve(pairs[0], prepared[:, :5])
    broken = prepared.copy()
    broken[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity, first in row 3"):
        finetuner.retrieve(pairs[0], broken)
    for own in (True, {pairs[0][0]: pairs[1][0]}):
        finetuner.set_params(exclude_self=own)
        with pytest.raises(ValueError, match="or set exclude_self=False"):
            finetuner.retrieve(pairs[0], prepared)
    for wrong in (prepared[0], prepared[None], np.ones((3, 16), dtype=int)):
        with pytest.raises(TypeError):
            finetuner.retrieve(pairs[0], wrong)


@pytest.mark.parametrize("side", ["query", "both"])
def test_held_out_rows_find_labelled_ones(side):
    """By the neighbours of scikit-learn and by `retrieve`, the same."""
    rng = np.random.RandomState(0)
    labels = rng.randint(3, size=300)
    X = np.c_[np.eye(3)[labels], rng.normal(size=(300, 9))]
    X_train, X_test, y_train, y_test = X[:200], X[200:], labels[:200], labels[200:]
    adapter = AdapterFinetuner(None, side=side, learning_rate=0.03, random_state=0)
    adapter.fit(X_train, y_train)
    nearest = KNeighborsClassifier(1, metric="cosine", algorithm="brute")
    nearest.fit(adapter.transform_documents(X_train), y_train)
    found, _ = adapter.retrieve(X_test, X_train, k=1)
    vectors = adapter.transform(X_test)
    np.testing.assert_array_equal(y_train[found[:, 0]], nearest.predict(vectors))
    untouched = KNeighborsClassifier(1, metric="cosine").fit(X_train, y_train)
    gain = nearest.score(vectors, y_test) - untouched.score(X_test, y_test)
    assert gain > 0.1
    with pytest.raises(ValueError, match=r"told by retrieve\(X, rows\)"):
        adapter.score(X_test, y_test, corpus=X_train)
