"""The dense update on stand-ins for streams and collectives: nothing reads or reuses memory that is still in use, and
every wait is there for a reason."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import dist_rec.optim
from dist_rec.optim import hybrid
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.optim.pending_reduce import PendingReduce
from tests.helpers.happens_before import waits_in
from tests.helpers.ranks import run_ranks
from tests.helpers.streams import Streams

STEPS = 6
Job = Callable[[HybridOptimizer, "Net", int], None]


class Net(nn.Module):
    """`second` has no gradient in every third step, and on the last rank in none of the first two."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor, second: bool) -> Tensor:
        x = self.first(x)
        return self.last(self.second(x) if second else x).sum()


def _plain(optimizer: HybridOptimizer, net: Net, step: int) -> None:
    pass


def _clips(optimizer: HybridOptimizer, net: Net, step: int) -> None:
    nn.utils.clip_grad_norm_(net.first.parameters(), 0.1)


def _skips(optimizer: HybridOptimizer, net: Net, step: int) -> None:
    if step % 2:
        optimizer.zero_grad()


def _clips_and_skips(optimizer: HybridOptimizer, net: Net, step: int) -> None:
    _clips(optimizer, net, step)
    _skips(optimizer, net, step)


def _saves(optimizer: HybridOptimizer, net: Net, step: int) -> None:
    if step == 4:
        optimizer.load_state_dict(optimizer.state_dict())


# Options of the optimizer, what the job does between backward and step, whether every parameter has a gradient.
DELAYED: dict[str, Any] = {"warmup_sync_steps": 1}
CASES: dict[str, tuple[dict[str, Any], Job, bool]] = {
    "in step": ({"warmup_sync_steps": 99, "clip_norm": 1.0}, _plain, False),
    "delayed": (DELAYED, _plain, False),
    "delayed, nothing checked": (DELAYED | {"skip_nonfinite": False}, _plain, False),
    "delayed in bf16": (DELAYED | {"compress": "bf16", "clip_norm": 1.0}, _plain, False),
    "accumulated": (DELAYED | {"accumulation_steps": 2}, _plain, False),
    "corrected and measured": (DELAYED | {"correction": "error_feedback", "health_every": 2}, _plain, False),
    "changed by the job": (DELAYED, _clips, True),
    "skipped by the job": (DELAYED, _skips, False),
    "changed and skipped by the job": (DELAYED, _clips_and_skips, True),
    "saved in bf16 and loaded": (DELAYED | {"compress": "bf16"}, _saves, False),
}


def update(case: str, *, without: str = "", ends: bool = True, ddp: bool = False) -> Streams:
    """Six steps; in the end the optimizer goes away, with a gradient in flight unless it `ends`."""
    options, job, whole = CASES[case]
    gc.freeze()  # the collection below looks at what is made from here on
    net = Net()
    model = DistributedDataParallel(net, find_unused_parameters=True) if ddp else net
    optimizer = HybridOptimizer(model, _sgd, bucket_cap_mb=1e-5, **options)
    last = dist.is_initialized() and dist.get_rank() == dist.get_world_size() - 1
    with Streams(without) as streams, _as_on_a_gpu():
        assert optimizer.all_reduce is not None
        optimizer.all_reduce._side_stream = streams.stream("side")
        for step in range(STEPS):
            optimizer.zero_grad()
            model(torch.ones(5, 4), whole or (step % 3 < 2 and not (last and step < 2))).backward()
            job(optimizer, net, step)
            optimizer.step()
        if ends:
            optimizer.show_in_flight()
            optimizer.flush()
        del optimizer, model, net
        gc.collect()
    gc.unfreeze()
    return streams


def _sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)  # no state on the host


def _as_on_a_gpu() -> Any:
    """Where a GPU decides, without the host, whether a gradient is applied: the host then waits for nothing. With a
    correction it does wait."""
    decide = hybrid.is_finite

    def stand_in(norm: Tensor, reduce: PendingReduce | None, *, read: bool) -> Tensor | bool:
        return decide(norm, reduce, read=read) if read else norm.isfinite()

    return mock.patch.object(hybrid, "is_finite", stand_in)


def _races(ddp: bool = False) -> dict[str, list[str]]:
    """Of every case; they have to be the first of the process's groups that are used, to have the same numbers."""
    return {
        f"{case}, {'at its end' if ends else 'in flight'}": update(case, ends=ends, ddp=ddp).races
        for case in CASES
        for ends in (True, False)
    }


def test_nothing_is_used_too_early_on_one_rank() -> None:
    assert not {case: races for case, races in _races().items() if races}


@pytest.mark.parametrize("ddp", [False, True], ids=["plain", "DDP"])
def test_nothing_is_used_too_early_on_two_ranks(ddp: bool) -> None:
    for found in run_ranks(_races, 2, ddp):
        assert not {case: races for case, races in found.items() if races}


# In these the absence of any wait shows; the last one ends with a gradient in flight.
SHOWING = {"delayed, nothing checked": True, "corrected and measured": True, "saved in bf16 and loaded": False}


def _without_each() -> dict[str, list[str]]:
    """Place of a wait -> the cases in which its absence is found on this rank."""
    waits = {place for case, ends in SHOWING.items() for place in update(case, ends=ends).waits}
    return {
        place: [case for case, ends in SHOWING.items() if update(case, without=place, ends=ends).races]
        for place in sorted(waits)
    }


def test_every_wait_is_needed_and_none_was_left_out() -> None:
    """Any of them missing is found. The first wait for a stream orders what one rank alone has written."""
    (two, _), one = run_ranks(_without_each, 2), _without_each()
    places = waits_in(*sorted(Path(dist_rec.optim.__file__).parent.glob("*.py")))
    assert places == one.keys() and len(places) == 5
    assert places < two.keys(), "and those for collectives"
    assert not [place for place in two if not (one.get(place) or two[place])]
    collectives = {place for place in two if place.startswith("work.wait")}
    assert len(collectives) == 3 and all(two[place] for place in collectives), "buckets, flags, sums of residuals"


def test_a_buffer_that_is_used_again_too_early_is_found() -> None:
    launch = PendingReduce.launch

    def launch_and_release(self: PendingReduce, *args: Any) -> None:
        launch(self, *args)
        self.release()

    with mock.patch.object(PendingReduce, "launch", launch_and_release):
        races = update("delayed, nothing checked").races
    assert any("default writes (aten::cat at dist_rec/optim/delayed.py" in race for race in races), races
