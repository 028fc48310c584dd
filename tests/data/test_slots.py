"""Merged: tests/models/longer/test_merge.py. Joined: tests/models/layers/test_jagged.py."""

import torch

from dist_rec.data.lengths import Lengths, Slots
from dist_rec.data.slots import grouped_slots, joined_slots


def _slotted(places: list[list[int]], sizes: list[int]) -> tuple[Lengths, Slots]:
    position = torch.tensor([place for of in places for place in of], dtype=torch.int32)
    slots = Slots(position, position.numpy(), Lengths.of(sizes))
    plain = Lengths.of([len(of) for of in places])
    return Lengths(plain.given, plain.host, slots=slots), slots


def test_groups() -> None:
    """Five places in groups of two: (0), (1, 2), (3, 4); the one in the middle has no row."""
    lengths, slots = _slotted([[0, 4], []], [5, 0])
    place, groups = grouped_slots(lengths, slots, 2)
    assert place.tolist() == [1, 3] and groups.host.tolist() == groups.tensor.tolist() == [2, 0]
    assert groups.slot.tolist() == [0, 2] and groups.places.host.tolist() == [3, 0]


def test_joined() -> None:
    """The second sequence's places come after all three of the first."""
    first, _ = _slotted([[0, 2]], [3])
    joined = joined_slots([first, Lengths.of([2])], Lengths.of([4]), [torch.tensor([0, 1]), torch.tensor([2, 3])])
    assert joined.position.tolist() == joined.host.tolist() == [0, 2, 3, 4] and joined.lengths.host.tolist() == [5]
