"""Against `id_simulation`, which is plain Python and looks at one id after the other."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.common.open_ids import AdmissionConfig, EvictionConfig
from dist_rec.embedding.dynamic_ids import USES, DynamicIds
from dist_rec.embedding.slot_map import Place, SlotMap
from tests.data.open_rows import raw_id
from tests.embedding.id_simulation import Simulation, Slot

CPU = torch.device("cpu")
POLICIES = [{"policy": "lru"}, {"policy": "lfu"}, {"policy": "ttl", "ttl": 1}, {"policy": "ttl", "ttl": 4}]
SETTINGS = [(policy, count) for policy in POLICIES for count in (1, 2, 3)]


def _dynamic(held: int, policy: dict[str, Any], count: int) -> tuple[DynamicIds, Simulation]:
    options = EvictionConfig.model_validate(policy), AdmissionConfig(count=count)
    return DynamicIds(Place(held), *options, CPU), Simulation(held, *options)


def _content(of: SlotMap | None) -> dict[int, Slot]:
    if of is None:
        return {}
    places = (of.seen >= 0).nonzero()[:, 0].tolist()
    return {place: Slot(int(of.ids[place]), int(of.seen[place]), int(of.count[place])) for place in places}


def _check_step(dynamic: DynamicIds, simulation: Simulation, ids: set[int], step: int) -> None:
    learned = dynamic.learn(torch.tensor(sorted(ids), dtype=torch.int64), step)
    expected = simulation.learn(ids, step)
    assert learned.slots.tolist() == [expected[id_] for id_ in sorted(ids)]
    assert dict(zip(learned.fresh.tolist(), learned.ids.tolist(), strict=True)) == simulation.fresh
    assert _content(dynamic.table) == simulation.slots
    assert _content(dynamic.waiting) == simulation.waiting
    assert dynamic.uses.tolist() == simulation.uses


@pytest.mark.parametrize(("policy", "count"), SETTINGS)
@given(
    held=st.sampled_from([1, 3, 6]),
    steps=st.lists(st.sets(st.integers(0, 14).map(raw_id), max_size=8), max_size=14),
)
def test_a_small_table(policy: dict[str, Any], count: int, held: int, steps: list[set[int]]) -> None:
    dynamic, simulation = _dynamic(held, policy, count)
    for step, ids in enumerate(steps):
        _check_step(dynamic, simulation, ids, step)


@pytest.mark.parametrize(("policy", "count"), SETTINGS)
@pytest.mark.parametrize("held", [60, 600])
def test_windows_and_buckets(policy: dict[str, Any], count: int, held: int) -> None:
    """Windows smaller than a bucket, several buckets, and steps with more new ids than there are slots."""
    dynamic, simulation = _dynamic(held, policy, count)
    generator = torch.Generator().manual_seed(held + count)
    for step in range(12):
        drawn = torch.randint(0, 3 * held, (held // (1 + step % 3),), generator=generator)
        _check_step(dynamic, simulation, set(map(raw_id, drawn.tolist())), step)
    assert dynamic.uses[USES.index("hits")] > 0
    assert dynamic.uses[USES.index("evicted" if policy["policy"] != "ttl" else "no_slot")] > 0 or count > 1


@given(ids=st.sets(st.integers(-(2**63) + 1, 2**63 - 1), min_size=1, max_size=30))
def test_any_64_bits_are_an_id(ids: set[int]) -> None:
    dynamic, simulation = _dynamic(40, {}, 1)
    for step in range(2):
        _check_step(dynamic, simulation, ids, step)
    slots = dynamic.known(torch.tensor(sorted(ids)))
    assert slots.tolist() == [simulation.learn(ids, 2)[id_] for id_ in sorted(ids)]


def test_looking_changes_nothing() -> None:
    dynamic, simulation = _dynamic(6, {}, 2)
    for step in range(3):
        _check_step(dynamic, simulation, {raw_id(number) for number in range(4)}, step)
    before = [of.clone() for of in _tensors(dynamic)]
    slots = dynamic.known(torch.tensor([raw_id(2), raw_id(99), raw_id(0)]))
    assert slots[1] == -1 and slots[0] >= 0 and slots[2] >= 0
    assert dynamic.known(torch.zeros(0, dtype=torch.int64)).tolist() == []
    assert all(torch.equal(a, b) for a, b in zip(before, _tensors(dynamic), strict=True))


def test_memory() -> None:
    place = Place(600)
    assert DynamicIds(place, EvictionConfig(), AdmissionConfig(), CPU).nbytes == 20 * 602
    assert DynamicIds(place, EvictionConfig(), AdmissionConfig(count=2), CPU).nbytes == 2 * 20 * 602


@pytest.mark.gpu
@pytest.mark.parametrize(("policy", "count"), SETTINGS)
def test_a_gpu_has_the_slots_of_a_cpu(policy: dict[str, Any], count: int) -> None:
    options = EvictionConfig.model_validate(policy), AdmissionConfig(count=count)
    here, there = (DynamicIds(Place(600), *options, torch.device(of)) for of in ("cpu", "cuda"))
    generator = torch.Generator().manual_seed(count)
    for step in range(12):
        drawn = torch.randint(0, 1800, (500,), generator=generator).tolist()
        ids = torch.tensor(sorted(set(map(raw_id, drawn))))
        learned, other = here.learn(ids, step), there.learn(ids.cuda(), step)
        assert torch.equal(learned.slots, other.slots.cpu()) and torch.equal(learned.fresh, other.fresh.cpu())
    assert torch.equal(here.uses, there.uses.cpu())


def _tensors(dynamic: DynamicIds) -> list[torch.Tensor]:
    assert dynamic.waiting is not None
    maps = (dynamic.table, dynamic.waiting)
    return [*(of for each in maps for of in (each.ids, each.seen, each.count)), dynamic.uses]
