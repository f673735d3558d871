"""Use what was fitted in other libraries, and take over what they fitted."""

from skembft.integrations._embeddings import to_langchain, to_llama_index
from skembft.integrations._llama_index import (
    load_llama_index_adapter,
    save_llama_index_adapter,
)
from skembft.integrations._onnx import to_onnx

__all__ = [
    "load_llama_index_adapter",
    "save_llama_index_adapter",
    "to_langchain",
    "to_llama_index",
    "to_onnx",
]
