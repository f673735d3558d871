"""Adapters of every kind for other tools."""

import numpy as np
import torch

from skembft import AdapterFinetuner

DIM = 8
LAYERS = {
    "linear": {},
    "linear with bias": {"adapter_params": {"bias": True}},
    "low_rank": {"adapter": "low_rank", "adapter_params": {"rank": 3}},
    "closed_form": {"solver": "closed_form"},
    "mlp": {"adapter": "mlp", "adapter_params": {"hidden_dim": 5}},
}


class Halver(torch.nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.full((dim,), 0.5))

    def forward(self, x):
        return self.factor * x


def fit(vectors, **settings):
    settings = {"epochs": 3, "validation_fraction": None, **settings}
    return AdapterFinetuner(None, random_state=0, **settings).fit(*vectors)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
