"""The process group of one process: made once, shared, and given back."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from dist_rec.common.strict import ConfigError
from dist_rec.config import ParallelConfig
from dist_rec.predict.alone import SharedRank
from dist_rec.training.ranks import Ranks
from tests.helpers.ranks import run_ranks


def test_it_is_there_as_long_as_somebody_uses_it() -> None:
    shared = SharedRank()
    first = shared.enter(ParallelConfig())
    assert shared.enter(ParallelConfig()) is first and (first.rank, first.world_size) == (0, 1)
    shared.leave()
    assert dist.is_initialized(), "the other one still uses it"
    shared.leave()
    assert not dist.is_initialized()
    shared.enter(ParallelConfig())
    shared.leave()
    assert not dist.is_initialized()


def test_a_group_of_somebody_else_is_used_and_left_alone(alone: Ranks) -> None:
    shared = SharedRank()
    assert shared.enter(ParallelConfig()).total(2.0) == [2.0]
    shared.leave()
    assert dist.is_initialized() and alone.total(1.0) == [1.0]


def test_groups_beside_those_of_somebody_else_end(alone: Ranks) -> None:
    shared, before = SharedRank(), len(dist.distributed_c10d._world.pg_map)
    for _ in range(3):
        shared.enter(ParallelConfig())
        shared.leave()
    assert len(dist.distributed_c10d._world.pg_map) == before


def test_threads_share_it() -> None:
    shared, threads = SharedRank(), 8
    together = threading.Barrier(threads)

    def enter(_: int) -> Ranks:
        together.wait()
        return shared.enter(ParallelConfig())

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(enter, range(threads)))
        assert all(ranks is found[0] for ranks in found)
        list(pool.map(lambda _: shared.leave(), range(threads)))
    assert not dist.is_initialized()


def test_models_of_a_process_are_on_one_kind_of_device(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedRank()
    shared.enter(ParallelConfig(backend="gloo"))
    with pytest.raises(ConfigError, match="one kind of device, got cuda beside cpu"):
        shared.enter(ParallelConfig(backend="nccl"))
    shared.leave()
    assert not dist.is_initialized()


def test_torchrun_has_started_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="got one of 2 ranks; with several ranks: dist-rec predict"):
        SharedRank().enter(ParallelConfig())


def _refused() -> str:
    with pytest.raises(ConfigError) as caught:
        SharedRank().enter(ParallelConfig())
    return str(caught.value)


def test_a_rank_of_a_job_is_refused() -> None:
    assert all("expected a process of its own" in said for said in run_ranks(_refused, 2))
