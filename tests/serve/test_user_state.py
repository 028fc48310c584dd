"""For how long a state holds, and how large it is."""

import pyarrow as pa
import torch

from dist_rec.serve.user_state import SequenceState, UserState


def state(as_of: int, until: int) -> UserState:
    of = SequenceState(2, torch.zeros(2, 3, dtype=torch.int32), {"keys": torch.zeros(2, 4)}, {}, torch.zeros(5))
    return UserState("v1", pa.table({"history.item": [[1, 2]]}), as_of, until, {"history": of})


def test_it_holds_until_an_age_changes_or_as_long_as_it_may_be_stale() -> None:
    held = state(100, 110)
    assert [held.holds_at(time) for time in (99, 100, 109, 110)] == [False, True, True, False]
    assert [held.holds_at(time, stale=20) for time in (99, 110, 120, 121)] == [False, True, True, False]


def test_bytes_are_those_of_tensors_and_events() -> None:
    held = state(0, 1)
    assert set(held.sequences["history"].tensors) == {"inputs", "kept.keys", "pool"}
    assert held.nbytes == held.events.nbytes + 24 + 32 + 20
