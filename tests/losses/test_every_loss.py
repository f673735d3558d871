"""Losses of EmbeddingFinetuner: all of them, on all forms of data."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sklearn.model_selection import GridSearchCV, ShuffleSplit

from skembft._losses.table import LOSSES
from tests.losses.training import ALL, FORMS, TRAINS_ON, N, finetuner

every_loss = pytest.mark.parametrize("loss", TRAINS_ON)
# of small batches, whose documents conflict
pytestmark = pytest.mark.filterwarnings("ignore:Documents, or relevant ones")


@pytest.fixture(scope="module")
def untouched(bert_model):
    """The weights of the untouched model."""
    return SentenceTransformer(bert_model, device="cpu").state_dict()


def test_every_loss_of_the_library_is_registered():
    found = [
        name
        for name in losses.__all__
        if isinstance(getattr(losses, name), type)
        and issubclass(getattr(losses, name), torch.nn.Module)
    ]
    assert {spec.class_name for spec in LOSSES.values()} == set(found)
    assert len(found) == len(TRAINS_ON) == 29 and set(TRAINS_ON) == set(LOSSES)


def test_the_guide_lists_every_loss():
    """And how several processes train it."""
    page = Path(__file__).parents[2] / "docs" / "full_finetuning.md"
    section = page.read_text().split("\n## Losses\n")[1].split("\n## ")[0]
    rows = re.findall(r'^\| ("[^|]+) \|.* \| ([^|]+) \|$', section, flags=re.M)
    processes = {
        name: cell for names, cell in rows for name in re.findall(r'"(\w+)"', names)
    }
    assert sum(names.count('"') for names, _ in rows) == 2 * len(processes)
    assert processes == {name: in_several(spec) for name, spec in LOSSES.items()}


@every_loss
def test_every_loss_takes_the_vectors_of_all_processes_or_says_why_not(loss):
    spec = LOSSES[loss]
    cls = getattr(losses, spec.class_name)
    takes = hasattr(cls, "compute_loss_from_embeddings") or hasattr(
        cls, "calculate_loss"
    )
    assert takes or spec.one_process or spec.shared_with or spec.needs == "loss"


def in_several(spec):
    """What the guide says of several processes."""
    if spec.needs == "loss":
        return "as that loss"
    if spec.one_process:
        return "refused"
    wanted = {k: v for k, v in spec.shared_with.items() if k != "gather_across_devices"}
    return "".join(f"with `{k}={v}`" for k, v in wanted.items()) or "as one"


@every_loss
@pytest.mark.filterwarnings("ignore:DistillKLDivLoss")  # of large grades
def test_every_form_trains_or_is_refused(bert_model, texts, untouched, loss):
    for form, make in FORMS.items():
        estimator = finetuner(bert_model, loss, batch_size=4)
        X, y = make(*texts)
        if form not in TRAINS_ON[loss]:
            with pytest.raises(ValueError, match="learns from teacher scores"):
                estimator.fit(X, y)
            continue
        estimator.fit(X, y)
        assert 2 <= estimator.n_iter_ <= 3 * N, form
        values = [entry["loss"] for entry in estimator.history_[1:]]
        assert np.isfinite(values).all() and max(values) > 0, form
        moved = max(
            float((tensor - untouched[name]).abs().max())
            for name, tensor in estimator.model_.state_dict().items()
        )
        assert moved > 1e-4, form


@every_loss
def test_every_loss_lowers_itself(bert_model, pairs, loss):
    """40 queries and documents that share words."""
    queries, documents = pairs
    y = documents
    if loss in ("margin_mse", "distill_kl_div"):
        y = [{documents[i]: 1.0, documents[i - 1]: 0.0} for i in range(40)]
    params = {"batch_size": 40, "epochs": 8, "learning_rate": 1e-2}
    history = finetuner(bert_model, loss, **params).fit(queries, y).history_
    assert history[-1]["loss"] < 0.9 * history[1]["loss"]


def test_a_grid_of_losses_on_plain_pairs(bert_model, pairs):
    queries, documents = pairs
    learn_from_pairs = [name for name, forms in TRAINS_ON.items() if forms == ALL]
    grid = {"loss": learn_from_pairs, "batch_size": [10]}
    search = GridSearchCV(
        finetuner(bert_model),
        grid,
        cv=ShuffleSplit(1, test_size=0.5, random_state=0),
        error_score="raise",
        refit=False,
    ).fit(queries[:20], documents[:20])
    assert len(search.cv_results_["params"]) == 27
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
