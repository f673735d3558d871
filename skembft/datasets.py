"""Load, save, generate and describe retrieval data."""

from skembft._describe import describe
from skembft._docstrings import load_docstrings
from skembft._generation import generate_pairs
from skembft._qa_dataset import load_qa_dataset, save_qa_dataset
from skembft._qrels_files import load_beir, load_trec_qrels

__all__ = [
    "describe",
    "generate_pairs",
    "load_beir",
    "load_docstrings",
    "load_qa_dataset",
    "load_trec_qrels",
    "save_qa_dataset",
]
