"""Wrong arguments of constructors are named in fit, before anything is loaded."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

from skembft import AdapterFinetuner, EmbeddingFinetuner, SentenceEncoder
from tests.finetuner.bad_input import ALL, CLASSES, MISSING, both

WRONG = {
    "batch_size": [0, -1, 2.5, "8", None],
    "epochs": [0, -3, 1.5, None],
    "learning_rate": [0, -1e-3, "1e-3", None, np.nan],
    "weight_decay": [-0.1, "0", None],
    "warmup_ratio": [-0.1, 1.1, None],
    "loss": [3, None],
    "loss_params": [["scale"], "scale", 3],
    "negatives": ["hardest", None, 3],
    "use_all_docs": ["yes", None, 2],
    "scoring": [3, None, ["ndcg@10"]],
    "validation_fraction": [0, 1, 1.5, -0.1, "0.1"],
    "n_iter_no_change": [0, 2.5, "3"],
    "evaluation_steps": [-1, 2.5, None],
    "refit": ["yes", None],
    "random_state": ["seed", 1.5],
}
WRONG_MODEL = {
    "normalize": ["yes", None],
    "precision": ["bf16", None],
    "max_seq_length": [0, 2.5, "9"],
    "truncate_dim": [0, 2.5],
    "trust_remote_code": ["yes", None],
    "device": [0],
    "query_prompt": [3, ["query: "]],
    "document_prompt": [3],
}
WRONG_ADAPTER = {
    "adapter": ["linaer", None, 3],
    "adapter_params": [["bias"], "bias"],
    "side": ["document", None],
}


def wrong(table):
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize(
    "cls, name, value",
    [(cls, *case) for cls in CLASSES for case in wrong(WRONG)]
    + [(EmbeddingFinetuner, *case) for case in wrong(WRONG_MODEL)]
    + [(AdapterFinetuner, *case) for case in wrong(WRONG_ADAPTER)],
)
def test_wrong_constructor_arguments(cls, name, value):
    estimator = cls(MISSING, **{name: value})  # checked in fit, as in scikit-learn
    with pytest.raises(
        InvalidParameterError, match=f"'{name}' parameter of {cls.__name__}"
    ):
        estimator.fit(["a", "b"], ["c", "d"])


@pytest.mark.parametrize(
    "name, value", [*wrong(WRONG_MODEL), ("backend", "tf"), ("max_store_bytes", -1)]
)
def test_wrong_arguments_of_the_encoder(name, value):
    encoder = SentenceEncoder(MISSING, **{name: value})
    message = f"'{name}' parameter of SentenceEncoder"
    with pytest.raises(InvalidParameterError, match=message):
        encoder.fit()
    with pytest.raises(InvalidParameterError, match=message):
        encoder.transform(["a"])


@pytest.mark.parametrize("value", [3, None, ["model"]])
def test_wrong_model_id(value):
    for cls in (EmbeddingFinetuner, SentenceEncoder):
        with pytest.raises(InvalidParameterError, match="'model_id' parameter of"):
            cls(value).fit(["a", "b"], ["c", "d"])


@pytest.mark.parametrize("value", [3, ["model"], object(), {"a": [1.0]}])
def test_wrong_encoder(value):
    message = (
        f"encoder is a {type(value).__name__} without transform and .*pass the name"
    )
    with pytest.raises(InvalidParameterError, match=message):
        AdapterFinetuner(value).fit(["a", "b"], ["c", "d"])


def test_unknown_arguments_are_python_errors():
    for cls in ALL:
        with pytest.raises(TypeError, match="unexpected keyword argument 'lr'"):
            cls(MISSING, lr=1)
        with pytest.raises(ValueError, match="Invalid parameter 'lr'"):
            cls(MISSING).set_params(lr=1)


def test_unknown_adapter_params():
    estimator = AdapterFinetuner(MISSING, adapter_params={"baas": True})
    with pytest.raises(InvalidParameterError, match="'baas' .*Did you mean 'bias'"):
        estimator.fit(["a", "b"], ["c", "d"])


@both
@pytest.mark.parametrize(
    "metric, message",
    [
        ("ndgc@10", r"Unknown metric 'ndgc@10'\. Did you mean 'ndcg@10'"),
        ("accuracy", "Unknown metric 'accuracy'.*Valid names: 'ndcg@10'"),
        ("ndcg", "'ndcg' needs a cut-off"),
        ("recall@0", "'recall@0' needs a cut-off, a positive whole number"),
    ],
)
def test_unknown_scoring(cls, metric, message):
    with pytest.raises(InvalidParameterError, match=message):
        cls(MISSING, scoring=metric).fit(["a", "b"], ["c", "d"])


@both
def test_not_fitted(cls):
    estimator = cls(MISSING)
    for use in (
        lambda: estimator.transform(["a"]),
        lambda: estimator.transform_documents(["a"]),
        lambda: estimator.score(["a"], ["b"]),
        lambda: estimator.retrieve(["a"], ["b"]),
    ):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            use()
