"""Batches in which no document is the negative of a query that it answers, or is."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from sentence_transformers.base.sampler import DefaultBatchSampler

from skembft._data.weights import draw_by_weight
from skembft._embedding.examples import Examples
from skembft._utils.types import Ints

Plan: TypeAlias = list[list[Ints]]  # of every epoch the rows of its batches


def may_conflict(examples: Examples) -> bool:
    """Whether a batch could hold a document twice, or one that is no negative."""
    queries, documents = examples.queries, examples.documents
    assert queries is not None  # with negatives of a batch there are some
    return bool(
        len(np.unique(documents)) < documents.size
        or len(np.unique(queries)) < len(examples)
        or (np.diff(examples.data.judged.known.indptr)[queries] > 1).any()
    )


def plan_epochs(
    examples: Examples,
    batch_size: int,
    n_epochs: int,
    seed: int,
    *,
    apart: bool = True,
    multiple_of: int = 1,
) -> Plan:
    """Return the batches of every epoch, as many in each.

    Every example is in one batch of an epoch; where queries have weights, examples are
    drawn by them, anew for each epoch. Within a batch no document comes twice,
    and none that is relevant to another of its queries; where documents repeat too
    often to fill batches so, these are smaller, and more.

    Parameters
    ----------
    examples : Examples
    batch_size : int
        The most examples of a batch.
    n_epochs, seed : int
    apart : bool
        Whether to keep documents apart; otherwise batches are random.
    multiple_of : int
        Of what the sizes of batches are multiples: examples that are over are left out
        of a batch, others in every epoch.

    Returns
    -------
    list of list of int64 ndarray
        Of every epoch the rows of its batches.

    Raises
    ------
    ValueError
        No batch is as large as `multiple_of`.
    """
    dealer = _Dealer(examples, batch_size) if apart else None
    weights = examples.weights
    epochs = []
    for epoch in range(n_epochs):
        rng = np.random.RandomState((seed, epoch))
        rows: Ints = np.arange(len(examples))
        if weights is not None:
            rows = draw_by_weight(weights, rng)
        if dealer is not None:
            batches = dealer.deal(rows, rng)
        else:
            order = rows[_trainer_order(len(rows), seed + epoch)]
            batches = np.split(order, range(batch_size, len(order), batch_size))
        even = [rows[: len(rows) // multiple_of * multiple_of] for rows in batches]
        epochs.append([rows for rows in even if len(rows)])
    if not all(epochs):
        raise ValueError(
            f"No batch can be shared by {multiple_of} processes: of {len(examples)} "
            "training pairs too few have documents of their own. Train in one process."
        )
    n_batches = max(len(batches) for batches in epochs)
    for batches in epochs:
        _lengthen(batches, n_batches, multiple_of)
    return epochs


def _trainer_order(n: int, seed: int) -> Ints:
    """The order in which the trainer of one process takes rows in an epoch."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n, generator=generator).numpy()


def _lengthen(batches: list[Ints], n_batches: int, multiple_of: int) -> None:
    """Split the largest batches until there are as many as in other epochs."""
    while len(batches) < n_batches:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        rows = batches.pop(largest)
        half = max(len(rows) // 2 // multiple_of, 1) * multiple_of
        batches += [rows[:half], rows[half:] if half < len(rows) else rows]


@dataclass
class _Batch:
    """Rows, their documents, and the documents that answer one of their queries."""

    rows: list[int] = field(default_factory=list)
    documents: set[int] = field(default_factory=set)
    answers: set[int] = field(default_factory=set)

    def admits(self, documents: frozenset[int], answers: frozenset[int]) -> bool:
        return (
            self.documents.isdisjoint(documents)
            and self.documents.isdisjoint(answers)
            and self.answers.isdisjoint(documents)
        )

    def add(self, row: int, documents: frozenset[int], answers: frozenset[int]) -> None:
        self.rows.append(row)
        self.documents |= documents
        self.answers |= answers


class _Dealer:
    """Deals examples like cards: one to each batch in turn, the most frequent first.

    So the copies of a frequent document come to lie in different batches, and batches
    are of about equal size.
    """

    def __init__(self, examples: Examples, batch_size: int) -> None:
        self.batch_size = batch_size
        queries = examples.queries
        assert queries is not None
        self.documents = [frozenset(row) for row in examples.documents.tolist()]
        known = examples.data.judged.known
        answers = {
            query: frozenset(
                known.indices[known.indptr[query] : known.indptr[query + 1]]
            )
            for query in np.unique(queries).tolist()
        }
        self.answers = [answers[query] for query in queries.tolist()]
        self.queries, self.positives = queries, examples.documents[:, 0]

    def deal(self, rows: Ints, rng: np.random.RandomState) -> list[Ints]:
        """Return the batches of an epoch, in random order."""
        order = rng.permutation(rows)
        frequency = np.maximum(
            _frequencies(self.queries[order]), _frequencies(self.positives[order])
        )
        order = order[np.argsort(-frequency, kind="stable")]
        size = max(-(-len(order) // self.batch_size), frequency.max())
        batches = [_Batch() for _ in range(size)]
        hands = deque(batches)
        for row in order.tolist():
            documents, answers = self.documents[row], self.answers[row]
            refused = []
            while hands and not hands[0].admits(documents, answers):
                refused.append(hands.popleft())
            if hands:
                batch = hands.popleft()
            else:
                batches.append(batch := _Batch())
            batch.add(row, documents, answers)
            hands.extendleft(reversed(refused))
            if len(batch.rows) < self.batch_size:
                hands.append(batch)
        full = [np.array(batch.rows) for batch in batches if batch.rows]
        return [full[i] for i in rng.permutation(len(full))]


def _frequencies(values: Ints) -> Ints:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[inverse]


class PlannedBatches(DefaultBatchSampler):
    """Gives the trainer one process's share of the batches of `plan_epochs`."""

    drop_last = False

    def __init__(self, epochs: Plan, rank: int = 0, n_processes: int = 1) -> None:
        self.epochs = epochs
        self.rank, self.n_processes = rank, n_processes
        self.batch_size = max(len(rows) for rows in epochs[0]) // n_processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.epochs[self.epoch]:
            yield rows[self.rank :: self.n_processes].tolist()

    def __len__(self) -> int:
        return len(self.epochs[0])
