"""What frozen encoders share: they need no fit, and take text or ids."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from skembft._utils.estimators import DocLink, PlainParameters, tag_text_input


class BaseEncoder(DocLink, PlainParameters, TransformerMixin, BaseEstimator):
    """Subclasses define `transform`, `transform_documents` and `_dimension`.

    The dimension is asked by a method, as scikit-learn's HTML representation reads
    every property and none may load a model.
    """

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return names of the dimensions of the vectors.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        names : ndarray of str of shape (d,)
        """
        prefix = type(self).__name__.lower()
        names = [f"{prefix}{i}" for i in range(self._dimension())]
        return np.asarray(names, dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = tag_text_input(super().__sklearn_tags__())
        tags.requires_fit = False
        return tags
