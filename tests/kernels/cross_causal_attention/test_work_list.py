"""The list of tiles against a loop in Python."""

from dataclasses import dataclass
from itertools import accumulate

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dist_rec.kernels.cross_causal_attention.work_list import BLOCK, WorkList, make_work_list, sound_offsets
from tests.kernels.cross_causal_attention.cases import DEVICE


@dataclass(frozen=True)
class Wanted:
    slots: list[tuple[int, int]]  # request and tile, in order
    first: list[int]


def _wanted(lengths: list[int], weights: list[int], tile: int, factor: int, at_least_one: bool) -> Wanted:
    tiles = [max(-(-n * factor // tile), int(at_least_one)) for n in lengths]
    order = sorted(range(len(lengths)), key=lambda b: -weights[b])  # Python's sort keeps equal ones as they stand
    slots = [(b, t) for b in order for t in range(tiles[b])]
    before = dict(zip(order, accumulate((tiles[b] for b in order), initial=0)))
    return Wanted(slots, [before[b] for b in range(len(lengths))])


def _offsets(lengths: list[int], dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=dtype, device=DEVICE)


def _assert_is(work: WorkList, wanted: Wanted) -> None:
    count = len(wanted.slots)
    assert work.count.tolist() == [count] and count <= work.slots
    assert list(zip(work.request[:count].tolist(), work.tile[:count].tolist())) == wanted.slots
    assert work.first.tolist() == wanted.first
    assert {x.dtype for x in (work.request, work.tile, work.count, work.first)} == {torch.int32}


def test_sound_offsets_are_copied_and_others_are_zeros() -> None:
    long = list(range(0, 3000))
    for q, kv, broken in (
        ([0, 2, 5], [0, 0, 7], False),
        ([0], [0], False),
        (long, [0] * 3000, False),
        ([2, 3], [0, 7], True),
        ([0, 5], [4, 3], True),
        ([0, 3, 2], [0, 1, 2], True),
        ([*long[:-1], 5], long, True),
        ([0, 6000], [0, 7], True),
    ):
        for dtype in (torch.int32, torch.int64):
            q_offsets, kv_offsets = (torch.tensor(x, dtype=dtype, device=DEVICE) for x in (q, kv))
            found = sound_offsets(q_offsets, 5000, kv_offsets, 5000)
            assert bool(found.broken) == broken
            for mine, came in ((found.q, q_offsets), (found.kv, kv_offsets)):
                assert mine.dtype == torch.int32
                assert torch.equal(mine.long(), came.long() * (not broken))


_sizes = st.sampled_from((0, 0, 1, 2, 15, 16, 17, 31, 63, 64, 65, 127, 500))


@settings(max_examples=40, deadline=None)
@given(
    requests=st.lists(st.tuples(_sizes, _sizes), min_size=1, max_size=2 * BLOCK + 5),
    tile=st.sampled_from((1, 16, 64, 1024, 2**30)),
    factor=st.sampled_from((1, 2, 3)),
    at_least_one=st.booleans(),
    dtype=st.sampled_from((torch.int32, torch.int64)),
)
@example(requests=[(0, 0)], tile=16, factor=1, at_least_one=False, dtype=torch.int32)
@example(requests=[(5, 9)], tile=16, factor=4, at_least_one=True, dtype=torch.int64)
@example(
    requests=[(b % 3, b % 5) for b in range(2 * BLOCK + 1)], tile=1, factor=2, at_least_one=True, dtype=torch.int32
)
@example(requests=[(16, 7)] * BLOCK, tile=16, factor=1, at_least_one=True, dtype=torch.int32)
def test_equals_a_loop(
    requests: list[tuple[int, int]], tile: int, factor: int, at_least_one: bool, dtype: torch.dtype
) -> None:
    """Falling weight, equal ones as they stand, a request's tiles side by side; more requests than one program
    places."""
    lengths, weights = ([pair[side] for pair in requests] for side in (0, 1))
    if tile == 1:
        lengths = [min(n, 17) for n in lengths]
    offsets, weight_offsets = _offsets(lengths, dtype), _offsets(weights, dtype)
    work = make_work_list(offsets, sum(lengths), weight_offsets, tile, factor=factor, at_least_one=at_least_one)
    _assert_is(work, _wanted(lengths, weights, tile, factor, at_least_one))


def test_every_slot_can_be_needed() -> None:
    """One element more than whole tiles in every request: 6 tiles, and two slots more for alignment."""
    lengths = [17, 33, 1]
    work = make_work_list(_offsets(lengths), sum(lengths), _offsets(lengths), 16)
    assert int(work.count) == 6 and work.slots == 8


def test_a_tensor_may_be_longer_than_its_offsets_say() -> None:
    lengths = [3, 40]
    work = make_work_list(_offsets(lengths), 1000, _offsets(lengths), 16)
    _assert_is(work, _wanted(lengths, lengths, 16, 1, False))
