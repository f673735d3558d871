"""Load, save, generate and describe retrieval data."""

from skembft.datasets._describe import describe
from skembft.datasets._docstrings import load_docstrings
from skembft.datasets._generation import generate_pairs
from skembft.datasets._qa_dataset import load_qa_dataset, save_qa_dataset
from skembft.datasets._qrels_files import load_beir, load_trec_qrels

__all__ = [
    "describe",
    "generate_pairs",
    "load_beir",
    "load_docstrings",
    "load_qa_dataset",
    "load_trec_qrels",
    "save_qa_dataset",
]
