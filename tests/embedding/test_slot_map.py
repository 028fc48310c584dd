import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.common.open_ids import HIDDEN_ID
from dist_rec.common.strict import ConfigError
from dist_rec.embedding.slot_map import BLOCKED, NEVER, Place, SlotMap
from tests.data.open_rows import raw_id
from tests.embedding.id_simulation import window

CPU = torch.device("cpu")
IDS = [raw_id(number) for number in range(200)]


@pytest.mark.parametrize("held", [1, 5, 60, 600, 2000])
def test_places_are_those_of_the_simulation(held: int) -> None:
    assert Place(held).windows(torch.tensor(IDS)).tolist() == [window(id_, held) for id_ in IDS]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_an_id_has_the_same_row_on_any_number_of_ranks(ranks: int) -> None:
    ids = torch.tensor(IDS)
    owners = Place(2000, 0, ranks).owners(ids)
    for rank in range(ranks):
        place = Place(2000, rank, ranks)
        mine = ids[owners == rank]
        windows = place.windows(mine)
        assert len(mine) > 0 and windows.min() >= 0 and windows.max() < place.slots
        assert torch.equal(windows + place.first, Place(2000).windows(mine))
    last = Place(2000, ranks - 1, ranks)
    assert last.fallback == last.hidden - 1 == last.first + last.slots - 2, "the last rows of the last rank"


def test_the_extra_rows_are_in_no_window() -> None:
    place = Place(600)
    reached = torch.unique(place.windows(torch.arange(20_000)))
    assert reached.tolist() == list(range(600))


def test_ranks_that_do_not_divide_the_buckets() -> None:
    Place(600, 0, 2).check("item")
    with pytest.raises(ConfigError, match="table item: 600 dynamic ids are in 2 buckets, which 3 ranks cannot hold"):
        Place(600, 0, 3).check("item")


def test_find_put_and_free() -> None:
    slots = SlotMap(Place(60), CPU)
    ids = torch.tensor(IDS[:5])
    windows, found = slots.find(ids)
    assert found.tolist() == [-1] * 5
    at = windows[:, 7]
    slots.put(at, ids, 3, 1)
    assert torch.equal(slots.find(ids.flip(0))[1], at.flip(0))
    slots.touch(at[:2], 4)
    assert slots.seen[at].tolist() == [4, 4, 3, 3, 3] and slots.count[at].tolist() == [2, 2, 1, 1, 1]
    slots.free(at[:1])
    assert slots.find(ids)[1].tolist() == [-1, *at[1:].tolist()]
    assert (slots.ids[at[0]], slots.seen[at[0]], slots.count[at[0]]) == (HIDDEN_ID, NEVER, 0)


@given(data=st.data(), count=st.integers(0, 12), width=st.integers(1, 5))
def test_ids_claim_slots_one_after_the_other(data: st.DataObject, count: int, width: int) -> None:
    """Few slots and few priorities: many ids want the same slot, and many slots are as good."""
    slots = SlotMap(Place(6), CPU)
    windows = [data.draw(st.permutations(range(6)))[:width] for _ in range(count)]
    of_slot = [data.draw(st.sampled_from([-1, 0, 1, BLOCKED])) for _ in range(6)]
    expected, taken = [], set()
    for each in windows:
        free = [(of_slot[slot], place, slot) for place, slot in enumerate(each) if slot not in taken]
        best = min((of for of in free if of[0] < BLOCKED), default=(0, 0, -1))[2]
        expected.append(best)
        taken.add(best)
    table = torch.tensor(windows, dtype=torch.int64).reshape(count, width)
    for _ in range(2):  # nothing of a call is left for the next one
        assert slots.claim(table, torch.tensor(of_slot)[table]).tolist() == expected
