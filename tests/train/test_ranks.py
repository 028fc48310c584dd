"""Jobs of one and two ranks: who one is, and sums over all."""

import socket

import pytest
import torch
import torch.distributed as dist

from dist_rec.config import ConfigError, ParallelConfig
from dist_rec.train.ranks import Ranks, start_ranks
from tests.helpers.ranks import run_ranks
from tests.train.runs import these_ranks


def test_a_job_of_one_rank_needs_no_launcher() -> None:
    with start_ranks(ParallelConfig(backend="gloo", threads=2)) as ranks:
        assert (ranks.rank, ranks.world_size, ranks.is_main, ranks.device) == (0, 1, True, torch.device("cpu"))
        assert ranks.total(1.5, 2) == [1.5, 2.0]
        assert torch.get_num_threads() == 2
        ranks.barrier()
    assert not dist.is_initialized()


def test_the_job_is_left_when_something_fails() -> None:
    with pytest.raises(RuntimeError, match="inside"), start_ranks(ParallelConfig()):
        raise RuntimeError("inside")
    assert not dist.is_initialized()


def test_joins_the_job_of_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with start_ranks(ParallelConfig(backend="gloo")) as ranks:
        assert (ranks.rank, ranks.world_size) == (0, 1)


def test_nccl_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = ParallelConfig(backend="nccl")
    with pytest.raises(ConfigError, match="backend=nccl: no GPU is visible; expected gloo or auto"), start_ranks(config):
        pass


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    config = ParallelConfig()
    with pytest.raises(ConfigError, match="local rank 1 needs its own GPU, but only 1 are visible"), start_ranks(config):
        pass


def _sums() -> tuple[bool, list[float]]:
    ranks: Ranks = these_ranks()
    total = ranks.total(ranks.rank + 1, 2.0**40 + ranks.rank)
    ranks.barrier()
    return ranks.is_main, total


def test_totals_are_sums_over_ranks_in_float64() -> None:
    exact = [3.0, 2.0**41 + 1]  # float32 would lose the one
    assert run_ranks(_sums, 2) == [(True, exact), (False, exact)]
