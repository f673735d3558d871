"""Searches on ray: two worker processes of a local cluster."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.callback import ScoringMonitor

from skembft import AdapterFinetuner, EmbeddingFinetuner
from skembft.metrics import RetrievalScorer
from tests.distributed.searches import (
    SearchesOnTwoWorkers,
    grid,
    make,
)

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore:Training did not help:UserWarning"),
]
METRICS = ["ndcg@10", "mrr@10"]
# a worker that is gone is started again, and so is what it did
RETRY = {"max_restarts": 3, "max_task_retries": 3}


@pytest.fixture(scope="module")
def engine():
    import ray
    from ray.util.joblib import register_ray

    register_ray()
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=2**28)
    yield partial(parallel_config, "ray", ray_remote_args=RETRY)
    ray.shutdown()


class TestSearches(SearchesOnTwoWorkers):
    # dask's scheduler copies a ScoringMonitor, which then records for itself
    @pytest.mark.parametrize("finetuner", [AdapterFinetuner, EmbeddingFinetuner])
    def test_scores_by_epoch(self, engine, static_model, data, finetuner):
        logs = []
        for context, n_jobs in ((nullcontext, 1), (engine, 2)):
            scorer = RetrievalScorer(METRICS, corpus=data[1])
            monitor = ScoringMonitor(scoring=scorer)
            estimator = make(finetuner, static_model).set_callbacks(monitor)
            with context():
                grid(estimator, {"epochs": [2, 3]}, n_jobs=n_jobs).fit(*data)
            log = sorted(monitor.get_logs().data, key=lambda row: row["task_id_path"])
            logs.append([[row[name] for name in METRICS] for row in log])
        np.testing.assert_array_equal(*logs)
