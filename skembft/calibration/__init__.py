"""Probabilities of relevance from scores, and cut-offs that outlive a fine-tuning."""

from skembft.calibration._relevance import RelevanceCalibrator

__all__ = ["RelevanceCalibrator"]
