"""CorpusFinetuner over and under other finetuners."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, KFold

from skembft import AdapterFinetuner, CorpusFinetuner
from skembft.metrics import RetrievalScorer
from tests.corpus.toy import quiet


@quiet
def test_stacks_with_an_adapter_in_both_orders(toy, any_gain):
    adapter = AdapterFinetuner(
        toy.encoder, epochs=3, learning_rate=1e-2, random_state=0
    )
    data = toy.queries, toy.relevant
    over = CorpusFinetuner(adapter, random_state=0).fit(*data)
    assert not hasattr(adapter, "weights_") and over.encoder_.weights_
    np.testing.assert_allclose(
        over.transform(toy.queries), over.encoder_.transform(toy.queries), atol=1e-6
    )
    fitted = clone(adapter).fit(*data)
    frozen = CorpusFinetuner(FrozenEstimator(fitted), random_state=0).fit(*data)
    assert frozen.encoder_.estimator is fitted
    under = AdapterFinetuner(
        CorpusFinetuner(toy.encoder, random_state=0), epochs=3, random_state=0
    ).fit(*data)
    assert under.encoder_.moved_documents_
    for finetuner in (over, frozen, under):
        assert finetuner.score(*data) > 0.2
    search = GridSearchCV(
        CorpusFinetuner(adapter, random_state=0),
        {"encoder__side": ["query", "both"]},
        cv=KFold(2),
        error_score="raise",
    ).fit(*data)
    assert len(set(search.cv_results_["mean_test_score"])) == 2


class Recording(AdapterFinetuner):
    """Records what it is fitted on."""

    fits = []

    def fit(self, X, y=None, sample_weight=None, **options):
        self.fits.append((X, y))
        return super().fit(X, y, sample_weight, **options)


def _forms(queries, relevant):
    """The same pairs in several forms of X and y."""
    first = [list(graded)[0] for graded in relevant]
    table = list(zip(queries, first, strict=True))
    return {
        "lists": (queries, relevant),
        "arrays": (np.array(queries), np.array(first, dtype=object)),
        "series": (pd.Series(queries), pd.Series(first)),
        "pairs": (table, None),
        "frame": (pd.DataFrame(table, columns=["query", "document"]), None),
        "labelled": (table, np.ones(len(table))),
    }


@quiet
@pytest.mark.parametrize("outer", [CorpusFinetuner, AdapterFinetuner])
@pytest.mark.parametrize(
    "form", ["lists", "arrays", "series", "pairs", "frame", "labelled"]
)
def test_an_inner_finetuner_never_sees_held_out_queries(toy, form, outer):
    """It is fitted on the training queries, and for the refit on all of them."""
    X, y = _forms(toy.queries[:40], toy.relevant[:40])[form]
    options = {"random_state": 0, "validation_fraction": 0.25}
    if outer is AdapterFinetuner:
        options["epochs"] = 1
    inner = Recording(toy.encoder, epochs=1, random_state=1)
    for refit, n_fits in ((True, 2), (False, 1)):
        Recording.fits = []
        outer(inner, refit=refit, **options).fit(X, y, corpus=toy.documents)
        assert len(Recording.fits) == n_fits
        seen = [q if isinstance(q, str) else q[0] for q in Recording.fits[0][0]]
        assert len(seen) == 30 and set(seen) < set(toy.queries[:40])
        if refit:
            assert Recording.fits[1][0] is X and Recording.fits[1][1] is y


@quiet
@pytest.mark.parametrize("outer", [CorpusFinetuner, AdapterFinetuner])
def test_base_score_is_that_of_the_inner_finetuner_on_held_out_queries(toy, outer):
    Recording.fits = []
    inner = Recording(toy.encoder, epochs=2, learning_rate=1e-2, random_state=1)
    stacked = outer(inner, refit=False, random_state=0)
    stacked.fit(toy.queries, toy.relevant, corpus=toy.documents)
    (X, y), *_ = Recording.fits
    held_out = [i for i, query in enumerate(toy.queries) if query not in X]
    alone = clone(inner).fit(X, y, corpus=toy.documents)
    scorer = RetrievalScorer(corpus=toy.documents)
    data = ([part[i] for i in held_out] for part in (toy.queries, toy.relevant))
    assert stacked.base_score_ == pytest.approx(scorer(alone, *data), abs=1e-9)


@quiet
def test_an_inner_finetuner_gets_all_rows_with_validation_data_of_their_own(toy):
    Recording.fits = []
    inner = Recording(toy.encoder, epochs=1, random_state=1)
    CorpusFinetuner(inner).fit(
        toy.queries[:100], toy.relevant[:100],
        X_val=toy.queries[100:], y_val=toy.relevant[100:],
    )  # fmt: skip
    assert [len(X) for X, _ in Recording.fits] == [100]


@quiet
def test_an_inner_finetuner_over_vectors():
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(60, 6)), np.repeat(np.arange(6), 10)
    Recording.fits = []
    inner = Recording(None, epochs=1, random_state=0)
    AdapterFinetuner(inner, epochs=1, random_state=0).fit(X, y)
    assert [len(part) for part, _ in Recording.fits] == [30, 60]
