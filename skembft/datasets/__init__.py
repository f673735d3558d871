"""Load, save, generate and describe retrieval data."""

from skembft.datasets._beir import load_beir
from skembft.datasets._describe import describe
from skembft.datasets._docstrings import load_docstrings
from skembft.datasets._flag_embedding import load_flag_embedding
from skembft.datasets._generation import generate_pairs
from skembft.datasets._qa_dataset import load_qa_dataset, save_qa_dataset
from skembft.datasets._trec import load_trec_qrels, load_trec_run

__all__ = [
    "describe",
    "generate_pairs",
    "load_beir",
    "load_docstrings",
    "load_flag_embedding",
    "load_qa_dataset",
    "load_trec_qrels",
    "load_trec_run",
    "save_qa_dataset",
]
