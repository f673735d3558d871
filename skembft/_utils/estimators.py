"""What estimators and encoders share as scikit-learn's."""

from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags


def tag_text_input(tags: Tags) -> Tags:
    """Mark scikit-learn's tags of an estimator whose X is a list of texts or ids."""
    tags.input_tags.two_d_array = False
    tags.input_tags.one_d_array = True
    tags.input_tags.string = True
    return tags


class DocLink:
    """The link from an estimator's HTML representation to its documentation."""

    _doc_link_module = "skembft"
    _doc_link_template = (
        "https://skembft.readthedocs.io/en/latest/api.html#skembft.{estimator_name}"
    )


def thawed(estimator: Any) -> Any:
    """An estimator without the `FrozenEstimator` around it."""
    while isinstance(estimator, FrozenEstimator):
        estimator = estimator.estimator
    return estimator


class PlainParameters:
    """Constructor parameters that come from numpy become Python's when they are set.

    Grids are made by ``np.array`` and ``np.arange``. What reads a parameter later, and
    there are many (samplers that want an int, JSON, fingerprints of strings), does not
    have to know of it, and ``clone`` finds what it has set.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.endswith("_"):  # all but what a fit finds
            value = plain_value(value, deep=name.endswith("_params"))
        super().__setattr__(name, value)


def plain_value(value: Any, *, deep: bool = False) -> Any:
    """A numpy scalar as a Python object; all else as it is.

    With `deep` also what is inside of dicts, lists and tuples, and arrays as lists; a
    container in which nothing changes is given back itself.
    """
    if isinstance(value, np.generic):
        return value.item()
    if not deep:
        return value
    if isinstance(value, np.ndarray):
        return value.tolist()
    if type(value) is dict:
        items = {k: plain_value(v, deep=True) for k, v in value.items()}
        return items if any(items[k] is not v for k, v in value.items()) else value
    if type(value) in (list, tuple):
        parts = [plain_value(v, deep=True) for v in value]
        changed = any(a is not b for a, b in zip(parts, value, strict=True))
        return type(value)(parts) if changed else value
    return value
