"""What every test gets: the same seed, one torch thread, and a reason instead of a failure where a GPU is needed and
missing.

Without a GPU, Triton kernels run in Triton's interpreter, which is chosen when a kernel's module is imported: hence on
top.

Memory that nobody has written reads as NaN (tests/helpers/poison.py), in fixtures and ranks too.

Properties are tried on the same examples every time, so that a commit passes or fails for everybody;
`--hypothesis-profile=default` looks for new ones.

Markers: `gpu` needs a CUDA device; such tests skip themselves without one. `unfilled(reason)` leaves memory as it is.
"""

import logging
import os
import random
from collections.abc import Iterator

import hypothesis
import numpy
import pytest
import torch

from tests.helpers.poison import filled_memory

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

hypothesis.settings.load_profile("ci")


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        item.add_marker(pytest.mark.skip(reason="needs a CUDA device, torch sees none"))
    marker = item.get_closest_marker("unfilled")
    if marker is not None and not (marker.args and isinstance(marker.args[0], str)):
        raise pytest.UsageError(f"{item.nodeid}: expected unfilled(reason), got no reason")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Around fixtures of every scope, which a fixture of a test would not be."""
    if item.get_closest_marker("unfilled"):
        return (yield)
    with filled_memory():
        return (yield)


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    """One thread: sums are split the same way on every machine, and several test processes share the cores."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A command sets up the process's logging; the next test in the process must not hear of it."""
    logger = logging.getLogger("dist_rec")
    before = list(logger.handlers), logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate, level = before
    logger.setLevel(level)
