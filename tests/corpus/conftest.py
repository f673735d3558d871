"""The toy data of CorpusFinetuner."""

import pytest

from tests.corpus.toy import Toy


@pytest.fixture(scope="module")
def toy():
    return Toy()
