"""The guarantee of ``threshold(coverage=…)``, over many draws of queries."""

import numpy as np
import pytest

from skembft import PrecomputedEncoder
from skembft.calibration import RelevanceCalibrator
from skembft.calibration._thresholds import conformal_cutoff


def beta_error(n, rank, n_new):
    """Standard error of the coverage of one draw of n queries, on n_new others."""
    share = rank / (n + 1)
    return np.sqrt(share * (1 - share) * (1 / (n + 2) + 1 / n_new))


@pytest.mark.parametrize("n", [19, 50, 211])
@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_coverage_over_a_thousand_draws(n, coverage):
    rng = np.random.default_rng(0)
    n_new, rank = 200, int(np.ceil(round((n + 1) * coverage, 9)))
    found = []
    for _ in range(1000):
        scores = rng.gamma(2.0, size=n + n_new)  # any distribution will do
        found.append((scores[n:] >= conformal_cutoff(scores[:n], coverage, 10)).mean())
    error = beta_error(n, rank, n_new) / np.sqrt(1000)
    assert abs(np.mean(found) - rank / (n + 1)) < 4 * error
    assert coverage <= rank / (n + 1) <= coverage + 1 / (n + 1)


@pytest.mark.parametrize("levels", [2, 5, 20])
def test_ties_only_add_coverage(levels):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(1000):
        scores = rng.integers(levels, size=60 + 100).astype(float)
        found.append((scores[60:] >= conformal_cutoff(scores[:60], 0.8, 10)).mean())
    assert np.mean(found) > 0.8 - 4 * beta_error(60, 49, 100) / np.sqrt(1000)


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_coverage_of_what_is_retrieved(method):
    rng = np.random.RandomState(0)
    n, n_new, coverage = 59, 100, 0.7  # 0.7 * 60 is 42
    names, found = np.arange(n + n_new), []
    for _ in range(60):
        documents = rng.normal(size=(n + n_new, 8))
        queries = documents + 0.7 * rng.normal(size=documents.shape)
        index = PrecomputedEncoder((names, queries), (names, documents))
        calibrator = RelevanceCalibrator(index, method=method, k=40)
        calibrator.fit(names[:n], names[:n], corpus=names)
        threshold = calibrator.threshold(coverage=coverage)
        indices, _ = calibrator.retrieve(names[n:], names, threshold=threshold)
        found.append((indices == names[n:, None]).any(axis=1).mean())
    error = beta_error(n, 42, n_new) / np.sqrt(60)
    assert np.mean(found) > coverage - 4 * error
    if method == "sigmoid":  # which has no ties
        assert np.mean(found) < coverage + 4 * error


def test_any_of_several_answers_counts():
    rng = np.random.RandomState(0)
    names = np.arange(200)
    documents = rng.normal(size=(200, 8))
    queries = documents + 0.7 * rng.normal(size=documents.shape)
    index = PrecomputedEncoder((names, queries), (names, documents))
    y = [[i, (i + 1) % 200] for i in names.tolist()]
    calibrator = RelevanceCalibrator(index, k=200).fit(names, y)
    vectors = index.transform(names), index.transform_documents(names)
    queries, documents = (v / np.linalg.norm(v, axis=1)[:, None] for v in vectors)
    scores = queries @ documents.T
    best = np.maximum(scores[names, names], scores[names, (names + 1) % 200])
    np.testing.assert_allclose(calibrator.answer_scores_, best, atol=1e-6)
    threshold = calibrator.threshold(coverage=0.9)
    _, probabilities = calibrator.retrieve(names, names)
    relevant, flat = calibrator.judge(names, y)
    passing = (relevant.reshape(200, 200) & (flat.reshape(200, 200) >= threshold)).any(
        1
    )
    assert passing.sum() == 181  # ceil(201 * 0.9)


@pytest.mark.parametrize(
    "n, coverage, needed", [(8, 0.9, 9), (98, 0.99, 99), (18, 0.95, 19), (1, 0.6, 2)]
)
def test_too_few_queries(n, coverage, needed):
    scores = np.arange(float(needed))
    with pytest.raises(ValueError, match=f"at least {needed} .* there are {n}: ") as e:
        conformal_cutoff(scores[:n], coverage, 10)
    assert conformal_cutoff(scores, coverage, 10) == 0  # the lowest of them
    highest = float(str(e.value).split(" is ")[-1].rstrip("."))
    assert conformal_cutoff(scores[:n], highest, 10) == 0


def test_answers_that_are_not_retrieved():
    scores = np.concatenate([np.arange(1.0, 71.0), np.full(30, -np.inf)])
    with pytest.raises(ValueError, match="70 of the 100 .* among their 10 best") as e:
        conformal_cutoff(scores, 0.8, 10)
    assert "the highest coverage is 0.693." in str(e.value)
    assert conformal_cutoff(scores, 0.693, 10) == 1


def test_rounding_of_floats_costs_no_query():
    # (n + 1) * coverage is a whole number, and its float may be just above it
    for n in range(9, 400):
        for coverage in (0.55, 0.57, 0.7, 0.8, 0.9, 0.95):
            exact = (n + 1) * round(100 * coverage)
            rank = -(-exact // 100)
            if rank <= n:
                cutoff = conformal_cutoff(np.arange(float(n)), coverage, 10)
                assert cutoff == n - rank


@pytest.mark.parametrize("width", [256, 384, 768])
def test_queries_that_equal_their_answers(width):
    """Most scores are 1 but for rounding, which the cut-off must not fall into."""
    n, n_new, coverage = 9, 100, 0.9
    in_batch, alone = [], []
    for seed in range(6):
        rng = np.random.RandomState(seed)
        documents = rng.normal(size=(300, width))
        answers = rng.randint(300, size=n + n_new)
        far = rng.random(n + n_new) < 0.05
        noise = rng.normal(size=(n + n_new, width)) * far[:, None]
        names, queries = np.arange(300), np.arange(1000, 1000 + n + n_new)
        index = PrecomputedEncoder(
            (queries, documents[answers] + noise), (names, documents)
        )
        calibrator = RelevanceCalibrator(index, k=5)
        calibrator.fit(queries[:n], answers[:n], corpus=names)
        threshold = calibrator.threshold(coverage=coverage)

        def found(queries, answers, calibrator=calibrator, names=names, at=threshold):
            indices, _ = calibrator.retrieve(queries, names, threshold=at)
            return (indices == answers[:, None]).any(axis=1)

        in_batch.append(found(queries[n:], answers[n:]))
        alone += [
            found(queries[i : i + 1], answers[i : i + 1]) for i in range(n, n + 20)
        ]
    # all that equal their answers pass, 95 % of them
    assert np.mean(in_batch) > 0.9
    assert np.mean(alone) > 0.9
