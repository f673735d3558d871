"""A GPU that is not there: tensors that say "gpu:0" and are computed by the CPU.

Torch then has another kind of device for as long as the process lives: for children.
"""

from collections import Counter
from contextlib import nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
CPU = torch.device("cpu")
# of which a GPU's result has a size that the CPU must know
WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten._unique2.default}
MIXES = {aten.index.Tensor, aten.index_put_.default, aten._to_copy.default}


class Backend:
    """What torch asks of a kind of device: that of the CPU."""

    def is_available(self):
        return True

    def is_initialized(self):
        return True

    def _is_in_bad_fork(self):
        return False

    def device_count(self):
        return 1

    def current_device(self):
        return 0

    def device(self, device):
        return nullcontext()

    def manual_seed_all(self, seed):
        pass  # the CPU is seeded, too

    def get_rng_state(self, device=None):
        return torch.get_rng_state()

    def set_rng_state(self, state, device=None):
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


class GpuTensor(torch.Tensor):
    """Holds its values in a tensor of the CPU."""

    @staticmethod
    def __new__(cls, values, device):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=device,
        )

    def __init__(self, values, device):
        self.values = values

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


waits = Counter()  # operations in which the CPU waits for the GPU
moves = Counter()  # operations in which the GPU waits for the CPU's memory


def compute(func, args, kwargs):
    """Run an operation on the CPU, and say that its result is on the GPU."""
    if func is aten._pin_memory.default:
        return args[0]
    flat, spec = tree_flatten((args, dict(kwargs)))
    inputs = [x for x in flat if isinstance(x, torch.Tensor)]
    gpu = next((x.device for x in inputs if isinstance(x, GpuTensor)), None)
    if func is aten.copy_.default:
        if args[0].device != args[1].device:
            (waits if args[0].device == CPU else moves)[str(func)] += 1
    elif gpu is not None and func not in MIXES:
        if {x.device for x in inputs if x.ndim} - {gpu}:
            raise RuntimeError(f"{func}: tensors on {gpu} and on another device.")
    asked = kwargs.get("device")
    device = gpu or CPU if asked is None else torch.device(asked)
    if gpu is not None and (func in WAITS or device == CPU):
        waits[str(func)] += 1
    elif device != CPU and any(x.device == CPU and x.ndim for x in inputs):
        moves[str(func)] += 1
    wrappers = {id(x.values): x for x in inputs if isinstance(x, GpuTensor)}
    flat = [_on_cpu(x) for x in flat]
    args, kwargs = tree_unflatten(flat, spec)
    out = func(*args, **{k: v for k, v in kwargs.items() if k != "pin_memory"})

    def wrapped(x):
        if device == CPU or not isinstance(x, torch.Tensor):
            return x
        return wrappers[id(x)] if id(x) in wrappers else GpuTensor(x, device)

    return tree_map(wrapped, out)


def _on_cpu(x):
    if isinstance(x, GpuTensor):
        return x.values
    return CPU if isinstance(x, torch.device) else x


class FakeGpu(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def start_up():
    """Let torch have a kind of device "gpu"; to be called before other imports."""
    torch.inference_mode = lambda mode=True: torch.no_grad()  # wrappers have versions
    _setup_privateuseone_for_python_backend("gpu", backend_module=Backend())
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor goes through the mode
    FakeGpu().__enter__()
