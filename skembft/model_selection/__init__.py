"""Splits that keep every document and query on one side, and a report of what leaks."""

from skembft.model_selection._leakage import leakage_report
from skembft.model_selection._split import document_groups, train_test_split

__all__ = ["document_groups", "leakage_report", "train_test_split"]
