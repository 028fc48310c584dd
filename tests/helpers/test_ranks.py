import os
import time

import pytest
import torch
import torch.distributed as dist

from tests.helpers.ranks import run_ranks


def _sum_over_ranks(value: float) -> tuple[int, str, torch.Tensor]:
    total = torch.tensor([value + dist.get_rank()])
    dist.all_reduce(total)
    return dist.get_rank(), os.environ["LOCAL_WORLD_SIZE"], total


def _second_fails_first_waits() -> None:
    if dist.get_rank() == 1:
        raise ValueError("the cause")
    dist.barrier()


def _second_hangs() -> None:
    if dist.get_rank() == 1:
        time.sleep(600)


def _second_crashes() -> None:
    if dist.get_rank() == 1:
        os._exit(7)
    time.sleep(600)


def test_returns_what_each_rank_returned() -> None:
    results = run_ranks(_sum_over_ranks, 2, 1.0)
    assert [(rank, size) for rank, size, _ in results] == [(0, "2"), (1, "2")]
    assert [total.item() for _, _, total in results] == [3.0, 3.0]


def test_gives_the_traceback_of_the_rank_that_failed_first() -> None:
    with pytest.raises(
        AssertionError, match=r"(?s)rank 1 of 2 failed first:.*in _second_fails_first_waits.*ValueError: the cause"
    ):
        run_ranks(_second_fails_first_waits, 2)


def test_names_the_ranks_that_hang() -> None:
    start = time.monotonic()
    with pytest.raises(AssertionError, match=r"still running.*rank\(s\) \[0, 1\] of 2"):
        run_ranks(_second_hangs, 2, timeout_s=8.0)
    assert time.monotonic() - start < 60


def test_reports_a_rank_that_dies_without_an_error() -> None:
    with pytest.raises(AssertionError, match=r"exit code by rank: \{1: 7\}"):
        run_ranks(_second_crashes, 2)
