"""Look at what fine-tuning has changed: comparisons with error bars, and pictures."""

from skembft.inspection._compare import compare_retrieval
from skembft.inspection._comparison import RetrievalComparison
from skembft.inspection._displays import (
    QueryGainDisplay,
    RetrievalCurveDisplay,
    TrainingHistoryDisplay,
)
from skembft.inspection._query_change import QueryChange
from skembft.inspection._search_display import SearchResultsDisplay

__all__ = [
    "QueryChange",
    "QueryGainDisplay",
    "RetrievalComparison",
    "RetrievalCurveDisplay",
    "SearchResultsDisplay",
    "TrainingHistoryDisplay",
    "compare_retrieval",
]
