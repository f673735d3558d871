"""Use what was fitted in other libraries, and take over what they fitted."""

from skembft._integrations_embeddings import to_langchain, to_llama_index
from skembft._integrations_llama_index import (
    load_llama_index_adapter,
    save_llama_index_adapter,
)
from skembft._integrations_onnx import to_onnx

__all__ = [
    "load_llama_index_adapter",
    "save_llama_index_adapter",
    "to_langchain",
    "to_llama_index",
    "to_onnx",
]
