"""Hard negatives: documents that a model confuses with the relevant ones."""

from skembft.mining._hard_negatives import mine_hard_negatives

__all__ = ["mine_hard_negatives"]
