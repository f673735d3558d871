"""Callbacks of our own, beside scikit-learn's `ProgressBar` and `ScoringMonitor`."""

from skembft.callbacks._early_stopping import EarlyStopping
from skembft.callbacks._optuna import OptunaPruning

__all__ = ["EarlyStopping", "OptunaPruning"]
