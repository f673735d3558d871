"""What a comparison tells of one query."""

from dataclasses import dataclass
from typing import TypeAlias

from skembft._utils.messages import shorten
from skembft._utils.types import Floats, Item

Shown: TypeAlias = Item | Floats  # a query or document: a text, an id or a vector
Graded: TypeAlias = tuple[Shown, float]  # a document and its grade


@dataclass(frozen=True, repr=False)
class QueryChange:
    """What changed for one query.

    Attributes
    ----------
    query : str, id or vector
    index : int
        Its place in the comparison's `queries`.
    before, after : float
        The metric.
    gain : float
        Their difference; below 0 for a query that was hurt.
    relevant : list
        The relevant documents, best grade first.
    documents_before, documents_after : list of (document, grade)
        The ten documents that were retrieved, best first; grade 0 where not relevant.
    """

    query: Shown
    index: int
    before: float
    after: float
    relevant: list[Shown]
    documents_before: list[Graded]
    documents_after: list[Graded]

    def __repr__(self) -> str:
        """Without the documents, which may be long."""
        return (
            f"QueryChange(query={shorten(self.query)}, index={self.index}, "
            f"before={self.before:.4f}, after={self.after:.4f})"
        )

    @property
    def gain(self) -> float:
        return self.after - self.before
