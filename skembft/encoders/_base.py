"""What frozen encoders share: they need no fit, and take text or ids."""

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from skembft._utils.estimators import DocLink, tag_text_input


class BaseEncoder(DocLink, TransformerMixin, BaseEstimator):
    """Subclasses define `transform`, `transform_documents` and `_dimension`.

    The dimension is asked by a method, as scikit-learn's HTML representation reads
    every property and none may load a model.
    """

    def get_feature_names_out(self, input_features=None):
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

    def __sklearn_is_fitted__(self):
        return True

    def __sklearn_tags__(self):
        tags = tag_text_input(super().__sklearn_tags__())
        tags.requires_fit = False
        return tags
