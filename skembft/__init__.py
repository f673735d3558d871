"""Fine-tune text embeddings for retrieval with scikit-learn estimators."""

from skembft._adapter.estimator import AdapterFinetuner
from skembft._corpus.estimator import CorpusFinetuner
from skembft._embedding.estimator import EmbeddingFinetuner
from skembft._saving.pretrained import dump, load
from skembft._version import __version__
from skembft.encoders._api import APIEncoder
from skembft.encoders._precomputed import PrecomputedEncoder
from skembft.encoders._sentence import SentenceEncoder

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
