"""scikit-learn's own contract: estimator checks, clone, parameters, representation."""

import inspect
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from sklearn.utils.validation import validate_data

import skembft
from skembft import (
    AdapterFinetuner,
    APIEncoder,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)

pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")

PUBLIC = [
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    APIEncoder,
    PrecomputedEncoder,
    SentenceEncoder,
]

# checks that make no numeric data, run by name on the classes that take texts
DATA_FREE = [
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_param_validation",
    "check_get_feature_names_out_error",
    "check_estimators_unfitted",
    "check_transformers_unfitted",
]
# checks that scikit-learn has but does not yield
NOT_YIELDED = [
    "check_param_validation",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_dataframe_column_names_consistency",
    "check_inplace_ensure_writeable",
]


@parametrize_with_checks([AdapterFinetuner(encoder=None)])
def test_sklearn_checks(estimator, check):
    check(estimator)


def test_sklearn_checks_are_executed():
    """None is skipped or expected to fail: the number of executed checks holds."""
    results = check_estimator(AdapterFinetuner(encoder=None, epochs=3), on_fail=None)
    passed = [r["check_name"] for r in results if r["status"] == "passed"]
    others = [
        (r["check_name"], r["status"], str(r["exception"]))
        for r in results
        if r["status"] != "passed"
    ]
    assert not others
    assert len(passed) >= 48


@pytest.mark.parametrize("name", NOT_YIELDED)
def test_sklearn_checks_that_are_not_yielded(name):
    check = getattr(estimator_checks, name)
    check("AdapterFinetuner", AdapterFinetuner(encoder=None, epochs=3))


@pytest.mark.parametrize("name", DATA_FREE)
@pytest.mark.parametrize("cls", PUBLIC[:3])
def test_data_free_checks_on_text_classes(cls, name):
    check = getattr(estimator_checks, name)
    check(cls.__name__, cls())


@pytest.mark.parametrize("name", DATA_FREE[:-3])  # encoders need no fit
@pytest.mark.parametrize("cls", [APIEncoder, SentenceEncoder, PrecomputedEncoder])
def test_data_free_checks_on_encoders(cls, name):
    getattr(estimator_checks, name)(cls.__name__, cls())


class NumericEmbeddingFinetuner(EmbeddingFinetuner):
    """Rows of numbers become texts: drives EmbeddingFinetuner through all checks."""

    _parameter_constraints = EmbeddingFinetuner._parameter_constraints

    @staticmethod
    def _texts(X):
        return [" ".join(f"big{int(10 * v) % 12}" for v in row) for row in X]

    @staticmethod
    def _documents(y):
        return [f"red{label % 12}" for label in np.unique(y, return_inverse=True)[1]]

    def _read(self, X, y, corpus, *, reset=False, **options):
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        X = validate_data(self, X, reset=reset)
        if len(X) == 1:
            raise ValueError("1 sample")
        y = np.asarray(y)
        if len(y) != len(X):
            raise ValueError("X and y differ in length")
        return super()._read(self._texts(X), self._documents(y), corpus)

    def transform(self, X):
        if not self.__sklearn_is_fitted__():
            return super().transform(["text"])
        X = validate_data(self, X, reset=False)
        return super().transform(self._texts(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = False
        tags.input_tags.string = False
        tags.target_tags.required = True
        return tags


def test_sklearn_checks_on_a_numeric_subclass(static_model):
    """fit, transform, score, pickle and clone of EmbeddingFinetuner, on numbers."""
    from sklearn.utils.estimator_checks import _yield_all_checks

    estimator = NumericEmbeddingFinetuner(
        static_model, epochs=1, batch_size=64, random_state=0
    )
    skipped = {
        "check_parameters_default_constructible",  # its default model is on the hub
        # batches are random: a row of weight 2 trains as two rows only on average
        "check_sample_weight_equivalence_on_dense_data",
    }
    executed = 0
    for check in _yield_all_checks(estimator, legacy=True):
        name = getattr(check, "func", check).__name__
        if name in skipped or name.startswith("check_array_api"):
            continue
        check(type(estimator).__name__, clone(estimator))
        executed += 1
    assert executed >= 44


@pytest.mark.parametrize("cls", PUBLIC)
def test_constructor_arguments_are_documented_scalars(cls):
    """Defaults are scalars, and the docstring lists every argument with its default."""
    parameters = inspect.signature(cls.__init__).parameters
    for name, parameter in list(parameters.items())[1:]:
        assert isinstance(parameter.default, str | int | float | bool | None), name
        assert f"{name} :" in cls.__doc__ or f"{name}, " in cls.__doc__, name
    keyword_only = [p for p in list(parameters.values())[2:]]
    if cls is not PrecomputedEncoder:
        assert all(p.kind is p.KEYWORD_ONLY for p in keyword_only)
    if hasattr(cls, "_parameter_constraints"):
        assert set(cls._parameter_constraints) == set(cls().get_params(deep=False))


@pytest.mark.parametrize("cls", PUBLIC)
def test_html_representation_links_to_the_documentation(cls):
    html = cls()._repr_html_()
    assert cls.__name__ in html
    if cls is not PrecomputedEncoder:
        assert f"api.html#skembft.{cls.__name__}" in html


def test_clone_of_precomputed_encoder_shares_its_vectors():
    vectors = {f"d{i}": np.eye(4)[i % 4] for i in range(100)}
    encoder = PrecomputedEncoder(vectors)
    assert clone(encoder).queries is vectors
    adapter = AdapterFinetuner(encoder)
    assert clone(adapter).encoder.queries is vectors
    assert len(repr(adapter)) < 120
    again = pickle.loads(pickle.dumps(encoder))
    assert again.transform(["d1"]).tolist() == [[0, 1, 0, 0]]


def test_import_does_not_load_torch():
    """`import skembft` costs little: torch comes when it is first needed."""
    code = (
        "import sys, skembft, skembft.metrics, skembft.datasets;"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules;"
        "from skembft import AdapterFinetuner; AdapterFinetuner().get_params()"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert time.perf_counter() - start < 60  # a hub was not waited for
    assert skembft.__version__


def test_set_output_and_feature_names(static_model, pairs):
    queries, documents = pairs
    finetuner = AdapterFinetuner(static_model, epochs=1).fit(queries, documents)
    frame = finetuner.set_output(transform="pandas").transform(queries)
    names = [f"adapterfinetuner{i}" for i in range(16)]
    assert list(frame.columns) == names == list(finetuner.get_feature_names_out())
    assert isinstance(finetuner.score(queries, documents), float)
    frame = finetuner.set_output(transform="polars").transform(queries)
    assert frame.columns == names


@pytest.mark.parametrize("cls", PUBLIC)
def test_representations_load_no_model_and_raise_nothing(cls):
    """`dir` and the HTML representation read every property of an estimator."""
    wrong = {"loss": "no such loss"} if "loss" in cls().get_params() else {}
    estimator = cls().set_params(**wrong)
    assert dir(estimator) and repr(estimator) and estimator._repr_html_()
