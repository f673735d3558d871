"""Look at what fine-tuning has changed: comparisons with error bars, and pictures."""

from skembft._comparison import QueryChange, RetrievalComparison, compare_retrieval
from skembft._displays import (
    QueryGainDisplay,
    RetrievalCurveDisplay,
    TrainingHistoryDisplay,
)
from skembft._search_display import SearchResultsDisplay

__all__ = [
    "QueryChange",
    "QueryGainDisplay",
    "RetrievalComparison",
    "RetrievalCurveDisplay",
    "SearchResultsDisplay",
    "TrainingHistoryDisplay",
    "compare_retrieval",
]
