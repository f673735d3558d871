"""Generation without waiting."""

import pytest

from skembft.datasets import _generation


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr(_generation, "_FIRST_DELAY", 0.0)
