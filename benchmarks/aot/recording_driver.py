"""A Triton driver for a GPU that is not there: it compiles for the GPU that was named, runs nothing, and records every
launch.

For a process without TRITON_INTERPRET.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver

from dist_rec.cost.ledger import kernels_of_a_gpu
from dist_rec.data import unique_tokens
from dist_rec.kernels import gather_pool, jagged_range, prefix_sum
from dist_rec.kernels.cross_causal_attention import checks, op, tuning

LAUNCHES: list[str] = []
# Streaming multiprocessors of an A100 and of an H100.
PROCESSORS = {80: 108, 90: 132}


class _Utils:
    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[object, int, int, int, int]:
        return object(), 1, 128, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232_448, "multiprocessor_count": 132, "warpSize": 32, "max_num_regs": 65_536}


class _Launcher:
    def __init__(self, src: Any, metadata: Any) -> None:
        self.name = metadata.name

    def __call__(self, *_: Any) -> None:
        LAUNCHES.append(self.name)


class _Driver(DriverBase):
    def __init__(self, capability: int) -> None:
        self.capability, self.utils, self.launcher_cls = capability, _Utils(), _Launcher

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps what it compiled by device: one for each kind

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_benchmarker(self) -> None:
        return None

    def get_device_interface(self) -> None:
        return None


def install(capability: int = 90) -> list[str]:
    """From now on the driver of this process, for sm_`capability`; the names of the kernels that will be launched."""
    driver.set_active(_Driver(capability))
    return LAUNCHES


@contextmanager
def as_on_a_gpu(capability: int = 90) -> Iterator[None]:
    """Inside, tensors of the CPU get the kernels, the tiles and the bit-packed indices that a GPU of sm_`capability`
    would get, and nobody reads their values. For models in bf16 set the precision: `auto` is fp32 on a CPU."""
    with ExitStack() as patched:
        patched.enter_context(kernels_of_a_gpu())
        for module in (jagged_range, prefix_sum, checks, gather_pool.checks):
            patched.enter_context(mock.patch.object(module, "readable", lambda *_: False))
        patched.enter_context(mock.patch.object(op, "_processors", lambda _: PROCESSORS[capability]))
        patched.enter_context(mock.patch.object(tuning, "architecture", lambda _: capability))
        patched.enter_context(mock.patch.object(unique_tokens, "unpack_inverse", lambda packed: packed))
        yield
