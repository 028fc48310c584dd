"""The stand-ins find what is not ordered, and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.ranks import run_ranks
from tests.helpers.streams import Streams

Program = Callable[[Streams, bool], None]


def _read(streams: Streams, waits: bool) -> None:
    """A read of what another stream writes."""
    x, side = torch.zeros(3), streams.stream("side")
    x += 1
    if waits:
        side.wait_stream(streams.current)
    with streams.on(side):
        x.sum()
    streams.current.wait_stream(side)


def _write(streams: Streams, waits: bool) -> None:
    """A write of what another stream reads."""
    x, side = torch.zeros(3), streams.stream("side")
    side.wait_stream(streams.current)
    with streams.on(side):
        x.sum()
        done = side.record_event()
    if waits:
        done.wait()
    x += 1
    streams.current.wait_stream(side)


def _event_of_later_work(streams: Streams, waits: bool) -> None:
    """An event stands for what was launched before it was recorded."""
    x, side = torch.zeros(3), streams.stream("side")
    side.wait_stream(streams.current)
    early = side.record_event()
    with streams.on(side):
        x += 1
    (side.record_event() if waits else early).wait()
    x.sum()
    streams.current.wait_stream(side)


def _freed(streams: Streams, waits: bool) -> None:
    """Memory that goes back to the stream it came from while another reads it."""
    x, side = torch.zeros(3), streams.stream("side")
    side.wait_stream(streams.current)
    if waits:
        x.record_stream(side)
    with streams.on(side):
        x.sum()
    del x
    streams.current.wait_stream(side)


def _views(streams: Streams, waits: bool) -> None:
    """Of one memory; making them reads nothing."""
    x, side = torch.zeros(4), streams.stream("side")
    x += 1
    first = x[:2]
    with streams.on(side):
        last = x[2:].view(2, 1)
    if waits:
        side.wait_stream(streams.current)
    with streams.on(side):
        last.sum()
    streams.current.wait_stream(side)
    first.sum()


def _pinned(streams: Streams, waits: bool) -> None:
    """A copy to the host that the host reads."""
    x, host = torch.ones(()), torch.empty((), pin_memory=True)
    host.copy_(x, non_blocking=True)
    if waits:
        streams.current.record_event().synchronize()
    host.sum()


def _sent(streams: Streams, waits: bool) -> None:
    """A pinned buffer that the host changes while it is being copied to the device."""
    with streams.on_host():
        x = torch.zeros(3)
        if waits:
            x.fill_(2.0)
    there = x.to(torch.device("cpu"), non_blocking=True)
    if not waits:
        x.fill_(2.0)
    assert there.data_ptr() != x.data_ptr()


PROGRAMS: tuple[Program, ...] = (_read, _write, _event_of_later_work, _freed, _views, _pinned, _sent)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda of: of.__name__.strip("_"))
def test_what_is_not_ordered_is_found(program: Program) -> None:
    with Streams() as streams:
        program(streams, True)
    assert not streams.races
    with Streams() as streams:
        program(streams, False)
    (race,) = streams.races
    assert "tests/helpers/test_streams.py:" in race and ("may still use" in race)


def test_waits_go_from_stream_to_stream_and_over_the_host() -> None:
    with Streams() as streams:
        x, first, second = torch.zeros(3), streams.stream("first"), streams.stream("second")
        first.wait_stream(streams.current)
        with streams.on(first):
            x += 1
        second.wait_stream(first)
        second.synchronize()
        x += 1
    assert not streams.races


@given(waits=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=6))
def test_a_chain_of_waits_is_enough_and_nothing_less(waits: list[tuple[int, int]]) -> None:
    """Three streams: the first writes, then they wait for each other, then the last reads."""
    knows = {0}
    with Streams() as streams:
        x, lanes = torch.zeros(3), [streams.default, streams.stream("1"), streams.stream("2")]
        x += 1
        for waiting, other in waits:
            lanes[waiting].wait_stream(lanes[other])
            knows |= {waiting} if other in knows else set()
        with streams.on(lanes[2]):
            x.sum()
        found = bool(streams.races)
        streams.default.wait_stream(lanes[2])
    assert found == (2 not in knows)


def _collectives() -> list[list[str]]:
    """Launched behind the writes, read after a wait; and then without the wait."""
    found = []
    for waits in (True, False):
        with Streams() as streams:
            x = torch.ones(3)
            work: Any = dist.all_reduce(x, async_op=True)
            if waits:
                work.wait()
            assert x.tolist() == [2.0, 2.0, 2.0]
        found.append(streams.races)
    return found


def test_a_collective_runs_beside_the_streams_until_it_is_waited_for() -> None:
    for quiet, found in run_ranks(_collectives, 2):
        assert not quiet
        assert [race.split(" (")[0] for race in found] == ["default reads"] and "what group 0 may still use" in found[0]


def test_everything_is_as_before_at_the_end() -> None:
    before = torch.cuda.stream, torch.empty, torch.Tensor.to, dist.all_reduce
    with Streams():
        assert torch.cuda.stream is not before[0]
    assert (torch.cuda.stream, torch.empty, torch.Tensor.to, dist.all_reduce) == before
