"""Models used, loaded and trained by several threads of a process, as in a server."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from skembft import EmbeddingFinetuner, SentenceEncoder

OPTIONS = {"learning_rate": 1e-3, "random_state": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def fitted(bert_model, pairs):
    few = [values[:10] for values in pairs]
    return EmbeddingFinetuner(bert_model, epochs=1, **OPTIONS).fit(*few)


@pytest.mark.parametrize("kind", ["finetuner", "encoder"])
def test_threads_get_the_vectors_of_one(fitted, bert_model, pairs, kind):
    """Tokenizers raise 'Already borrowed' where several threads use one."""
    estimator = fitted
    if kind == "encoder":  # nothing is kept, so that each call computes
        estimator = SentenceEncoder(bert_model, max_store_bytes=0, device="cpu")
    texts = [" ".join(pairs[1][i : i + 1 + i % 4]) for i in range(40)]
    expected = estimator.transform_documents(texts)

    def run(seed):
        rng = np.random.RandomState(seed)
        for _ in range(12):
            rows = rng.randint(len(texts), size=5)
            got = estimator.transform_documents([texts[row] for row in rows])
            np.testing.assert_allclose(got, expected[rows], atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(8)))


class LoadsMeanwhile:
    """Has another thread load a model during a fit, and gives it time."""

    def __init__(self, load):
        self.thread, self.waits = threading.Thread(target=load), 0

    def setup(self, **kwargs):
        pass

    def teardown(self, **kwargs):
        self.loaded_before_the_end = not self.thread.is_alive()
        self.thread.join()

    def on_fit_task_begin(self, estimator, context, **kwargs):
        pass

    def on_fit_task_end(self, estimator, context, **kwargs):
        if context.task_name != "epoch":
            return
        if self.thread.ident is None:
            self.thread.start()
        elif self.thread.is_alive() and self.waits < 100:
            self.waits += 1
            time.sleep(0.05)  # until it has come to where it waits for this fit


def test_a_fit_lets_others_load_models(bert_model, static_model, pairs):
    """And what these draw of random numbers is not missing in the fit."""
    options = {"epochs": 12, "batch_size": 10, **OPTIONS}
    few = [values[:10] for values in pairs]
    alone = EmbeddingFinetuner(bert_model, **options).fit(*few)
    before = torch.random.get_rng_state()

    def load():
        encoder = SentenceEncoder(static_model, truncate_dim=7, device="cpu")
        assert encoder.transform(["red1"]).shape == (1, 7)

    callback = LoadsMeanwhile(load)
    finetuner = EmbeddingFinetuner(bert_model, **options).set_callbacks(callback)
    finetuner.fit(*few)
    assert callback.loaded_before_the_end
    np.testing.assert_array_equal(finetuner.transform(few[0]), alone.transform(few[0]))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_fits_of_two_threads_are_those_of_one(bert_model, pairs):
    few = [values[:10] for values in pairs]

    def fit(seed):
        options = {**OPTIONS, "random_state": seed, "epochs": 3}
        return EmbeddingFinetuner(bert_model, **options).fit(*few).transform(few[0])

    expected = [fit(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for got, alone in zip(pool.map(fit, range(3)), expected, strict=True):
            np.testing.assert_array_equal(got, alone)
