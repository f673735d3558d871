"""Fine-tune text embeddings for retrieval with scikit-learn estimators."""

from skembft._adapter import AdapterFinetuner
from skembft._api_encoder import APIEncoder
from skembft._corpus import CorpusFinetuner
from skembft._embedding import EmbeddingFinetuner
from skembft._encoders import SentenceEncoder
from skembft._precomputed import PrecomputedEncoder
from skembft._pretrained import dump, load
from skembft._version import __version__

__all__ = [
    "APIEncoder",
    "AdapterFinetuner",
    "CorpusFinetuner",
    "EmbeddingFinetuner",
    "PrecomputedEncoder",
    "SentenceEncoder",
    "__version__",
    "dump",
    "load",
]
