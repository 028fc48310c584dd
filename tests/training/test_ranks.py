"""Jobs of one and two ranks: who one is, and sums over all."""

import socket

import pytest
import torch
import torch.distributed as dist

from dist_rec.common.errors import RunError
from dist_rec.common.strict import ConfigError
from dist_rec.config import ParallelConfig
from dist_rec.training.ranks import TORCHRUN, Ranks, joined_ranks, start_ranks
from tests.helpers.ranks import run_ranks
from tests.training.runs import these_ranks

FULL = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512"}


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
    with (
        pytest.raises(ConfigError, match="backend=nccl: no GPU is visible; expected gloo or auto"),
        start_ranks(config),
    ):
        pass


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    config = ParallelConfig()
    with (
        pytest.raises(ConfigError, match="local rank 1 needs its own GPU, but only 1 are visible"),
        start_ranks(config),
    ):
        pass


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, r"has RANK=0, but not WORLD_SIZE, MASTER_ADDR, MASTER_PORT: expected all of them.*unset RANK"),
        ({"WORLD_SIZE": "4"}, "has WORLD_SIZE=4, but not RANK, MASTER_ADDR, MASTER_PORT"),
        ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}, "but not MASTER_PORT"),
        (FULL | {"RANK": "zero"}, "RANK='zero', expected a number"),
        (FULL | {"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 and WORLD_SIZE=2, expected a rank below it"),
        (FULL | {"MASTER_PORT": "http"}, "MASTER_PORT='http', expected a number"),
        (FULL | {"LOCAL_RANK": "-1"}, "LOCAL_RANK='-1', expected a number"),
    ],
)
def test_variables_of_torchrun_that_do_not_fit_are_said(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*TORCHRUN, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message), start_ranks(ParallelConfig()):
        pass


def test_a_left_over_world_of_one_is_a_job_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with start_ranks(ParallelConfig()) as ranks:
        assert ranks.world_size == 1


def test_a_port_that_is_taken_and_ranks_that_do_not_come_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FULL.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        with pytest.raises(ConfigError, match="the port is taken by another program"), start_ranks(ParallelConfig()):
            pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    impatient = ParallelConfig(join_timeout_s=1)
    with pytest.raises(ConfigError, match=r"rank 0 has not met all 2 ranks within 1 s"), start_ranks(impatient):
        pass
    monkeypatch.setenv("RANK", "1")
    with (
        pytest.raises(RunError, match=r"rank 1 has not met all 2 ranks within 1 s.*this address"),
        start_ranks(impatient),
    ):
        pass


def _sums() -> tuple[bool, list[float]]:
    ranks: Ranks = these_ranks()
    total = ranks.total(ranks.rank + 1, 2.0**40 + ranks.rank)
    ranks.barrier()
    return ranks.is_main, total


def _largest() -> list[float]:
    ranks = these_ranks()
    return ranks.largest(ranks.rank, -ranks.rank, 2.0**40 + ranks.rank)


def test_the_largest_of_each_value() -> None:
    assert run_ranks(_largest, 2) == [[1.0, 0.0, 2.0**40 + 1]] * 2


def test_totals_are_sums_over_ranks_in_float64() -> None:
    exact = [3.0, 2.0**41 + 1]  # float32 would lose the one
    assert run_ranks(_sums, 2) == [(True, exact), (False, exact)]


def test_the_group_of_somebody_else_can_be_joined() -> None:
    with start_ranks(ParallelConfig()) as mine:
        found = joined_ranks(ParallelConfig())
        assert (found.rank, found.world_size, found.device) == (mine.rank, mine.world_size, mine.device)
        assert found.total(3.0) == [3.0]
