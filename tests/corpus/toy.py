"""Toy data for CorpusFinetuner, and the formulas of the paper."""

import numpy as np
import pytest

from skembft import CorpusFinetuner, PrecomputedEncoder

quiet = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")
METHODS = ["nudge_n", "nudge_m"]


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


class Toy:
    """160 queries that lean away from their documents, 1 to 3 of 60, in one direction.

    Documents 50 to 59 are relevant to none.
    """

    def __init__(self):
        rng = np.random.RandomState(0)
        self.D = rng.normal(size=(60, 12)).astype(np.float32)
        self.relevant, vectors = [], []
        away = rng.normal(size=(60, 12))
        for i in range(160):
            documents = rng.choice(50, 1 + i % 3, replace=False)
            self.relevant.append(
                {f"d{j}": float(1 + n) for n, j in enumerate(documents)}
            )
            mean = (0.5 * self.D[documents] + away[documents]).mean(axis=0)
            vectors.append(mean + rng.normal(size=12) * 0.6)
        self.Q = np.asarray(vectors, dtype=np.float32)
        self.queries = [f"q{i}" for i in range(160)]
        self.documents = [f"d{j}" for j in range(60)]
        self.encoder = PrecomputedEncoder(
            (self.queries, self.Q), (self.documents, self.D)
        )

    def sums(self, rows):
        """Of every document the sum of the unit vectors of its queries."""
        G = np.zeros((60, 12))
        for i in rows:
            for document in self.relevant[i]:
                G[int(document[1:])] += unit(self.Q.astype(np.float64))[i]
        return G


def fixed(encoder, gamma, **options):
    return CorpusFinetuner(encoder, gamma=gamma, validation_fraction=None, **options)


def nudge_n(D, G, gamma):
    """The closed form of NUDGE-N as the paper has it, with its multiplier μ."""
    out = D.copy()
    for j, (d, g) in enumerate(zip(D, G, strict=True)):
        along, square = d @ g, g @ g
        if along < 0 or square - along**2 < 1e-12:
            continue
        if along / np.sqrt(square) >= 1 - gamma / 2:
            out[j] = g / np.sqrt(square)
            continue
        mu = along + np.sqrt(gamma / (4 - gamma) * (square - along**2))
        out[j] = d + gamma * (g - mu * d) / (2 * (mu - along))
    return out


def nudge_m(D, G, gamma):
    norms = np.linalg.norm(G, axis=1, keepdims=True)
    return D + gamma * G / np.where(norms == 0, 1, norms)
