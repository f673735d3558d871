"""Batches: nothing twice, nothing dropped, and no work on padding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses

from skembft import EmbeddingFinetuner
from skembft._embedding import hf_trainer as training
from skembft._embedding.batches import plan_epochs
from skembft._embedding.speed.forward import length_sorted, split_by_length


@pytest.fixture
def batches_of(bert_model, monkeypatch):
    """Fits, and returns the texts of every batch: a list of rows for each."""
    seen = []
    collator = training.FinetuningTrainer.get_data_collator

    def recording(self, *args, **kwargs):
        collate = collator(self, *args, **kwargs)

        def record(rows):
            seen.append([[row[c] for c in row if c != "label"] for row in rows])
            return collate(rows)

        record.valid_label_columns = collate.valid_label_columns
        return record

    monkeypatch.setattr(training.FinetuningTrainer, "get_data_collator", recording)

    def fit(*data, **options):
        seen.clear()
        options = {"epochs": 1, "random_state": 0, "evaluation_steps": 0, **options}
        finetuner = EmbeddingFinetuner(bert_model, **options).fit(*data)
        return finetuner, list(seen)

    return fit


def test_nothing_twice_and_nothing_dropped(batches_of):
    """Documents that repeat, and queries with several answers, in two epochs."""
    rng = np.random.RandomState(0)
    queries = [f"q{i}" for i in range(60)]
    answers = [[f"d{j}" for j in rng.choice(25, 3, replace=False)] for _ in queries]
    finetuner, batches = batches_of(
        queries, answers, batch_size=8, use_all_docs=True, epochs=2
    )
    known = dict(zip(queries, answers, strict=True))
    pairs = sorted((q, d) for q in queries for d in known[q])
    assert finetuner.n_iter_ == len(batches)
    half = len(batches) // 2
    for epoch in (batches[:half], batches[half:]):
        assert sorted(tuple(row) for batch in epoch for row in batch) == pairs
    assert batches[:half] != batches[half:]
    assert max(len(batch) for batch in batches) <= 8
    for batch in batches:
        documents = [document for _, document in batch]
        assert len(set(documents)) == len(documents)
        for query, document in batch:
            assert set(documents) & set(known[query]) == {document}


def test_negatives_of_others_are_no_positives(batches_of, pairs):
    """The explicit negative of one row is the positive of another."""
    queries, documents = pairs
    rows = list(zip(queries, documents, documents[1:] + documents[:1], strict=True))
    _, batches = batches_of(rows, batch_size=10)
    assert sum(len(batch) for batch in batches) == 40
    for batch in batches:
        documents = [document for row in batch for document in row[1:]]
        assert len(set(documents)) == len(documents)


def test_few_documents_make_more_and_smaller_batches(batches_of):
    """Twenty documents for five hundred queries: no batch holds one twice."""
    queries = [f"q{i}" for i in range(500)]
    documents = [f"d{i % 20}" for i in range(500)]
    with pytest.warns(UserWarning, match="batches hold 20 pairs on average"):
        _, batches = batches_of(queries, documents, batch_size=64)
    assert len(batches) == 25
    assert all(len({d for _, d in batch}) == 20 == len(batch) for batch in batches)


def test_losses_of_single_pairs_keep_plain_batches(batches_of):
    queries = [f"q{i}" for i in range(40)]
    _, batches = batches_of(queries, ["d"] * 39 + ["e"], loss="cosine_similarity")
    assert [len(batch) for batch in batches] == [10] * 8


class _Examples:
    def __init__(self, queries, documents, positive):
        self.queries, self.documents, self.weights = queries, documents, None
        self.data = type("Data", (), {})()
        self.data.judged = type("Relevance", (), {"known": positive})()

    def __len__(self):
        return len(self.queries)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_plans_of_any_data(data):
    from scipy import sparse

    n_queries, n_documents, n_rows, width, batch_size, multiple = (
        data.draw(st.integers(low, high))
        for low, high in ((1, 12), (1, 12), (1, 40), (1, 3), (1, 12), (1, 3))
    )
    rng = np.random.RandomState(data.draw(st.integers(0, 10_000)))
    queries = rng.randint(n_queries, size=n_rows)
    documents = rng.randint(n_documents, size=(n_rows, width))
    positive = sparse.lil_array((n_queries, n_documents))
    positive[queries, documents[:, 0]] = 1
    examples = _Examples(queries, documents, positive.tocsr())
    batch_size *= multiple
    try:
        epochs = plan_epochs(examples, batch_size, 3, 0, multiple_of=multiple)
    except ValueError as error:
        assert multiple > 1 and "No batch can be shared" in str(error)
        return
    assert len({len(epoch) for epoch in epochs}) == 1
    answers = [set(np.flatnonzero(row)) for row in positive.toarray()]
    for epoch in epochs:
        if multiple == 1:
            assert sorted(np.concatenate(epoch)) == list(range(n_rows))
        for batch in epoch:
            assert 0 < len(batch) <= batch_size and len(batch) % multiple == 0
            for i in batch:
                others = {d for j in batch if j != i for d in documents[j]}
                assert others.isdisjoint(answers[queries[i]])
                assert others.isdisjoint(documents[i])


# ---- length


@pytest.fixture
def long_and_short():
    rng = np.random.RandomState(0)
    words = [f"red{i % 12}" for i in range(30)]
    lengths = rng.permutation([2] * 40 + [28] * 8)
    documents = [" ".join(words[: n - 1]) + f" d{i}" for i, n in enumerate(lengths)]
    return [f"red{i % 12} q{i}" for i in range(48)], documents


def test_chunks_have_the_loss_and_gradient_of_the_batch(bert_model, long_and_short):
    model = SentenceTransformer(bert_model, device="cpu").train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    features = [model.preprocess(texts) for texts in long_and_short]
    loss = losses.MultipleNegativesRankingLoss(model)
    results, sizes = [], []
    model[0].register_forward_pre_hook(
        lambda _, inputs: sizes.append(tuple(inputs[0]["input_ids"].shape))
    )
    for sort in (False, True):
        model.zero_grad()
        if sort:
            with length_sorted(model):
                value = loss([dict(f) for f in features], None)
        else:
            value = loss([dict(f) for f in features], None)
        value.backward()
        gradient = {n: p.grad for n, p in model.named_parameters()}
        results.append((value.item(), gradient))
    assert sizes == [(48, 2), (48, 28), (48, 2), (40, 2), (8, 28)]
    (plain, plain_gradient), (chunked, gradient) = results
    assert chunked == pytest.approx(plain, abs=1e-6)
    for name, tensor in plain_gradient.items():
        if tensor is not None:
            assert torch.allclose(tensor, gradient[name], atol=1e-6), name
    assert "forward" not in model.__dict__


def test_weights_with_and_without_chunks(bert_model, long_and_short, tmp_path):
    """The same to 1e-5 without dropout."""
    model = SentenceTransformer(bert_model, device="cpu")
    model.transformers_model.config.hidden_dropout_prob = 0.0
    model.transformers_model.config.attention_probs_dropout_prob = 0.0
    model.save_pretrained(str(tmp_path), create_model_card=False)
    options = {"epochs": 3, "batch_size": 48, "random_state": 0, "learning_rate": 1e-3}
    sorted_, plain = (
        EmbeddingFinetuner(str(tmp_path), sort_by_length=sort, **options)
        .fit(*long_and_short)
        .model_.state_dict()
        for sort in (True, False)
    )
    differences = [(sorted_[n] - plain[n]).abs().max().item() for n in plain]
    assert 0 < max(differences) < 1e-5


def test_equal_lengths_are_not_split(bert_model, pairs):
    model = SentenceTransformer(bert_model, device="cpu")
    features = model.preprocess([f"{d} {d} {d} {d}" for d in pairs[1]] * 4)
    assert split_by_length(features) is None
    one_long = model.preprocess(["red0"] * 100 + ["red1 " * 28])
    (short, columns), (long, _) = split_by_length(one_long)
    assert len(short) == 100 and columns == slice(0, 1) and list(long) == [100]


def test_left_padding(bert_model):
    mask = torch.zeros(64, 32, dtype=torch.long)
    mask[:, -3:] = 1
    mask[:4] = 1
    chunks = split_by_length({"input_ids": mask, "attention_mask": mask})
    assert [(len(rows), columns) for rows, columns in chunks] == [
        (60, slice(29, 32)),
        (4, slice(0, 32)),
    ]
    mask[:, 0] = mask[:, -1] = 0  # neither side is full: taken as it is
    assert split_by_length({"input_ids": mask, "attention_mask": mask}) is None
