"""What every test gets: the same seed, one torch thread, and a reason instead of a failure where a GPU is needed and missing.

Marker: `gpu` needs a CUDA device; such tests skip themselves without one.
"""

import random

import numpy
import pytest
import torch


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
