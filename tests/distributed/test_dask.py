"""Searches on dask: two worker processes of a LocalCluster."""

import pytest
from joblib import parallel_config

from tests.distributed.searches import (
    FormsOnTwoWorkers,
    SearchesOnTwoWorkers,
)

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore:Training did not help:UserWarning"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=tmp_path_factory.mktemp("dask"),
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def engine(client):
    def dask():
        client.wait_for_workers(2)  # one that was killed is started again
        return parallel_config("dask")

    return dask


class TestSearches(SearchesOnTwoWorkers, FormsOnTwoWorkers):
    pass
