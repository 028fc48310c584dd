from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.data.lengths import Lengths, Slots

LENGTHS = st.lists(st.integers(0, 6), max_size=6)


@given(lengths=LENGTHS)
@settings(max_examples=50, deadline=None)
def test_what_follows_from_them(lengths: list[int]) -> None:
    of = Lengths.of(lengths)
    assert of.tensor.dtype == torch.int32 and of.host.dtype == "int32"
    assert of.tensor.tolist() == of.host.tolist() == lengths and len(of) == len(lengths)
    assert (of.total, of.longest) == (sum(lengths), max(lengths, default=0))
    assert of.request.tolist() == [b for b, n in enumerate(lengths) for _ in range(n)]
    assert of.position.tolist() == [i for n in lengths for i in range(n)]
    sums = [sum(lengths[:b]) for b in range(len(lengths) + 1)]
    assert of.offsets.dtype == torch.int32 and of.offsets.tolist() == sums
    assert (of.starts.tolist(), of.ends.tolist()) == (sums[:-1], sums[1:])


@given(pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=5))
@settings(max_examples=50, deadline=None)
def test_lengths_made_of_others_are_the_same_on_both_sides(pairs: list[tuple[int, int]]) -> None:
    one, other = (Lengths.of([pair[i] for pair in pairs]) for i in (0, 1))
    made = {
        "map": (one.map(lambda n: (n + 2) // 3), [-(-n // 3) for n, _ in pairs]),
        "plus": (one.plus(other), [n + m for n, m in pairs]),
        "clipped": (one.clipped(2), [min(n, 2) for n, _ in pairs]),
        "times": (one.times(3), [3 * n for n, _ in pairs]),
        "of_each": (one.of_each(other), [n for n, m in pairs for _ in range(m)]),
    }
    for name, (lengths, expected) in made.items():
        assert lengths.tensor.tolist() == lengths.host.tolist() == expected, name
        assert lengths.tensor.dtype == torch.int32 and lengths.host.dtype == "int32", name


def test_nothing_that_follows_reads_the_tensor_on_the_host() -> None:
    """Meta tensors have no values to read."""
    host = torch.tensor([3, 0, 2], dtype=torch.int32)
    lengths, counts = (Lengths(x.to("meta"), x.numpy()) for x in (host, host - host + 2))
    asked: list[Callable[[Lengths], object]] = [
        lambda x: (x.total, x.longest, x.offsets, x.position, x.request, x.starts, x.ends),
        lambda x: x.clipped(2).request,
        lambda x: x.of_each(counts).position,
    ]
    for ask in asked:
        ask(lengths)
    assert lengths.request.shape == (5,) and lengths.of_each(counts).tensor.shape == (6,)


def test_numbers_of_the_host_for_another_device() -> None:
    for numbers in ([3, 0, 2], torch.tensor([3, 0, 2])):
        lengths = Lengths.of(numbers, torch.device("meta"))
        assert lengths.tensor.device.type == "meta" and lengths.tensor.dtype == torch.int32
        assert lengths.host.tolist() == [3, 0, 2] and lengths.request.shape == (5,)


def test_numbers_that_are_on_a_device_only_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a tensor on the host, got one on meta"):
        Lengths.of(torch.zeros(2, device="meta"))


def test_places_of_sequences_with_empty_ones() -> None:
    """Sequences of 4, 0 and 3 places, with rows at 0, 2 of the first and at 1 of the last."""
    position = torch.tensor([0, 2, 1], dtype=torch.int32)
    slots = Slots(position, position.numpy(), Lengths.of([4, 0, 3]))
    plain = Lengths.of([2, 0, 1])
    lengths = Lengths(plain.given, plain.host, slots=slots)
    assert lengths.slot.tolist() == [0, 2, 1] and lengths.slot.dtype == torch.int64
    assert lengths.position.tolist() == [0, 1, 0], "rows are counted without them"
    assert lengths.places.host.tolist() == [4, 0, 3] and plain.places is plain
    assert plain.slot.tolist() == plain.position.tolist()
