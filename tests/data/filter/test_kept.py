import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.data.filter.actions import Action
from dist_rec.data.filter.kept import kept_candidates, kept_events

REQUESTS = st.lists(st.lists(st.sampled_from(list(Action)), max_size=8), max_size=5)


def _flat(requests: list[list[Action]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([a for of in requests for a in of], np.uint8), np.array([len(of) for of in requests], np.int64)


@settings(max_examples=300, deadline=None)
@given(requests=REQUESTS, most=st.none() | st.integers(1, 6))
def test_what_is_left_event_by_event(requests: list[list[Action]], most: int | None) -> None:
    actions, lengths = _flat(requests)
    kept = kept_events(actions, lengths, most)
    if all(action <= Action.MASK for action in actions):
        assert kept is None
        return
    assert kept is not None
    index, counts, hidden, slots, places, first = [], [], [], [], [], 0
    for of in requests:
        there = [first + i for i, action in enumerate(of) if action != Action.DROP]
        there = there[-most:] if most else there
        seen = [(slot, i) for slot, i in enumerate(there) if actions[i] != Action.KEYMASK]
        index += [i for _, i in seen]
        slots += [slot for slot, _ in seen]
        hidden += [actions[i] == Action.HIDE for _, i in seen]
        counts.append(len(seen))
        places.append(len(there))
        first += len(of)
    assert (kept.of(np.arange(len(actions))).tolist(), kept.lengths.tolist()) == (index, counts)
    assert (kept.index is None) == (len(index) == len(actions)), "nothing is gathered where nothing is gone"
    assert (kept.hidden is None) == (not any(hidden)) and (kept.hidden is None or kept.hidden.tolist() == hidden)
    assert (kept.slots is not None) == (Action.KEYMASK in actions)
    if kept.slots is not None:
        assert (kept.slots.position.tolist(), kept.slots.lengths.tolist()) == (slots, places)
    if most is None:
        assert kept.before.tolist() == [sum(i < n for i in index) for n in range(len(actions) + 1)]
        gone = [action == Action.DROP for action in actions]
        assert kept.places_before.tolist() == [n - sum(gone[:n]) for n in range(len(actions) + 1)]


@settings(max_examples=100, deadline=None)
@given(requests=REQUESTS)
def test_candidates(requests: list[list[Action]]) -> None:
    actions, lengths = _flat(requests)
    kept = kept_candidates(actions, lengths)
    if kept is None:
        assert all(action <= Action.MASK for action in actions)
        return
    assert kept.of(actions).tolist() == [action for action in actions if action != Action.DROP]
    assert kept.lengths.tolist() == [sum(action != Action.DROP for action in of) for of in requests]
    assert kept.shown(np.zeros(len(actions), np.uint8), 300).tolist() == [
        300 if action in (Action.HIDE, Action.KEYMASK) else 0 for action in actions if action != Action.DROP
    ]
    assert kept.slots is None


def test_hidden_values_get_a_type_that_holds_them() -> None:
    kept = kept_events(np.array([Action.HIDE, Action.KEEP], np.uint8), np.array([2]), None)
    assert kept is not None
    values = np.array([7, 255], np.uint8)
    assert kept.shown(values, 255).dtype == np.uint8 and kept.shown(values, 256).tolist() == [256, 255]
