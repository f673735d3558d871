"""Sums of values with random signs, of which tests of paired differences are made."""

import numpy as np
import numpy.typing as npt

from skembft._utils.types import Floats


def random_bits(
    rows: int, columns: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    eights = rng.integers(256, size=(rows, -(-columns // 8)), dtype=np.uint8)
    return np.unpackbits(eights, axis=1, count=columns)


def signed_sums(values: Floats, bits: npt.NDArray[np.uint8]) -> Floats:
    """Sums of values with a plus for every bit that is 1, and a minus for 0."""
    return bits.astype(np.float64) @ (2 * values) - values.sum()
