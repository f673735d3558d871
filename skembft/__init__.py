"""Fine-tune text embeddings for retrieval with scikit-learn estimators."""

from skembft._encoders import PrecomputedEncoder, SentenceEncoder
from skembft._version import __version__

__all__ = ["PrecomputedEncoder", "SentenceEncoder", "__version__"]
