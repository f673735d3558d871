"""Parameters from numpy, as grids have them: every parameter of every class."""

import json
import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import skembft
from skembft import (
    AdapterFinetuner,
    APIEncoder,
    CorpusFinetuner,
    EmbeddingFinetuner,
    SentenceEncoder,
)

CLASSES = [
    AdapterFinetuner,
    APIEncoder,
    CorpusFinetuner,
    EmbeddingFinetuner,
    SentenceEncoder,
]
# for parameters whose default does not tell what they take
VALUES = {
    "n_iter_no_change": 3,
    "max_seq_length": 16,
    "truncate_dim": 8,
    "max_store_bytes": 1000,
    "random_state": 7,
    "gamma": 0.3,
    "layer_decay": 0.9,
    "validation_fraction": 0.25,
    "query_prompt": "query: ",
    "document_prompt": "passage: ",
    "device": "cpu",
    "cache_dir": "a directory",
    "model_output_path": "a directory",
    "learning_rate": 0.5,
    "trainable": 2,
    "loss_params": {"scale": 3.0},
    "adapter_params": {"rank": 3},
    "trainer_params": {"max_steps": 3, "max_grad_norm": 0.5},
    "trainable_params": {"r": 4, "target_modules": ["query", "key"]},
}
# of numpy what says the same
NUMPY = {
    bool: [np.bool_],
    int: [np.int64, np.uint32],
    float: [np.float64, np.float32],
    str: [np.str_],
}


def from_numpy(value):
    """All ways to say a value by numpy."""
    if isinstance(value, dict):
        deep = {k: next(iter(from_numpy(v)), v) for k, v in value.items()}
        return [deep]
    if isinstance(value, list):
        return [np.array(value), [np.str_(v) for v in value]]
    return [kind(value) for kind in NUMPY.get(type(value), [])]


def cases():
    for cls in CLASSES:
        for name, default in cls().get_params(deep=False).items():
            for value in dict.fromkeys(map(json.dumps, [default, VALUES.get(name)])):
                for variant in from_numpy(json.loads(value)):
                    label = f"{cls.__name__}-{name}-{type(variant).__name__}-{value}"
                    yield pytest.param(cls, name, variant, id=label)


@pytest.mark.parametrize("cls, name, value", cases())
def test_a_parameter_of_numpy_is_pythons(cls, name, value):
    plain = value if isinstance(value, dict | list) else value.item()
    made, changed = cls(**{name: value}), cls().set_params(**{name: value})
    for estimator in (made, changed, clone(made), pickle.loads(pickle.dumps(made))):
        found = estimator.get_params(deep=False)[name]
        assert "numpy" not in type(found).__module__
        assert json.loads(json.dumps(found)) == json.loads(
            json.dumps(plain, default=lambda v: v.tolist())
        )
        assert "np." not in repr(estimator)


def test_what_needs_no_change_is_kept_itself():
    """`clone` would refuse a constructor that changes what it is given."""
    params = {"scale": 3.0, "directions": ("query_to_doc",)}
    assert AdapterFinetuner(loss_params=params).loss_params is params
    rng = np.random.RandomState(0)
    assert AdapterFinetuner(random_state=rng).random_state is rng
    path = Path("somewhere")
    assert EmbeddingFinetuner(path, model_output_path=path).model_output_path is path


INTEGERS = {
    "batch_size": 4,
    "epochs": 1,
    "n_iter_no_change": 2,
    "evaluation_steps": 2,
    "gradient_accumulation_steps": 2,
    "checkpoint_save_steps": 2,
    "checkpoint_save_total_limit": 1,
    "truncate_dim": 8,
    "random_state": 0,
}


@pytest.mark.parametrize("repeated", [True, False])
def test_a_whole_fit_with_numbers_of_numpy(static_model, pairs, tmp_path, repeated):
    """On distinct documents the trainer's own sampler refused a batch size of numpy."""
    queries, documents = pairs
    if not repeated:
        documents = [f"{i} {d}" for i, d in enumerate(documents)]
    options = {
        "save_checkpoints": True,
        "learning_rate": 1e-3,
        "validation_fraction": 0.25,
        "scoring": "ndcg@10",
    } | INTEGERS
    finetuners = {}
    for kind in ("python", "numpy"):
        given = options
        if kind == "numpy":
            given = {k: np.array([v])[0] for k, v in options.items()}
        output = tmp_path / kind
        finetuner = EmbeddingFinetuner(
            static_model, model_output_path=output, **given
        ).fit(queries, documents)
        finetuner.save_pretrained(tmp_path / f"saved {kind}")
        skembft.dump(finetuner, tmp_path / f"{kind}.joblib")
        finetuners[kind] = finetuner.transform(queries).tobytes()
        loaded = skembft.load(tmp_path / f"saved {kind}")
        assert (
            loaded.get_params()
            == finetuner.set_params(model_output_path=None).get_params()
        )
    assert finetuners["python"] == finetuners["numpy"]
    # the checkpoints of one are those of the other
    names = [
        {path.name for path in (tmp_path / kind / "checkpoints").iterdir()}
        for kind in finetuners
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize("cls", [AdapterFinetuner, CorpusFinetuner])
@pytest.mark.filterwarnings("ignore")
def test_an_encoder_with_numbers_of_numpy_is_found_again(
    bert_model, pairs, tmp_path, cls
):
    options = {"max_seq_length": 16, "truncate_dim": 8, "normalize": False}
    options |= {"query_prompt": "query: ", "document_prompt": "passage: "}
    encoder = SentenceEncoder(
        bert_model, **{name: np.array([value])[0] for name, value in options.items()}
    )
    finetuner = cls(encoder, random_state=np.int64(0)).fit(*pairs)
    expected = finetuner.transform(pairs[0])
    finetuner.save_pretrained(tmp_path / "saved")
    skembft.dump(finetuner, tmp_path / "dumped")
    for again in (
        skembft.load(tmp_path / "saved"),
        joblib.load(tmp_path / "dumped"),
    ):
        np.testing.assert_array_equal(again.transform(pairs[0]), expected)


def test_the_winner_of_a_search_can_be_saved(bert_model, pairs, tmp_path):
    grid = {"max_seq_length": np.array([8, 16]), "batch_size": np.arange(4, 9, 4)}
    search = GridSearchCV(
        EmbeddingFinetuner(bert_model, epochs=1), grid, cv=2, error_score="raise"
    ).fit(*pairs)
    search.best_estimator_.save_pretrained(tmp_path / "best")
    skembft.dump(search, tmp_path / "search.joblib")
    best = skembft.load(tmp_path / "best")
    assert best.max_seq_length in (8, 16) and best.batch_size in (4, 8)
