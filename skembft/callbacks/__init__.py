"""Callbacks of our own, beside scikit-learn's `ProgressBar` and `ScoringMonitor`."""

from skembft.callbacks._early_stopping import EarlyStopping

__all__ = ["EarlyStopping"]
