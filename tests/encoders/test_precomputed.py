"""How a PrecomputedEncoder is shown."""

import pickle
from collections import OrderedDict, UserDict
from types import MappingProxyType

import numpy as np
import pytest
from sklearn.base import clone

from skembft import AdapterFinetuner, PrecomputedEncoder


@pytest.mark.parametrize("container", [OrderedDict, MappingProxyType, UserDict, dict])
def test_vectors_are_not_printed(container):
    vectors = {f"t{i}": [0.25, 0.5, i] for i in range(4)}
    encoder = PrecomputedEncoder(container(vectors), (list(vectors), np.ones((4, 3))))
    for shown in (encoder, clone(encoder), AdapterFinetuner(encoder)):
        assert "<4 × 3>" in repr(shown)
        assert "0.25" not in repr(shown)
    np.testing.assert_array_equal(clone(encoder).transform(["t2"]), [[0.25, 0.5, 2]])
    if container is not MappingProxyType:  # which pickle refuses
        again = pickle.loads(pickle.dumps(clone(encoder)))
        np.testing.assert_array_equal(again.transform(["t3"]), [[0.25, 0.5, 3]])
