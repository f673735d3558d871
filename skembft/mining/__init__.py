"""Hard negatives, which a model confuses with what is relevant, and their grades."""

from skembft.mining._hard_negatives import mine_hard_negatives
from skembft.mining._score_pairs import score_pairs

__all__ = ["mine_hard_negatives", "score_pairs"]
