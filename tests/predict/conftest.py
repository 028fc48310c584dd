"""A small dataset, a recipe and a checkpoint of it, and a job of one rank in the test's own process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dist_rec.config import Config, ParallelConfig
from dist_rec.training.ranks import Ranks, start_ranks
from tests.training.runs import make_config, run, write_dataset


@pytest.fixture
def alone() -> Iterator[Ranks]:
    with start_ranks(ParallelConfig()) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test split has two row groups, of 6 and of 9 requests."""
    return write_dataset(tmp_path_factory.mktemp("predict") / "data")


@pytest.fixture(scope="session")
def config(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Batches of 5 requests, read by the process itself."""
    return make_config(data, tmp_path_factory.mktemp("run"), run={"max_steps": 3}, checkpoint={"every_steps": 2})


@pytest.fixture(scope="session")
def checkpoints(config: Config) -> Path:
    """`last`, of weights alone, and `step-2`, to go on from."""
    with start_ranks(ParallelConfig()) as ranks:
        run(config, ranks)
    return Path(config.run.out) / "run" / "checkpoints"


@pytest.fixture(scope="session")
def last(checkpoints: Path) -> Path:
    return checkpoints / "last"
