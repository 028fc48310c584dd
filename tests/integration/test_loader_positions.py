"""Where a `DedupLoader` goes on: items are numbered, of a data set of either kind, read in this process or by two
workers."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.data.dedup_loader import DedupLoader
from dist_rec.data.unique_features import UniqueFeatures
from tests.data.test_unique_features import features_of

FEATURES = features_of({"item": [[7, 8], [7]]})


def _threads() -> int:
    return sum(thread.name == "DedupLoader" for thread in threading.enumerate())


class _Numbered(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, i: int) -> KeyedJaggedTensor:
        return features_of({"a": [[i]]})


class _Stream(torch.utils.data.IterableDataset):
    """Every worker has its own part, and a state in one dict that it changes."""

    def __init__(self) -> None:
        self.state = {"read": 0}

    def __iter__(self) -> Iterator[KeyedJaggedTensor]:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        while (number := first + self.state["read"] * step) < ITEMS:
            self.state["read"] += 1
            yield features_of({"a": [[number]]})
        self.state["read"] = 0

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = dict(state)


ITEMS = 12
KINDS = [("map", 0), ("map", 2), ("stream", 0), ("stream", 2)]


def _stateful(kind: str, workers: int) -> DedupLoader:
    data = _Numbered() if kind == "map" else _Stream()
    return DedupLoader(StatefulDataLoader(data, batch_size=None, num_workers=workers), prefetch=3)


def _number(batch: UniqueFeatures) -> int:
    return int(batch.ids_of("a"))


def _read_from(state: dict[str, Any], kind: str, workers: int) -> list[int]:
    loader = _stateful(kind, workers)
    loader.load_state_dict(state)
    return [_number(batch) for batch in loader]


@pytest.mark.parametrize(("kind", "workers"), KINDS)
def test_goes_on_where_the_last_batch_was_handed_out(kind: str, workers: int) -> None:
    loader = _stateful(kind, workers)
    batches, states, seen = iter(loader), [loader.state_dict()], []
    for batch in batches:
        seen.append(_number(batch))
        states.append(loader.state_dict())
    states.append(loader.state_dict())
    assert seen == [*range(ITEMS)]
    ends = {0: seen, 5: seen[5:], ITEMS - 1: seen[-1:], ITEMS: [], ITEMS + 1: seen}  # behind the end: the next epoch
    for handed_out, rest in ends.items():
        state = json.loads(json.dumps(states[handed_out])) if workers == 0 else states[handed_out]
        assert _read_from(state, kind, workers) == rest, handed_out


@pytest.mark.parametrize(("kind", "workers"), KINDS[::3])
def test_batches_that_a_pipeline_still_holds_come_again(kind: str, workers: int) -> None:
    loader = _stateful(kind, workers)
    batches = iter(loader)
    with pytest.raises(ValueError, match="no batch has been handed out yet, got 2"):
        loader.state_dict(untrained=2)
    for _ in range(6):
        next(batches)
    assert _read_from(loader.state_dict(untrained=2), kind, workers) == [*range(4, ITEMS)]
    assert _read_from(loader.state_dict(untrained=6), kind, workers) == [*range(ITEMS)]
    with pytest.raises(ValueError, match="untrained: expected at most 6, got 7"):
        loader.state_dict(untrained=7)
    with pytest.raises(ValueError, match="untrained: expected a number of batches, 0 or more, got -1"):
        loader.state_dict(untrained=-1)
    assert [_number(batch) for batch in batches] == [*range(6, ITEMS)]
    assert _read_from(loader.state_dict(untrained=1), kind, workers) == [ITEMS - 1], (
        "the pipeline empties itself at the end"
    )


@pytest.mark.parametrize(("kind", "workers"), KINDS)
def test_positions_in_a_second_epoch_and_after_leaving_early(kind: str, workers: int) -> None:
    loader = _stateful(kind, workers)
    assert len(list(loader)) == ITEMS
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    second = loader.state_dict()
    batches.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator
    assert _read_from(second, kind, workers) == _read_from(loader.state_dict(), kind, workers) == [*range(3, ITEMS)]


def test_loading_ends_an_iteration_that_is_under_way() -> None:
    loader = _stateful("map", 0)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    next(batches)
    loader.load_state_dict(state)
    assert loader.state_dict() == state and _threads() == 0
    with pytest.raises(RuntimeError, match="this iteration of the DedupLoader is over, its load_state_dict was called"):
        next(batches)
    assert [_number(batch) for batch in loader] == [*range(1, ITEMS)]


def test_its_position_is_that_of_the_loader_alone() -> None:
    loader = _stateful("map", 0)
    batches = iter(loader)
    for _ in range(5):
        next(batches)
    alone = StatefulDataLoader(_Numbered(), batch_size=None)
    alone.load_state_dict(loader.state_dict())
    assert [int(batch.values()) for batch in alone] == [*range(5, ITEMS)]


def test_a_loader_without_a_position() -> None:
    loader = DedupLoader([FEATURES])
    for ask in (loader.state_dict, lambda: loader.load_state_dict({})):
        with pytest.raises(TypeError, match=r"expected one with state_dict\(\) and load_state_dict\(\).*, got a list"):
            ask()


def test_a_position_that_cannot_be_had_is_told_to_who_asks() -> None:
    class Broken(list):
        def state_dict(self) -> dict[str, Any]:
            raise OSError("no position")

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    loader = DedupLoader(Broken([FEATURES]))
    assert len(list(loader)) == 1
    with pytest.raises(OSError, match="no position"):
        loader.state_dict()
