import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.data import Action, apply_event_filter

HIDDEN = {"item": 100, "kind": 9}


def _features(lengths: list[int], seed: int = 0) -> KeyedJaggedTensor:
    """A context field between the two fields of the events."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    item, kind = (torch.randint(0, size, (count,), generator=generator) for size in (100, 9))
    user = torch.arange(len(lengths))
    lengths_of_all = [*lengths, *([1] * len(lengths)), *lengths]
    return KeyedJaggedTensor(
        ["item", "user", "kind"], torch.cat([item, user, kind]), lengths=torch.tensor(lengths_of_all)
    )


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=5), seed=st.integers(0, 100))
def test_event_by_event(lengths: list[int], seed: int) -> None:
    features = _features(lengths, seed)
    actions = torch.randint(0, 5, (sum(lengths),), generator=torch.Generator().manual_seed(seed))
    got = apply_event_filter(features, actions, HIDDEN, ["user"])
    left = [i for i, action in enumerate(actions.tolist()) if action != Action.DROP]
    assert got.index.tolist() == left
    assert got.key_valid.tolist() == [actions[i] != Action.KEYMASK for i in left]
    assert got.target_weight.tolist() == [float(actions[i] == Action.KEEP) for i in left]
    before, after = features.to_dict(), got.features.to_dict()
    assert list(after) == list(before) and torch.equal(after["user"].values(), before["user"].values())
    taken = (Action.HIDE, Action.KEYMASK)
    for key, hidden in HIDDEN.items():
        values = before[key].values().tolist()
        assert after[key].values().tolist() == [hidden if actions[i] in taken else values[i] for i in left]
        parts = actions.split(lengths)
        assert after[key].lengths().tolist() == [int((part != Action.DROP).sum()) for part in parts]


def test_what_is_refused() -> None:
    features, actions = _features([2, 1]), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="expected fields of the events among"):
        apply_event_filter(features, actions, {"brand": 3})
    for hidden, others in (({"item": 3}, ["user"]), (HIDDEN, []), (HIDDEN, ["user", "kind"]), (HIDDEN, ["usr"])):
        with pytest.raises(ValueError, match="either in hidden or in others"):
            apply_event_filter(features, actions, hidden, others)
    with pytest.raises(ValueError, match="must have the same lengths, user and item differ"):
        apply_event_filter(features, actions, {"item": 3, "user": 3}, ["kind"])
    with pytest.raises(ValueError, match=r"expected \(3,\) integers, got \(2,\)"):
        apply_event_filter(features, actions[:2], HIDDEN, ["user"])
    with pytest.raises(ValueError, match=r"expected \(3,\) integers, got \(3,\) torch.float32"):
        apply_event_filter(features, actions.float(), HIDDEN, ["user"])
    with pytest.raises(ValueError, match="expected 0 to 4"):
        apply_event_filter(features, actions + 5, HIDDEN, ["user"])
    weighted = KeyedJaggedTensor(["item"], torch.arange(3), lengths=torch.tensor([3]), weights=torch.ones(3))
    with pytest.raises(ValueError, match="expected none with weights"):
        apply_event_filter(weighted, actions, {"item": 100})
