"""A query that is itself a document: never its own negative, left out on request."""

import itertools
import json
import warnings

import numpy as np
import pytest

import skembft
from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
)
from skembft._data.judgements import check_retrieval_data
from skembft.metrics import RetrievalScorer, evaluate
from skembft.mining import mine_hard_negatives

SIZE, N_GROUPS = 6, 24
TEXTS = [f"t{i}" for i in range(SIZE * N_GROUPS)]
OTHERS = [
    [t for t in TEXTS[i // SIZE * SIZE :][:SIZE] if t != text]
    for i, text in enumerate(TEXTS)
]
HALF = SIZE * N_GROUPS // 2
TRAIN, TEST = (TEXTS[:HALF], OTHERS[:HALF]), (TEXTS[HALF:], OTHERS[HALF:])


@pytest.fixture(scope="module")
def vectors():
    """Groups of paraphrases, of which every text answers the others."""
    rng = np.random.RandomState(0)
    centres = np.repeat(rng.normal(size=(N_GROUPS, 24)), SIZE, axis=0)
    return centres + 0.8 * rng.normal(size=centres.shape)


@pytest.fixture(scope="module")
def index(vectors):
    return PrecomputedEncoder((TEXTS, vectors))


@pytest.fixture(scope="module")
def by_id(vectors):
    """As ArguAna is: the document has a title, so that only ids tell."""
    documents = [f"title {text}" for text in TEXTS]
    encoder = PrecomputedEncoder((TEXTS, vectors), (documents, vectors + 0.01))
    relevant = [[f"title {text}" for text in others] for others in OTHERS]
    return encoder, relevant, documents, dict(zip(TEXTS, documents, strict=True))


# ---- training


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("use_all_docs", [True, False])
def test_no_derived_negative_is_the_query_itself(seed, use_all_docs):
    rng = np.random.RandomState(seed)
    own = rng.choice(40, 40, replace=False)
    documents = [f"d{i}" for i in range(40)]
    queries = [f"d{i}" for i in own[:20]] + [f"q{i}" for i in range(20)]
    relevant = [f"d{i}" for i in rng.randint(40, size=40)]
    data = check_retrieval_data(queries, relevant, kind="text", corpus=documents)
    place = {document: i for i, document in enumerate(data.documents)}
    expected = [place.get(query, -1) for query in data.queries]
    assert data.own_documents().tolist() == expected
    for part in (data, data.subset(np.arange(0, 40, 2))):
        own = part.own_documents()
        everyone = np.arange(part.n_queries)
        for _ in range(20):
            drawn = part.negatives(everyone, 3, rng)
            assert not (drawn == own[:, None]).any()
        query, document, label = part.labelled_pairs(use_all_docs, rng)
        negative = label == 0
        assert not (document[negative] == own[query[negative]]).any()
        masked = part.judged.known_places(everyone, np.arange(len(data.documents)))
        known = set(zip(*(part.tolist() for part in masked), strict=True))
        assert {(i, d) for i, d in enumerate(own.tolist()) if d >= 0} <= known


def test_a_judgement_of_the_user_stands():
    """A query whose own text is judged not relevant keeps it as its negative."""
    data = check_retrieval_data(["a"], [{"b": 1, "a": 0}], kind="text")
    assert data.negatives(np.array([0]), 1, np.random.RandomState(0)).tolist() == [[1]]


@pytest.mark.parametrize("negatives", ["batch", "random", "corpus", "hard"])
@pytest.mark.parametrize("side", ["query", "both"])
def test_adapters_do_not_push_texts_from_themselves(index, vectors, negatives, side):
    """By text or by name it is the same fit, and a better one than of strangers."""
    options = {"validation_fraction": None, "epochs": 30, "batch_size": HALF}
    options |= {"side": side, "random_state": 0}
    by_text = AdapterFinetuner(index, negatives=negatives, **options).fit(*TRAIN)
    renamed = [*TRAIN[0]], [[f"{d} again" for d in row] for row in TRAIN[1]]
    again = [f"{text} again" for text in TEXTS]
    other = PrecomputedEncoder((TEXTS, vectors), (again, vectors))
    own = dict(zip(TEXTS, again, strict=True))
    by_name = AdapterFinetuner(
        other, negatives=negatives, exclude_self=own, **options
    ).fit(*renamed)
    np.testing.assert_allclose(
        by_text.transform(TEXTS), by_name.transform(TEXTS), atol=1e-6
    )
    as_strangers = AdapterFinetuner(other, negatives=negatives, **options)
    as_strangers.fit(*renamed)
    scorer = RetrievalScorer("ndcg@10", corpus=TEXTS, exclude_self=True)
    strange = RetrievalScorer("ndcg@10", corpus=again, exclude_self=own)
    test = TEST[0], [[f"{d} again" for d in row] for row in TEST[1]]
    assert scorer(by_text, *TEST) > strange(as_strangers, *test) + 0.005


@pytest.mark.parametrize("rows", ["groups", "chains"])
def test_no_batch_of_a_model_holds_the_text_of_its_query(
    static_model, monkeypatch, rows
):
    from skembft._embedding import trainer

    plans = []

    def watched(examples, *args, **kwargs):
        plans.append((examples, plan(examples, *args, **kwargs)))
        return plans[-1][1]

    plan = trainer.plan_epochs
    monkeypatch.setattr(trainer, "plan_epochs", watched)
    X, y = TRAIN
    if rows == "chains":  # a document of one pair is the query of the next
        X, y = TEXTS[:40], TEXTS[1:41]
    EmbeddingFinetuner(static_model, use_all_docs=True, epochs=2, batch_size=8).fit(
        X, y
    )
    ((examples, epochs),) = plans
    own = examples.data.own_documents()
    assert (own >= 0).sum() >= 39
    for batch in itertools.chain(*epochs):
        documents = set(examples.documents[batch].ravel().tolist())
        assert documents.isdisjoint(own[examples.queries[batch]].tolist())


@pytest.mark.parametrize("corpus", ["y", "list", "iterator"])
def test_the_text_of_a_query_is_not_mined(index, vectors, by_id, corpus):
    pools = {"y": None, "list": TEXTS, "iterator": iter([TEXTS[:50], TEXTS[50:]])}
    mined = mine_hard_negatives(
        index, TEXTS[:10], [["t143"]] * 10, corpus=pools[corpus], relative_margin=0.0
    )
    assert not any(text in row for text, row in zip(TEXTS, mined, strict=False))
    # one that answers even better, so that the margin leaves the query's own in
    _, _, documents, own = by_id
    best = [f"best {text}" for text in TEXTS]
    names = [*documents, *best]
    encoder = PrecomputedEncoder(
        (TEXTS, vectors), (names, np.concatenate([vectors + 0.01, vectors]))
    )
    options = {"corpus": documents, "n_negatives": 50, "relative_margin": 0.0}
    y = best[:10]
    for exclude_self in (own, False):
        mined = mine_hard_negatives(
            encoder, TEXTS[:10], y, exclude_self=exclude_self, **options
        )
        found = [own[text] in row for text, row in zip(TEXTS, mined, strict=False)]
        assert any(found) == (exclude_self is False)


# ---- ranking


def make(cls, encoder, **options):
    if cls is CorpusFinetuner:
        return cls(encoder, gamma=0.1, validation_fraction=None, **options)
    return cls(encoder, epochs=1, validation_fraction=None, **options)


@pytest.mark.parametrize("cls", [AdapterFinetuner, CorpusFinetuner])
def test_one_rule_everywhere(by_id, cls):
    """BEIR's, by ids: trec_eval without the document that has the query's id."""
    encoder, relevant, documents, own = by_id
    finetuner = make(cls, encoder, exclude_self=own).fit(TRAIN[0], relevant[:HALF])
    X, y = TEST[0], relevant[HALF:]
    vectors = finetuner.transform(X), finetuner.transform_documents(documents)
    queries, pool = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors)
    run = {
        query: dict(zip(TEXTS, map(float, row), strict=True))
        for query, row in zip(X, queries @ pool.T, strict=True)
    }
    qrels = {q: dict.fromkeys(row, 1) for q, row in zip(*TEST, strict=True)}
    expected = evaluate(qrels, run, "ndcg@10", exclude_self=True)["ndcg@10"]
    assert expected > evaluate(qrels, run, "ndcg@10")["ndcg@10"] + 0.1
    score = pytest.approx(expected, abs=1e-9)
    assert finetuner.score(X, y, corpus=documents) == score
    scorer = RetrievalScorer("ndcg@10", corpus=documents)
    assert scorer(finetuner, X, y) == score
    plain = make(cls, encoder).fit(TRAIN[0], relevant[:HALF])
    given = RetrievalScorer("ndcg@10", corpus=documents, exclude_self=own)
    both = given(plain, X, y), given(encoder, X, y)
    assert both[1] > scorer(encoder, X, y) + 0.1
    assert both[0] > scorer(plain, X, y) + 0.1
    indices, _ = finetuner.retrieve(X, documents, k=10)
    for query, row in zip(X, indices, strict=True):
        ranked = sorted(run[query].items(), key=lambda item: -item[1])
        names = [text for text, _ in ranked if text != query][:10]
        assert [TEXTS[i] for i in row] == names


@pytest.mark.parametrize("method", ["nudge_n", "nudge_m"])
@pytest.mark.parametrize("metric", ["ndcg@10", "recall@144"])
def test_every_gamma_is_validated_by_the_rule(by_id, method, metric):
    encoder, relevant, documents, own = by_id
    train = TEXTS[::2], relevant[::2]
    held_out = TEXTS[1::2], relevant[1::2]
    options = {"method": method, "scoring": metric, "exclude_self": own}
    chosen = CorpusFinetuner(encoder, **options)
    chosen.fit(*train, X_val=held_out[0], y_val=held_out[1], corpus=documents)
    scorer = RetrievalScorer(metric, corpus=documents)
    for entry in chosen.history_[::6]:
        alone = CorpusFinetuner(
            encoder, gamma=entry["gamma"], validation_fraction=None, **options
        ).fit(*train, corpus=documents)
        assert entry[metric] == pytest.approx(scorer(alone, *held_out), abs=1e-9)


def test_validation_of_gradient_training(index, static_model):
    for cls, encoder in (AdapterFinetuner, index), (EmbeddingFinetuner, static_model):
        scores = {}
        for exclude_self in (False, True):
            finetuner = cls(encoder, epochs=1, exclude_self=exclude_self, refit=False)
            finetuner.set_params(learning_rate=1e-9)
            finetuner.fit(*TRAIN, X_val=TEST[0], y_val=TEST[1])
            scorer = RetrievalScorer("ndcg@10", corpus=TEXTS)
            score = scorer(finetuner, *TEST)
            assert finetuner.validation_score_ == pytest.approx(score, abs=1e-6)
            scores[exclude_self] = score
        assert scores[True] > 1.02 * scores[False]


@pytest.mark.parametrize("cls", [AdapterFinetuner, CorpusFinetuner])
def test_queries_that_find_themselves_are_told(index, cls):
    with pytest.warns(UserWarning, match="72 of the 72 queries are documents them"):
        make(cls, index).fit(*TRAIN)
    few = TRAIN[0][:6], [[text] for text in TRAIN[0][66:]]  # no query is a document
    alike = TRAIN[0], [[text] for text in TRAIN[0]]  # each is its own answer
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".* are documents themselves")
        for data in few, alike:
            make(cls, index).fit(*data)
        make(cls, index, exclude_self=True).fit(*TRAIN)


@pytest.mark.parametrize("cls", [AdapterFinetuner, CorpusFinetuner])
@pytest.mark.parametrize("of", [int, str])
@pytest.mark.parametrize("stacked", [False, True])
def test_numbers_of_two_tables_tell_nothing(vectors, cls, of, stacked):
    n, rng = len(vectors), np.random.RandomState(0)
    numbers = [of(i) for i in range(n)]
    order = rng.permutation(n)  # the document with the number of a query is another
    place = np.argsort(order)
    two = PrecomputedEncoder((numbers, vectors), (numbers, vectors[order] + 0.01))
    one = PrecomputedEncoder((numbers, vectors))
    relevant = [
        [i // SIZE * SIZE + j for j in range(SIZE) if j != i % SIZE] for i in range(n)
    ]
    of_two = [[of(place[j]) for j in row] for row in relevant]
    of_one = [[of(j) for j in row] for row in relevant]

    def fit(encoder, y):
        if stacked:
            encoder = AdapterFinetuner(encoder, epochs=1, exclude_self=True)
        make(cls, encoder).fit(numbers, y)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".* are documents themselves")
        fit(two, of_two)
    with pytest.warns(UserWarning, match="144 of the 144 queries are documents them"):
        fit(one, of_one)


def test_class_labels_leave_themselves_out(vectors):
    labels = np.repeat(np.arange(N_GROUPS), SIZE)
    finetuner = make(AdapterFinetuner, None).fit(vectors[:HALF], labels[:HALF])
    score = finetuner.score(vectors[HALF:], labels[HALF:])
    finetuner.set_params(exclude_self=True)
    assert finetuner.score(vectors[HALF:], labels[HALF:]) == score


def test_vectors_in_pairs_are_no_texts(vectors):
    finetuner = make(AdapterFinetuner, None, exclude_self=True)
    finetuner.fit(vectors, vectors)
    with pytest.raises(ValueError, match="compares texts or ids, and these are vec"):
        finetuner.score(vectors, vectors)


def test_a_rule_that_never_applies_is_told(by_id):
    encoder, relevant, documents, own = by_id
    scorer = RetrievalScorer("ndcg@10", corpus=documents, exclude_self=True)
    with pytest.warns(UserWarning, match="none of the 144 .*own_documents"):
        without = scorer(encoder, TEXTS, relevant)
    plain = RetrievalScorer("ndcg@10", corpus=documents, exclude_self=False)
    assert plain(encoder, TEXTS, relevant) == without


@pytest.mark.parametrize("value", ["yes", 1, None, ["t0"]])
def test_bad_values(index, value):
    with pytest.raises(ValueError, match="'exclude_self' parameter of AdapterFinetun"):
        make(AdapterFinetuner, index, exclude_self=value).fit(*TRAIN)


def test_texts_of_the_rule_are_not_in_a_saved_directory(static_model, tmp_path):
    own = {"a secret query": "a secret document"}
    finetuner = make(AdapterFinetuner, static_model, exclude_self=own)
    finetuner.fit(["a secret query", "b"], ["c", "d"]).save_pretrained(tmp_path / "m")
    for path in (tmp_path / "m").iterdir():
        if path.suffix in (".json", ".md"):
            assert "secret" not in path.read_text(encoding="utf-8"), path.name
    content = json.loads((tmp_path / "m" / "skembft.json").read_text(encoding="utf-8"))
    assert "exclude_self" in content["not_restored"]
    with pytest.warns(UserWarning, match="exclude_self"):
        assert skembft.load(tmp_path / "m").exclude_self is False


def test_only_bools_and_dicts_say_what_is_left_out():
    encoder = PrecomputedEncoder({"q": [1, 0.0], "a": [0.9, 0.3], "b": [0.6, 0.6]})
    data = {"X": ["q"], "y": ["a"]}
    for no, yes in (False, True), (np.False_, np.True_):
        scores = [
            RetrievalScorer("mrr@10", corpus=["q", "b"], exclude_self=x)(
                encoder, **data
            )
            for x in (no, yes)
        ]
        assert scores == [0.5, 1.0]
        rows = [
            skembft.inspection.compare_retrieval(
                encoder, encoder, **data, corpus=["q", "b"], metrics="mrr@10",
                exclude_self=x,
            ).rows[0]["before"]
            for x in (no, yes)
        ]  # fmt: skip
        assert rows == [0.5, 1.0]
    for wrong in (0, "no", ["q"]):
        with pytest.raises(TypeError, match="exclude_self must be a bool or a dict"):
            RetrievalScorer("mrr@10", exclude_self=wrong)
        with pytest.raises(TypeError, match="exclude_self must be"):
            mine_hard_negatives(encoder, **data, exclude_self=wrong)


@pytest.mark.parametrize("stored", [False, True])
def test_a_dict_that_names_no_document_leaves_the_same_text_out(stored):
    encoder = PrecomputedEncoder(
        {"q": [1, 0.0], "a": [0.9, 0.3], "b": [0.6, 0.6], "d1": [0.95, 0.2]}
    )
    for own in ({}, {"q": "gone"}, {"other": "a"}):
        scorer = RetrievalScorer("mrr@10", corpus=["q", "b"], exclude_self=own)
        assert scorer(encoder, ["q"], ["a"]) == 1.0
        [row] = mine_hard_negatives(
            encoder, ["q"], ["a"], corpus=["q", "b"], exclude_self=own,
            relative_margin=None,
        )  # fmt: skip
        assert row == {"a": 1.0, "b": 0.0}
    if not stored:
        return
    table = pytest.importorskip("pyarrow").table({"query": ["q"], "document": ["a"]})
    corpus = ["q", "b"]
    for own, found in ({"q": "gone"}, 1), ({"q": "b"}, 2), (False, 1):
        data = check_retrieval_data(
            table, None, kind="text", corpus=corpus, own=own, stored=True
        )
        assert data.judged.own.tolist() == [found]
