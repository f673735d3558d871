"""Callbacks of our own, beside scikit-learn's `ProgressBar` and `ScoringMonitor`."""

from skembft.callbacks._early_stopping import EarlyStopping
from skembft.callbacks._mlflow import MLflowLogger
from skembft.callbacks._optuna import OptunaPruning
from skembft.callbacks._tensorboard import TensorBoardLogger

__all__ = ["EarlyStopping", "MLflowLogger", "OptunaPruning", "TensorBoardLogger"]
