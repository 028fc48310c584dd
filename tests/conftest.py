"""What every test gets: the same seed, one torch thread, and a reason instead of a failure where a GPU is needed and
missing.

Without a GPU, Triton kernels run in Triton's interpreter, which is chosen when a kernel's module is imported: hence on
top.

Marker: `gpu` needs a CUDA device; such tests skip themselves without one.
"""

import os
import random

import numpy
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, torch sees none"))


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    """One thread: sums are split the same way on every machine, and several test processes share the cores."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
