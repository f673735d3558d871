"""score_pairs: what CrossEncoder.predict gives, as grades that fit learns from."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import CrossEncoder

from skembft import AdapterFinetuner, EmbeddingFinetuner
from skembft.encoders import _store
from skembft.mining import mine_hard_negatives, score_pairs
from tests.conftest import write_cross_encoder


@pytest.fixture
def scored(monkeypatch):
    """Every pair that enters a CrossEncoder, from an empty store."""
    _store._stores.clear()
    pairs = []
    preprocess = CrossEncoder.preprocess

    def counting(self, inputs, *args, **kwargs):
        pairs.extend(map(tuple, inputs))
        return preprocess(self, inputs, *args, **kwargs)

    monkeypatch.setattr(CrossEncoder, "preprocess", counting)
    return pairs


@pytest.fixture(scope="module")
def data(pairs):
    """Queries, each with its document and two of others that are judged."""
    queries, documents = pairs
    y = [
        {documents[i]: 1, documents[i - 1]: 0, documents[i - 2]: 0}
        for i in range(len(queries))
    ]
    return queries, y


@pytest.fixture
def in_order(data):
    """A teacher that agrees with the judgements: logits of both signs."""
    relevant = {(q, d) for q, row in zip(*data, strict=True) for d in row if row[d]}
    rng = np.random.RandomState(0)

    def teacher(pairs):
        noise = rng.uniform(-0.4, 0.4, len(pairs))
        return [
            2.0 * (pair in relevant) - 2.5 + x
            for pair, x in zip(pairs, noise, strict=True)
        ]

    return teacher


def differences(y):
    """Grades less that of the first document of each row."""
    return [[grade - [*row.values()][0] for grade in row.values()] for row in y]


WRONG_ORDER = pytest.mark.filterwarnings("ignore:The teacher scores")  # it is random


@WRONG_ORDER
@pytest.mark.parametrize("form", ["plain", "saved", "path", "object", "callable"])
def test_differences_are_those_of_the_cross_encoder(
    cross_encoder, data, tmp_path, form
):
    queries, y = data
    model = CrossEncoder(cross_encoder, device="cpu")
    teacher = {"path": Path(cross_encoder), "object": model, "callable": model.predict}
    if form == "saved":  # as Sentence Transformers has it, without its activation
        model = CrossEncoder(
            cross_encoder, device="cpu", activation_fn=torch.nn.Identity()
        )
        model.save_pretrained(str(tmp_path), create_model_card=False)
        teacher["saved"] = tmp_path
    graded = score_pairs(teacher.get(form, cross_encoder), queries, y)
    assert list(map(list, graded)) == list(map(list, y))
    listed = [(q, d) for q, row in zip(queries, y, strict=True) for d in row]
    expected = model.predict(listed).reshape(len(queries), 3)
    np.testing.assert_allclose(
        differences(graded), expected - expected[:, :1], atol=1e-5
    )
    assert np.ptp(expected) > (1 if form == "saved" else 0.2)


def test_zero_lies_below_what_is_relevant():
    scores = {"a": -3.0, "b": -4.5, "c": -5.0, "d": -9.0}
    teacher = lambda pairs: [scores[d] for _, d in pairs]  # noqa: E731
    queries = ["q1", "q2", "q3", "q4"]
    y = [
        {"d": 0, "a": 1, "b": 2, "c": 0},  # the lowest relevant is b
        {"c": 1, "d": -1},
        {"b": 1, "a": 1},  # nothing is below
        {"a": 0, "b": 0},  # nothing is relevant
    ]
    assert score_pairs(teacher, queries, y) == [
        {"a": 2.0, "b": 0.5, "c": 0.0, "d": -4.0},
        {"c": 4.0, "d": 0.0},
        {"b": 1.0, "a": 2.5},
        {"a": 0.0, "b": -1.5},
    ]


def test_rows_of_a_query_have_one_zero():
    scores = {"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0}
    asked = []

    def teacher(pairs):
        asked.extend(pairs)
        return np.array([[scores[d]] for _, d in pairs], dtype=np.float16)

    y = [["a"], ["b"], {"c": 0, "a": 0}, {"d": 0, "b": 1}]
    graded = score_pairs(teacher, ["q", "q", "q", "q"], y)
    assert graded == [{"a": 2.0}, {"b": 1.0}, {"c": 0.0, "a": 2.0}, {"b": 1, "d": -1}]
    assert sorted(asked) == [("q", d) for d in "abcd"]


@WRONG_ORDER
def test_every_form_of_data(data, cross_encoder):
    queries, y = data
    triplets = [(q, *row) for q, row in zip(queries, y, strict=True)]
    expected = score_pairs(cross_encoder, queries, y)
    assert score_pairs(cross_encoder, triplets) == expected
    columns = ["query", "document", "negative_1", "negative_2"]
    assert score_pairs(cross_encoder, pd.DataFrame(triplets, columns=columns)) == (
        expected
    )
    labelled = [(q, d) for q, row in zip(queries, y, strict=True) for d in row]
    labels = [grade for row in y for grade in row.values()]
    one_each = score_pairs(cross_encoder, labelled, labels)
    assert one_each == [{d: row[d]} for row in expected for d in row]


@WRONG_ORDER
def test_each_pair_is_scored_once(cross_encoder, data, scored):
    queries, y = data
    score_pairs(cross_encoder, queries * 2, y * 2, batch_size=7)
    assert len(scored) == len(set(scored)) == 3 * len(queries)
    score_pairs(cross_encoder, queries[::-1], y[::-1])
    assert len(scored) == 3 * len(queries)


@WRONG_ORDER
def test_mining_and_scoring_share_the_scores(
    cross_encoder, static_model, pairs, scored
):
    queries, documents = pairs
    options = {"n_negatives": 2, "range_max": 8}
    mined = mine_hard_negatives(
        static_model, queries, documents, cross_encoder=cross_encoder, **options
    )
    assert len(scored) == len(set(scored)) == (8 + 1) * len(queries)
    assert any(len(row) > 1 for row in mined)
    graded = score_pairs(cross_encoder, queries, mined)
    assert len(scored) == (8 + 1) * len(queries)
    for before, after in zip(mined, graded, strict=True):  # none was above it
        assert list(before) == list(after)
        assert [grade > 0 for grade in after.values()] == [
            grade > 0 for grade in before.values()
        ]


@WRONG_ORDER
def test_with_cache_dir_another_process_loads_no_model(
    cross_encoder, data, scored, tmp_path, monkeypatch
):
    graded = score_pairs(cross_encoder, *data, cache_dir=tmp_path / "cache")
    _store._stores.clear()
    monkeypatch.setattr("skembft._models.reranking.load_cross_encoder", None)
    again = score_pairs(cross_encoder, *data, cache_dir=tmp_path / "cache")
    assert again == graded


@WRONG_ORDER
@pytest.mark.parametrize("saved", [True, False])
def test_names_in_the_cache_of_the_hub(
    cross_encoder, data, scored, tmp_path, monkeypatch, saved
):
    """By Sentence Transformers, or by transformers, without modules.json."""
    revision = "0123456789" * 4
    repository = tmp_path / "hub" / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    snapshot = repository / "snapshots" / revision
    if saved:
        model = CrossEncoder(cross_encoder, device="cpu")
        model.save_pretrained(str(snapshot), create_model_card=False)
    else:
        shutil.copytree(cross_encoder, snapshot)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "hub"))
    graded = score_pairs("owner/tiny", *data, cache_dir=tmp_path / "cache")
    n_scored = len(scored)
    expected = score_pairs(cross_encoder, *data)
    np.testing.assert_allclose(differences(graded), differences(expected), atol=1e-5)
    _store._stores.clear()
    again = score_pairs("owner/tiny", *data, cache_dir=tmp_path / "cache")
    assert again == graded
    assert n_scored == 3 * len(data[0]) and len(scored) <= 2 * n_scored
    with pytest.raises(OSError, match="Could not load the model 'owner/other'"):
        score_pairs("owner/other", *data)


@WRONG_ORDER
def test_a_pair_is_two_texts(cross_encoder, scored):
    """Not what they are together, and not in any order."""
    for query, document in [("red1 old2", " wet3"), ("red1", " old2 wet3")]:
        score_pairs(cross_encoder, [query], [{document: 1, "shy1": 0}])
    score_pairs(cross_encoder, ["shy1"], [{"red1": 1, "red1 old2": 0}])
    assert len(scored) == len(set(scored)) == 6


@WRONG_ORDER
def test_a_changed_model_is_another(cross_encoder, bert_model, data, tmp_path, scored):
    queries, y = data
    teacher = shutil.copytree(cross_encoder, tmp_path / "teacher")
    cache = tmp_path / "cache"
    before = score_pairs(teacher, queries, y, cache_dir=cache)
    model = CrossEncoder(cross_encoder, device="cpu")
    with torch.no_grad():
        model.model.classifier.weight.mul_(-1)
    model.save_pretrained(str(teacher), create_model_card=False)
    after = score_pairs(teacher, queries, y, cache_dir=cache)
    assert len(scored) == 6 * len(queries)
    assert before != after


@WRONG_ORDER
def test_nothing_global_is_touched(cross_encoder, data, scored, capfd):
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    score_pairs(cross_encoder, *data)
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert capfd.readouterr().out == ""


@WRONG_ORDER
def test_texts_are_cut_where_the_positions_end(cross_encoder, tmp_path):
    """Also where the files of the tokenizer do not say so."""
    shutil.copytree(cross_encoder, tmp_path, dirs_exist_ok=True)
    settings = tmp_path / "tokenizer_config.json"
    kept = json.loads(settings.read_text())
    del kept["model_max_length"]
    settings.write_text(json.dumps(kept))
    long = " ".join(["red1", "old2"] * 50)
    graded = score_pairs(tmp_path, ["shy1"], [{long: 1, "wet3 big1": 0}])
    assert graded[0].keys() == {long, "wet3 big1"}


@pytest.mark.parametrize("loss", ["distill_kl_div", "margin_mse"])
@pytest.mark.filterwarnings("ignore:DistillKLDivLoss|Training did not help")
def test_both_finetuners_learn_the_differences(static_model, data, in_order, loss):
    """The same weights as from the scores themselves, where these are positive."""
    queries, y = data[0][:12], data[1][:12]
    logits = [
        dict(zip(row, in_order([(query, d) for d in row]), strict=True))
        for query, row in zip(queries, y, strict=True)
    ]
    assert all(score < 0 for row in logits for score in row.values())
    teacher = lambda pairs: [  # noqa: E731
        next(row[d] for row, x in zip(logits, queries, strict=True) if x == q)
        for q, d in pairs
    ]
    graded = score_pairs(teacher, queries, y)
    shifted = [{d: score + 10 for d, score in row.items()} for row in logits]
    options = {"loss": loss, "epochs": 1, "random_state": 0}
    adapters = [
        AdapterFinetuner(static_model, validation_fraction=None, **options)
        .fit(queries, scores)
        .weights_["query"]["weight"]
        for scores in (graded, shifted)
    ]
    np.testing.assert_allclose(*adapters, atol=1e-5)
    assert np.abs(adapters[0] - np.eye(len(adapters[0]))).max() > 1e-3
    whole = [
        EmbeddingFinetuner(static_model, **options).fit(queries, s).transform(queries)
        for s in (graded, shifted)
    ]
    np.testing.assert_allclose(*whole, atol=1e-4)


def test_what_is_relevant_stays_so_in_scores(static_model, data, in_order):
    queries, y = data
    adapter = AdapterFinetuner(static_model, scoring="recall@1", loss="margin_mse")
    graded = score_pairs(in_order, queries, y)
    adapter.set_params(epochs=1, validation_fraction=None).fit(queries, graded)
    assert adapter.score(queries, graded) == adapter.score(queries, y)


def test_from_plain_pairs_to_both_finetuners(static_model, pairs, cross_encoder):
    queries, documents = pairs
    mined = mine_hard_negatives(
        static_model, queries, documents, n_negatives=2, cross_encoder=cross_encoder
    )
    graded = score_pairs(cross_encoder, queries, mined)
    options = {"epochs": 1, "validation_fraction": None, "random_state": 0}
    for finetuner in (AdapterFinetuner, EmbeddingFinetuner):
        fitted = finetuner(static_model, loss="distill_kl_div", **options)
        assert fitted.fit(queries, graded).n_iter_ >= 1


def test_a_callable_may_know_the_texts_of_ids():
    teacher = lambda pairs: [-abs(q - d) for q, d in pairs]  # noqa: E731
    assert score_pairs(teacher, [1, 5], [{1: 1, 3: 0}, {6: 1, 8: 0}]) == [
        {1: 2.0, 3: 0.0},
        {6: 2.0, 8: 0.0},
    ]


def test_a_teacher_that_disagrees_is_told_of():
    scores = {"a": 0.3, "b": 0.7, "c": 0.1}
    teacher = lambda pairs: [scores[d] for _, d in pairs]  # noqa: E731
    with pytest.warns(UserWarning, match=r"1 document\(s\) .* first 0.7 .* 'b' .* 0.3"):
        graded = score_pairs(teacher, ["q"], [{"a": 1, "b": 0, "c": 0}])
    assert graded == [pytest.approx({"a": 0.2, "b": 0.6, "c": 0.0})]


def fixed(value):
    return lambda pairs: [value] * len(pairs)


@pytest.mark.parametrize(
    "teacher, options, error, message",
    [
        (fixed(1.0), {}, ValueError, "exactly the score of a relevant one, first 1 "),
        (fixed(np.nan), {}, ValueError, "NaN or infinite, first nan for the query 'q'"),
        (fixed(-np.inf), {}, ValueError, "NaN or infinite, first -inf"),
        (fixed("good"), {}, TypeError, "teacher must give numbers, got"),
        (fixed([0.2, 0.8]), {}, ValueError, r"shape \(2, 2\) for 2 pairs"),
        (lambda pairs: [1.0], {}, ValueError, r"shape \(1,\) for 2 pairs"),
        (3, {}, TypeError, "teacher must be the name or directory of a CrossEncoder"),
        (CrossEncoder, {}, TypeError, "an object with predict"),
        (fixed(1.0), {"cache_dir": "here"}, ValueError, "cache_dir needs a teacher by"),
        (fixed(1.0), {"batch_size": 0}, ValueError, "batch_size must be a positive"),
        (fixed(1.0), {"y": ["d"]}, ValueError, "No query has two documents"),
        (fixed(1.0), {"y": None}, ValueError, "score_pairs requires y to be passed"),
        ("no/such/model", {}, OSError, "CrossEncoder.save_pretrained wrote"),
        ("", {}, ValueError, "teacher is ''"),
    ],
)
def test_bad_input(teacher, options, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {"X": ["q"], "y": [{"d": 1, "e": 0}], **options}
    with pytest.raises(error, match=message):
        score_pairs(teacher, **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", ["static_model", "bert_model", "transformer"])
def test_a_model_without_a_trained_head_is_refused(model, bert_model, data, request):
    if model == "transformer":
        path = str(Path(bert_model).parent / "hf")
    else:
        path = request.getfixturevalue(model)
    with pytest.raises(OSError, match="no CrossEncoder: its files hold no head"):
        score_pairs(path, *data)
    with pytest.raises(OSError, match="no CrossEncoder"):
        mine_hard_negatives("nowhere", ["q"], ["d"], cross_encoder=path)


def test_damaged_directories_are_refused(cross_encoder, data, tmp_path):
    for name, message in [
        ("tokenizer.json", "Could not load the directory"),
        ("model.safetensors", "no file named"),
        ("config.json", "no CrossEncoder"),
    ]:
        path = shutil.copytree(cross_encoder, tmp_path / name)
        (path / name).unlink()
        with pytest.raises(OSError, match=message):
            score_pairs(path, *data)


def test_a_device_that_is_not_there(cross_encoder, data, scored):
    with pytest.raises(ValueError, match="device='nowhere' is not available"):
        score_pairs(cross_encoder, *data, device="nowhere")


def test_a_classifier_is_refused(bert_model, data, tmp_path, encoded_rows):
    path = write_cross_encoder(bert_model, tmp_path, 3)
    for teacher in (path, CrossEncoder(path, device="cpu")):
        with pytest.raises(ValueError, match="a classifier of 3 labels"):
            score_pairs(teacher, *data)
        with pytest.raises(ValueError, match="a classifier of 3 labels"):
            mine_hard_negatives(bert_model, *data, cross_encoder=teacher)
    assert not encoded_rows  # before anything was encoded


def test_ids_need_a_callable(cross_encoder):
    from skembft import PrecomputedEncoder

    index = PrecomputedEncoder({1: [1.0, 0.0], 2: [0.0, 1.0]})
    for teacher in (cross_encoder, CrossEncoder(cross_encoder, device="cpu")):
        with pytest.raises(TypeError, match=r"X\[0\] must be a str, got 1"):
            score_pairs(teacher, [1], [[1, 2]])
        with pytest.raises(ValueError, match="reads texts, and this encoder knows ids"):
            mine_hard_negatives(index, [1], [2], cross_encoder=teacher)
    by_id = mine_hard_negatives(index, [1], [2], cross_encoder=fixed(1.0))
    assert by_id == [{2: 1.0}]
