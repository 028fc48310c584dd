"""A small dataset, and a job of one rank in the test's own process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dist_rec.config import ParallelConfig
from dist_rec.training.ranks import Ranks, start_ranks


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.training.runs import write_dataset  # here: on a host without TorchRec other folders still run

    return write_dataset(tmp_path_factory.mktemp("train") / "data")


@pytest.fixture
def alone() -> Iterator[Ranks]:
    with start_ranks(ParallelConfig()) as ranks:
        yield ranks
