"""CorpusFinetuner: ranking by dot product, texts, pickles, bad input."""

import io
import pickle
import shutil
import warnings

import joblib
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils._param_validation import InvalidParameterError

from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.metrics import RetrievalScorer
from tests.corpus.toy import METHODS, fixed, unit

# ---- ranking by dot product


def test_nudge_m_ranks_by_dot_product_everywhere(toy):
    finetuner = fixed(toy.encoder, 0.6, method="nudge_m")
    finetuner.fit(toy.queries[:120], toy.relevant[:120], corpus=toy.documents)
    Q = finetuner.transform(toy.queries[120:]).astype(np.float64)
    D = finetuner.transform_documents(toy.documents).astype(np.float64)
    order = np.argsort(-Q @ D.T, axis=1)
    assert (order[:, :10] != np.argsort(-Q @ unit(D).T, axis=1)[:, :10]).any()
    indices, scores = finetuner.retrieve(toy.queries[120:], toy.documents, k=10)
    np.testing.assert_array_equal(indices, order[:, :10])
    expected = np.take_along_axis(Q @ D.T, indices, axis=1)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    relevant = [list(graded) for graded in toy.relevant[120:]]
    first = [
        next(n for n, j in enumerate(row) if f"d{j}" in names) + 1
        for row, names in zip(order, relevant, strict=True)
    ]
    mrr = np.mean(1 / np.asarray(first))
    data = toy.queries[120:], toy.relevant[120:]
    finetuner.scoring = "mrr@60"
    assert finetuner.score(*data, corpus=toy.documents) == pytest.approx(mrr)
    scorer = RetrievalScorer("mrr@60", corpus=toy.documents)
    identity = make_pipeline(FunctionTransformer(), finetuner)
    for estimator in (finetuner, FrozenEstimator(finetuner), identity):
        assert scorer(estimator, *data) == pytest.approx(mrr)
    search = GridSearchCV(
        fixed(toy.encoder, 0.6, method="nudge_m"), {"gamma": [0.6]}, scoring=scorer,
        cv=[(np.arange(120), np.arange(120, 160))], error_score="raise",
    ).fit(toy.queries, toy.relevant)  # fmt: skip
    assert search.best_score_ == pytest.approx(mrr)


def test_grid_over_method_and_gamma(toy):
    search = GridSearchCV(
        CorpusFinetuner(toy.encoder, validation_fraction=None),
        {"method": METHODS, "gamma": [0.0, 0.1, 0.3]},
        scoring=RetrievalScorer("ndcg@10", corpus=toy.documents),
        cv=KFold(3, shuffle=True, random_state=0),
        error_score="raise",
    ).fit(toy.queries, toy.relevant)
    scores = search.cv_results_["mean_test_score"].reshape(3, 2)  # gamma × method
    assert scores[0, 0] == scores[0, 1] and len(set(scores.ravel())) == 5
    assert search.best_params_["gamma"] > 0


# ---- texts, pickles, bad input


def test_texts_are_encoded_once(static_model, pairs, encoded_rows):
    queries, documents = pairs
    SentenceEncoder(static_model).clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        finetuner = CorpusFinetuner(static_model, random_state=0).fit(*pairs)
    finetuner.score(*pairs)
    assert encoded_rows == dict.fromkeys({*queries, *documents}, 1)
    frame = finetuner.set_output(transform="pandas").transform(queries)
    assert list(frame.columns) == [f"corpusfinetuner{i}" for i in range(16)]
    assert isinstance(finetuner.score(*pairs), float)


def test_pickle_holds_no_model_and_notices_another(static_model, pairs, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(static_model, path)
    finetuner = fixed(str(path), 0.3).fit(*pairs)
    joblib.dump(finetuner, tmp_path / "finetuner.joblib")
    loaded = joblib.load(tmp_path / "finetuner.joblib")
    for method in ("transform_documents", "transform"):
        np.testing.assert_array_equal(
            getattr(loaded, method)(pairs[1]), getattr(finetuner, method)(pairs[1])
        )
    assert loaded.score(*pairs) == finetuner.score(*pairs)
    dumped, modules = pickle.dumps(finetuner), set()

    class Finding(pickle.Unpickler):
        def find_class(self, module, name):
            modules.add(module.partition(".")[0])
            return super().find_class(module, name)

    Finding(io.BytesIO(dumped)).load()
    assert modules <= {"skembft", "numpy", "builtins", "_codecs", "copyreg"}
    assert hasattr(finetuner, "moved_vectors_")
    assert not hasattr(clone(finetuner), "moved_vectors_")
    model = SentenceTransformer(str(path), device="cpu")
    next(model.parameters()).data += 0.01
    model.save_pretrained(str(path), create_model_card=False)
    with pytest.raises(ValueError, match="not the one this CorpusFinetuner was fitted"):
        pickle.loads(dumped).transform_documents(pairs[1])


def test_ids_are_str_or_int(toy):
    encoder = PrecomputedEncoder(
        {1: [1.0, 0], "1": [0, 1.0]}, {1: [0.9, 0.4], "1": [0.9, 0.4], 2: [0, 1.0]}
    )
    finetuner = fixed(encoder, 0.1).fit([1, "1"], [1, 2])
    assert finetuner.moved_documents_ == [1]  # 2 is where its query is
    one, text = finetuner.transform_documents([1, "1"])
    assert one[1] < 0.4 and text.tolist() == np.float32([0.9, 0.4]).tolist()


class Unloadable:
    """An encoder that must not be asked."""

    def transform(self, X):
        raise AssertionError("encoded before the data were checked")

    transform_documents = transform


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"encoder": None}, InvalidParameterError, "PrecomputedEncoder"),
        ({"encoder": AdapterFinetuner(None)}, InvalidParameterError, "takes vectors"),
        ({"encoder": object()}, InvalidParameterError, "without transform"),
        ({"validation_fraction": None}, InvalidParameterError, "gamma=None is chosen"),
        ({"method": "nudge"}, InvalidParameterError, "nudge_n"),
        ({"gamma": -0.1}, InvalidParameterError, "gamma"),
        ({"gamma": np.nan}, InvalidParameterError, "gamma"),
        ({"gamma": np.inf}, InvalidParameterError, "gamma"),
        ({"gamma": "0.1"}, InvalidParameterError, "gamma"),
        ({"scoring": "ndgc@10"}, InvalidParameterError, "scoring.*ndcg"),
    ],
)
def test_bad_parameters(options, error, message):
    with pytest.raises(error, match=message):
        CorpusFinetuner(**{"encoder": Unloadable(), **options}).fit(
            ["a", "b"], ["c", "d"]
        )


@pytest.mark.parametrize(
    "X, y, message",
    [
        (["a"], ["b"], "gamma=None is chosen on held-out queries.*single query"),
        (["a", "b"], [{"c": 0}, {"c": -1}], "nothing to learn"),
        (["a", None], ["b", "c"], r"X\[1\]"),
        (["a", "b"], None, "CorpusFinetuner requires y"),
        (["a", "b"], ["c"], "1 items"),
    ],
)
def test_bad_data(X, y, message):
    with pytest.raises((ValueError, TypeError), match=message):
        CorpusFinetuner(Unloadable()).fit(X, y)


def test_vectors_that_are_not_finite_are_an_error(toy):
    class Broken(Unloadable):
        def transform(self, X):
            return np.full((len(X), 3), np.nan)

        transform_documents = transform

    with pytest.raises(ValueError, match="query vectors of the encoder contain NaN"):
        CorpusFinetuner(Broken()).fit(toy.queries, toy.relevant)


def test_what_works_on_cosines_refuses_nudge_m(toy):
    from skembft.mining import mine_hard_negatives

    inner = CorpusFinetuner(toy.encoder, method="nudge_m", random_state=0)
    fitted = clone(inner).fit(toy.queries, toy.relevant)
    for cls in (AdapterFinetuner, CorpusFinetuner):
        for encoder in (inner, FrozenEstimator(fitted)):
            with pytest.raises(ValueError, match="use method='nudge_n'"):
                cls(encoder).fit(toy.queries, toy.relevant)
    with pytest.raises(ValueError, match="ranks by dot product"):
        mine_hard_negatives(fitted, toy.queries, toy.relevant)
