"""A run that goes on elsewhere reads the same requests in the same steps: other ranks, workers and batch sizes."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.position import DataPosition
from dist_rec.data.reader import RequestReader, make_loader
from tests.data.requests import make_dataset, make_schema

ROWS = 75


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """75 rows in two files of 5 row groups each (the last has 3 rows)."""
    return make_dataset(tmp_path_factory.mktemp("data") / "small", ROWS)


def _reader(dataset: Path, **settings) -> RequestReader:
    settings = {"batch_size": 4, "shuffle_window": 20, "seed": 3} | settings
    return RequestReader(folders=[dataset / "train"], schema=make_schema(), **settings)


def _by_events(dataset: Path, **settings) -> RequestReader:
    return _reader(dataset, **{"batch_size": None, "batch_events": 60} | settings)


def _users(batches: list[HostBatch]) -> list[list[int]]:
    return [batch.tensors["grouping_key"].tolist() for batch in batches]


@pytest.mark.parametrize("by", [_reader, _by_events])
@pytest.mark.parametrize(("planned", "there"), [(2, 1), (1, 2), (2, 4), (3, 2), (2, 2)])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_other_ranks_and_workers_go_on_with_the_same_steps(
    dataset: Path, by: Callable[..., RequestReader], planned: int, there: int, workers: int
) -> None:
    def steps(ranks: int, position: DataPosition | None, workers: int) -> list[list[int]]:
        of_ranks = [
            _users(list(make_loader(by(dataset, epochs=2, rank=rank, world_size=ranks, position=position), workers)))
            for rank in range(ranks)
        ]
        return [[user for users in ranks for user in users] for ranks in zip(*of_ranks, strict=True)]

    whole = steps(planned, None, 2)
    for done in (0, 3, len(whole) - 2):
        position = by(dataset, epochs=2, world_size=planned).position_at(done, 2)
        assert steps(there, position, workers) == whole[done:]


def test_a_position_goes_on_from_a_position(dataset: Path) -> None:
    """Two ranks, then one, then three: the plan stays that of two ranks and two workers."""
    first = _reader(dataset, world_size=2).position_at(2, 2)
    second = _reader(dataset, world_size=1, position=first).position_at(5, 0)
    assert (second.ranks, second.workers, second.step) == (2, 2, 5)
    assert _reader(dataset, world_size=3, position=second).plan(1).total == _reader(dataset, world_size=2).plan(2).total


@pytest.mark.parametrize("done", [0, 3, 10, 19, 21, 30])
def test_another_batch_size_goes_on_with_the_rows_that_are_left(dataset: Path, done: int) -> None:
    before = _reader(dataset, epochs=2)
    read = _users(list(before))[:done]
    position = before.position_at(done, 0).with_batches(7, None)
    after = _reader(dataset, epochs=2, batch_size=7, position=position)
    rest = _users(list(after))
    assert max(map(len, rest)) == 7
    assert Counter(user for users in [*read, *rest] for user in users) == Counter([*range(ROWS)] * 2)
    assert after.plan(0).total == done + len(rest)


def test_a_position_of_other_data_is_refused(dataset: Path) -> None:
    position = _reader(dataset).position_at(3, 0)
    with pytest.raises(ConfigError, match="cannot resume the data stream: it was saved with seed=3, now it is 4"):
        _reader(dataset, seed=4, position=position)


@pytest.mark.parametrize("by", [_reader, _by_events])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_rows_of_a_step_are_known(dataset: Path, by: Callable[..., RequestReader], ranks: int) -> None:
    """Planned for two ranks."""
    position = by(dataset, world_size=2).position_at(0, 2)
    for rank in range(ranks):
        reader = by(dataset, rank=rank, world_size=ranks, position=position)
        for step, users in enumerate(_users(list(reader))):
            places = reader.rows_at(step, 0)
            tables = [pq.ParquetFile(group.path).read_row_group(group.index) for group, _ in places]
            named = [table.column("user")[row].as_py() for table, (_, row) in zip(tables, places, strict=True)]
            assert named == users
