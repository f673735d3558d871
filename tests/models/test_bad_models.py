"""Models that cannot be loaded."""

import re
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer
from sklearn.utils._param_validation import InvalidParameterError

from skembft import SentenceEncoder
from tests.finetuner.bad_input import ALL, CLASSES, MISSING


@pytest.fixture
def model_instance(static_model):
    return SentenceTransformer(static_model, device="cpu")


def test_a_model_instance_is_to_be_saved_first(model_instance):
    message = r"(?s)SentenceTransformer .*model\.save_pretrained\('path'\).*'path'"
    for cls in ALL:
        with pytest.raises(TypeError, match=message):
            cls(model_instance).fit(["a", "b"], ["c", "d"])


def test_models_that_cannot_be_loaded(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "modules.json").write_text("{")
    for path in (MISSING, *map(str, tmp_path.iterdir()), str(tmp_path / "nowhere")):
        message = f"Could not load the (model|directory) {re.escape(repr(path))}"
        for cls in CLASSES:
            with pytest.raises(OSError, match=message + ".*save_pretrained"):
                cls(path).fit(["a", "b"], ["c", "d"])
        with pytest.raises(OSError, match=message):
            SentenceEncoder(path).transform(["a"])


def test_path_objects_of_missing_models(tmp_path):
    for cls in ALL:
        with pytest.raises(OSError, match="Could not load the model"):
            cls(Path(tmp_path / "nowhere")).fit(["a", "b"], ["c", "d"]).transform(["a"])


@pytest.mark.parametrize("cls", ALL)
def test_an_empty_model_id(cls):
    # Sentence Transformers takes it for a model without modules
    with pytest.raises((OSError, InvalidParameterError), match="''"):
        cls("").fit(["a", "b"], ["c", "d"]).transform(["a"])
