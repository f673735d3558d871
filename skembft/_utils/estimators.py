"""What estimators and encoders share as scikit-learn's."""

from typing import Any

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
