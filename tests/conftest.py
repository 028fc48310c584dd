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
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import numpy
import pytest
import torch

from tests.helpers.command import DistRec, in_this_process
from tests.helpers.poison import filled_memory

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

hypothesis.settings.load_profile("ci")


TESTS = Path(__file__).parent
LONG = ("training", "integration", "golden")  # folders whose tests start jobs of several ranks
CollectHook = Generator[None, pytest.CollectReport, pytest.CollectReport]
# What a host may lack that has a GPU and torch; the kernels need none of it.
OPTIONAL = ("torchrec", "fbgemm_gpu")


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and (lacking := lacking_for_a_gpu()):
        item.add_marker(pytest.mark.skip(reason=lacking))
    marker = item.get_closest_marker("unfilled")
    if marker is not None and not (marker.args and isinstance(marker.args[0], str)):
        raise pytest.UsageError(f"{item.nodeid}: expected unfilled(reason), got no reason")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with few and long tests first: one of them last would keep one worker busy and the others idle."""
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in LONG)


def lacking_for_a_gpu() -> str:
    """What keeps tests on a GPU from running here, as a sentence; empty if nothing does."""
    if not torch.cuda.is_available():
        return "needs a CUDA device, torch sees none"
    compilers = [os.environ.get("CC", ""), "gcc", "clang"]  # as Triton looks for them
    if not any(shutil.which(name) for name in compilers if name):
        return "needs a C compiler (gcc, clang, or CC): Triton builds the launcher of a kernel with it, found none"
    return ""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> CollectHook:
    """A file that needs a package which this host lacks is skipped, and the others run."""
    report = yield
    missing = [name for name in OPTIONAL if f"No module named '{name}" in report.longreprtext]
    if report.outcome == "failed" and missing:
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 1, f"Skipped: needs {missing[0]}, which is not installed")
    return report


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


@pytest.fixture
def dist_rec(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> DistRec:
    """`dist-rec ARGUMENTS` in this process."""
    return in_this_process(capfd, monkeypatch)
