import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.data.lengths import Lengths, Slots
from dist_rec.models.longer.merge import merged_places


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5), merge=st.integers(1, 4))
def test_groups_are_full_at_the_newest_end(lengths: list[int], merge: int) -> None:
    place, merged = merged_places(Lengths.of(lengths), merge)
    expected, before = [], 0
    for length in lengths:
        rows = -(-length // merge)
        expected += range(before + rows * merge - length, before + rows * merge)
        before += rows * merge
    assert place.tolist() == expected and merged.host.tolist() == [-(-length // merge) for length in lengths]
    assert merged.tensor.tolist() == merged.host.tolist() and merged.slots is None


@settings(max_examples=200, deadline=None)
@given(there=st.lists(st.lists(st.booleans(), max_size=9), min_size=1, max_size=5), merge=st.integers(1, 4))
def test_groups_of_slots_some_of_which_are_empty(there: list[list[bool]], merge: int) -> None:
    """A group is where it would be if no slot were empty; without an event it is not there."""
    slots = [[i for i, of in enumerate(sequence) if of] for sequence in there]
    position = torch.tensor([i for of in slots for i in of], dtype=torch.int32)
    lengths = Lengths.of([len(of) for of in slots])
    slotted = Slots(position, position.numpy(), Lengths.of([len(sequence) for sequence in there]))
    place, merged = merged_places(Lengths(lengths.given, lengths.host, slots=slotted), merge)
    expected, groups, rows = [], [], 0
    for sequence, own in zip(there, slots, strict=True):
        shift = -len(sequence) % merge
        found = sorted({(slot + shift) // merge for slot in own})
        expected += [(rows + found.index((slot + shift) // merge)) * merge + (slot + shift) % merge for slot in own]
        groups.append(found)
        rows += len(found)
    assert place.tolist() == expected and place.dtype == torch.int64
    assert merged.host.tolist() == merged.tensor.tolist() == [len(of) for of in groups]
    assert merged.slot.tolist() == [group for of in groups for group in of]
    assert merged.places.host.tolist() == [-(-len(sequence) // merge) for sequence in there]
