"""Information-retrieval metrics: trec_eval's values, scikit-learn's interface.

Metric names always carry their cut-off: ``ndcg@10``, ``mrr@10``, ``map@100``,
``recall@100``, ``precision@10``, ``hit_rate@5``; the spellings of ir_measures
(``nDCG@10``, ``RR@10``, ``AP@100``, ``R@5``, ``P@5``, ``Success@5``) mean the same.
"""

from skembft.metrics._evaluate import evaluate
from skembft.metrics._scorer import RetrievalScorer

__all__ = ["RetrievalScorer", "evaluate"]
