"""mine_hard_negatives finds what that of Sentence Transformers does."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import util

from skembft import PrecomputedEncoder
from skembft.mining import mine_hard_negatives

N_QUERIES, N_DOCUMENTS = 20, 120
QUERIES = [f"q{i}" for i in range(N_QUERIES)]
DOCUMENTS = [f"d{i}" for i in range(N_DOCUMENTS)]


@pytest.fixture(scope="module")
def vectors():
    """Of document i, i + 20 and i + 40 each is near query i, and seldom the nearest."""
    rng = np.random.RandomState(0)
    queries = rng.normal(size=(N_QUERIES, 5)).astype(np.float32)
    documents = rng.normal(size=(N_DOCUMENTS, 5)).astype(np.float32)
    for start in (0, 20, 40):
        noise = rng.normal(scale=0.5, size=queries.shape)
        documents[start : start + N_QUERIES] = queries + noise
    return queries, documents


@pytest.fixture(scope="module")
def index(vectors):
    return PrecomputedEncoder((QUERIES, vectors[0]), (DOCUMENTS, vectors[1]))


class Model:
    """Looks vectors up, as far as the library needs a SentenceTransformer."""

    device = "cpu"
    similarity = staticmethod(util.cos_sim)
    similarity_pairwise = staticmethod(util.pairwise_cos_sim)

    def __init__(self, vectors):
        self.vectors = dict(zip(QUERIES + DOCUMENTS, np.vstack(vectors), strict=True))

    def encode_query(self, ids, **options):
        return np.array([self.vectors[i] for i in ids])

    encode_document = encode_query


class CrossEncoder:
    """Scores pairs by a matrix, and remembers them."""

    def __init__(self, scores):
        self.scores, self.asked = scores, []

    def give(self, pairs):
        self.asked += pairs
        return [self.scores[int(q[1:]), int(d[1:])] for q, d in pairs]

    def predict(self, pairs, **options):
        return torch.tensor(self.give(pairs))


@pytest.fixture(scope="module")
def scores(vectors):
    """Logits, of both signs: what is near, and some noise."""
    rng = np.random.RandomState(1)
    near = util.cos_sim(*map(torch.from_numpy, vectors)).numpy()
    return 4 * near - 1 + rng.normal(scale=0.5, size=near.shape).astype(np.float32)


def library(vectors, relevant, options, corpus=DOCUMENTS):
    """{query: its negatives, hardest first}"""
    pairs = [(q, d) for q, own in zip(QUERIES, relevant, strict=True) for d in own]
    columns = zip(*pairs, strict=True)
    data = Dataset.from_dict(dict(zip(("q", "d"), columns, strict=True)))
    options = {"relative_margin": None, "verbose": False, **options}
    if "n_negatives" in options:
        options["num_negatives"] = options.pop("n_negatives")
    mined = util.mine_hard_negatives(data, Model(vectors), corpus=corpus, **options)
    found = {query: {} for query in QUERIES}
    for query, negative in zip(mined["q"], mined["negative"], strict=True):
        found[query][negative] = 0.0
    return [list(found[query]) for query in QUERIES]


def ours(index, relevant, options, corpus=DOCUMENTS):
    options = {"relative_margin": None, **options}
    y = mine_hard_negatives(index, QUERIES, relevant, corpus=corpus, **options)
    return [[d for d, grade in graded.items() if grade == 0] for graded in y]


WINDOWS = {
    "ranks": {"range_min": 4, "range_max": 30, "n_negatives": 6},
    "as many ranks as negatives": {"range_min": 2, "range_max": 7, "n_negatives": 5},
    "relative": {"relative_margin": 0.1, "range_max": 40, "n_negatives": 4},
    "absolute": {"absolute_margin": 0.2, "range_max": 40, "n_negatives": 4},
    "both": {"absolute_margin": 0.05, "relative_margin": 0.1, "range_max": 40},
    "absolute margin of 0": {"absolute_margin": 0.0, "n_negatives": 3},
    "ranks behind a margin": {"range_min": 3, "range_max": 30, "absolute_margin": 0.1},
    "maximum": {"max_score": 0.6, "range_max": 60, "n_negatives": 5},
    "minimum": {"min_score": 0.5, "range_max": 30, "n_negatives": 20},
    "a band": {"min_score": 0.2, "max_score": 0.5, "range_max": 60, "range_min": 1},
    "hardly anything is left": {"min_score": 0.97, "range_max": 20},
    "no window at all": {"n_negatives": 7},
    "more than there are": {"range_max": 500, "n_negatives": 200},
    "ranks beyond all": {"range_min": 110, "range_max": 300},
}
ONE = [[f"d{i}"] for i in range(N_QUERIES)]
THREE = [[f"d{i}", f"d{i + 20}", f"d{i + 40}"] for i in range(N_QUERIES)]


def parts_of(corpus):
    """In another order, and with documents that come twice."""
    return iter([corpus[80:], corpus[30:90], corpus[:40]])


@pytest.mark.parametrize("form", ["list", "iterator"])
@pytest.mark.parametrize("name", WINDOWS)
def test_windows_bounds_and_margins(vectors, index, name, form):
    options = {"n_negatives": 5, **WINDOWS[name]}
    corpus = DOCUMENTS if form == "list" else parts_of(DOCUMENTS)
    expected = library(vectors, ONE, options)
    assert ours(index, ONE, options, corpus) == expected
    assert any(expected)


@pytest.mark.parametrize("name", ["ranks", "maximum", "minimum", "a band"])
def test_every_known_positive_is_left_out(vectors, index, name):
    options = {"n_negatives": 5, **WINDOWS[name]}
    assert ours(index, THREE, options) == library(vectors, THREE, options)


@pytest.mark.parametrize("name", ["ranks", "absolute", "ranks behind a margin"])
def test_own_documents_are_as_positives(vectors, index, name):
    """To the library a query's own document is one more that is not mined."""
    queries, documents = vectors
    documents = documents.copy()
    documents[60:80] = queries  # of a cosine of 1, so that the margins stay
    index = PrecomputedEncoder((QUERIES, queries), (DOCUMENTS, documents))
    relevant = [[*own, f"d{i + 60}"] for i, own in enumerate(ONE)]
    own = {query: f"d{i + 60}" for i, query in enumerate(QUERIES)}
    options = {"n_negatives": 5, **WINDOWS[name]}
    expected = library((queries, documents), relevant, options)
    assert ours(index, ONE, {**options, "exclude_self": own}) == expected
    parts = parts_of(DOCUMENTS)
    assert ours(index, ONE, {**options, "exclude_self": own}, parts) == expected


@pytest.mark.parametrize("relevant", [ONE, THREE], ids=["one", "three"])
@pytest.mark.parametrize("form", ["list", "iterator"])
@pytest.mark.parametrize(
    "options",
    [
        {"relative_margin": 0.1},
        {"absolute_margin": 0.3},
        {"absolute_margin": 0.2, "range_min": 2, "n_negatives": 3},
        {"max_score": 0.5},
        {"min_score": -0.5, "max_score": 2.0, "range_min": 1},
    ],
    ids=str,
)
def test_a_cross_encoder_scores_again(vectors, index, scores, relevant, form, options):
    # all are candidates: the library takes as many more as there are positives
    options = {"n_negatives": 5, "range_max": N_DOCUMENTS, **options}
    theirs, teacher = CrossEncoder(scores), CrossEncoder(scores)
    expected = library(vectors, relevant, {**options, "cross_encoder": theirs})
    corpus = DOCUMENTS if form == "list" else parts_of(DOCUMENTS)
    found = ours(index, relevant, {**options, "cross_encoder": teacher.give}, corpus)
    assert found == expected and any(found)
    assert len(teacher.asked) == len(set(teacher.asked)) == N_QUERIES * N_DOCUMENTS


def test_a_cross_encoder_scores_a_window(index, scores):
    teacher = CrossEncoder(scores)
    options = {"cross_encoder": teacher.give, "n_negatives": 2, "range_min": 3}
    found = ours(index, ONE, options)
    assert len(set(teacher.asked)) == len(teacher.asked) == N_QUERIES * (23 + 1)
    window = ours(index, ONE, {"range_max": 23, "n_negatives": 23})
    for row, candidates, negatives in zip(scores, window, found, strict=True):
        ranked = sorted(candidates, key=lambda d, row=row: -row[int(d[1:])])
        assert negatives == ranked[3:5]


def test_random_negatives_are_drawn_from_the_window(index):
    options = {"range_min": 2, "range_max": 12, "absolute_margin": 0.1}
    window = ours(index, ONE, {**options, "n_negatives": 10})
    options |= {"n_negatives": 3, "sampling_strategy": "random"}
    drawn = [ours(index, ONE, {**options, "random_state": i}) for i in range(60)]
    for i, allowed in enumerate(window):
        samples = [found[i] for found in drawn]
        assert set().union(*samples) == set(allowed)  # each comes up
        for sample in samples:
            assert len(sample) == min(3, len(allowed))
            assert sample == [d for d in allowed if d in sample]  # hardest first


def global_state():
    return np.random.get_state()[1].copy()  # noqa: NPY002


def test_draws_depend_on_the_seed_alone(index):
    options = {"sampling_strategy": "random", "n_negatives": 3, "random_state": 0}
    before = global_state(), torch.random.get_rng_state()
    expected = ours(index, ONE, options)
    assert ours(index, ONE, options) == expected
    assert ours(index, ONE, options, DOCUMENTS[::-1]) == expected
    assert ours(index, ONE, options, parts_of(DOCUMENTS)) == expected
    state = {**options, "random_state": np.random.RandomState(0)}
    assert ours(index, ONE, state) == expected
    assert ours(index, ONE, state) != expected  # it has moved on
    unseeded = {**options, "random_state": None}
    assert ours(index, ONE, unseeded) != ours(index, ONE, unseeded)
    assert (global_state() == before[0]).all()
    assert torch.equal(torch.random.get_rng_state(), before[1])


def test_without_a_window_the_hardest_are_drawn_from(index):
    options = {"relative_margin": 0.1, "n_negatives": 2}
    hardest = ours(index, ONE, {**options, "n_negatives": 20})
    options["sampling_strategy"] = "random"
    drawn = [ours(index, ONE, {**options, "random_state": i}) for i in range(80)]
    for i, allowed in enumerate(hardest):
        assert len(allowed) == 20
        assert set().union(*(found[i] for found in drawn)) == set(allowed)


def test_ids_of_both_types_are_drawn_from():
    rng = np.random.RandomState(0)
    ids = [*range(20), *(str(i) for i in range(20))]
    encoder = PrecomputedEncoder((ids, rng.normal(size=(40, 3))))
    options = {"sampling_strategy": "random", "relative_margin": None}
    mined, again = [
        mine_hard_negatives(
            encoder, [0, "1"], [1, "2"], corpus=corpus, random_state=0, **options
        )
        for corpus in (ids, iter([ids[30:], ids[:30]]))
    ]
    assert mined == again
    assert all(len(graded) == 6 for graded in mined)
