"""Ranks that meet in a store where others were before."""

import threading
from datetime import timedelta

import pytest
import torch.distributed as dist

from dist_rec.training.meeting import meet


def _all_meet(store: dist.Store, ranks: int, late: float = 0.0) -> list[str]:
    found: dict[int, str] = {}

    def come(rank: int) -> None:
        found[rank] = meet(store, rank, ranks, timedelta(seconds=20))

    threads = [threading.Timer(late * rank, come, [rank]) for rank in reversed(range(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(ranks)]


def test_every_start_has_a_word_of_its_own_whatever_was_left() -> None:
    store = dist.HashStore()
    words = []
    for ranks in (3, 3, 2, 4, 1, 3):
        met = _all_meet(store, ranks)
        assert len(set(met)) == 1
        words.append(met[0])
    assert len(set(words)) == 6


def test_a_start_that_was_broken_off_is_no_start() -> None:
    store = dist.HashStore()
    for rank in range(3):
        store.set(f"word/{rank}", "of a rank that is gone")
    assert len(set(_all_meet(store, 3, late=0.1))) == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_does_not_come_is_said(rank: int) -> None:
    with pytest.raises(dist.DistError):
        meet(dist.HashStore(), rank, 2, timedelta(seconds=0.2))


def test_who_is_missing_is_said_by_rank_0() -> None:
    with pytest.raises(dist.DistError, match="ranks 1, 2 did not come"):
        meet(dist.HashStore(), 0, 3, timedelta(seconds=0.1))
