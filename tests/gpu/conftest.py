"""The device that tests marked `gpu` compute on: SKEMBFT_GPU_DEVICE, or "cuda".

"cpu" shows that the tests themselves are not broken, and "gpu:0" (see
`tests.fake_gpu`) that nothing mixes devices.
"""

import os

import pytest

DEVICE = os.environ.get("SKEMBFT_GPU_DEVICE", "cuda")
if DEVICE == "gpu:0":
    from tests.fake_gpu import start_up

    start_up()


def pytest_collection_modifyitems(config, items):
    """Leave these tests out unless they are asked for: ``-m gpu``."""
    if "gpu" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("gpu")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def device():
    import torch

    if DEVICE.startswith("cuda") and not torch.cuda.is_available():
        pytest.fail(f"torch finds no {DEVICE}: make gpu needs an NVIDIA GPU.")
    return DEVICE


@pytest.fixture(scope="session")
def real(device):
    """The device, where weights are written, or computed in bfloat16."""
    if device == "gpu:0":
        pytest.skip("a GPU that is not there has no storage, and no kernels of its own")
    return device


@pytest.fixture(scope="session")
def cuda(device):
    """The device, where time and memory are measured: nothing else will do."""
    if not device.startswith("cuda"):
        pytest.skip(f"SKEMBFT_GPU_DEVICE={device}: measures a GPU")
    return device
