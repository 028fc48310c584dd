"""States come back from bytes as they were, and damaged bytes are refused."""

import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dist_rec.serve.state_bytes import MAGIC, DamagedState, Kept, from_bytes, to_bytes
from dist_rec.serve.user_state import FOREVER, SequenceState, UserState
from tests.serve.engines import MODELS, make_engine
from tests.serve.exports import make_requests, table_of

NAMES = st.text(min_size=1, max_size=8)
KINDS = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
PARTS = st.dictionaries(NAMES, st.tuples(st.integers(0, 3), st.integers(0, 3), KINDS), max_size=3)


def same(one: Kept, other: Kept) -> bool:
    assert (one.user, one.origin, one.came) == (other.user, other.origin, other.came)
    a, b = one.state, other.state
    assert (a.version, a.as_of, a.until) == (b.version, b.as_of, b.until)
    assert a.events.equals(b.events) and a.events.schema.equals(b.events.schema)
    assert a.sequences.keys() == b.sequences.keys()
    for name, of in a.sequences.items():
        mine, its = of.tensors, b.sequences[name].tensors
        assert of.events == b.sequences[name].events and mine.keys() == its.keys()
        for part, tensor in mine.items():
            assert tensor.dtype == its[part].dtype and torch.equal(tensor, its[part]), part
    return True


@pytest.mark.parametrize("model", MODELS)
def test_states_of_every_model_come_back(model: str) -> None:
    engine, _ = make_engine(model)
    requests = table_of(make_requests(3))
    states = engine.encode(requests)
    back = [from_bytes(to_bytes(Kept(str(user), "o", state, {"history": user}))) for user, state in enumerate(states)]
    assert all(same(of, Kept(str(user), "o", states[user], {"history": user})) for user, of in enumerate(back))
    assert torch.equal(engine.score([of.state for of in back], requests).logits, engine.score(states, requests).logits)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(
    user=st.text(max_size=20),
    until=st.integers(0, FOREVER),
    parts=st.dictionaries(
        NAMES.filter(lambda name: "/" not in name), st.tuples(PARTS, PARTS, st.booleans()), max_size=2
    ),
    times=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
)
def test_any_state_comes_back(
    user: str, until: int, parts: dict[str, tuple[dict, dict, bool]], times: list[int]
) -> None:
    def tensors(of: dict[str, tuple[int, int, torch.dtype]]) -> dict[str, torch.Tensor]:
        return {name: torch.randn(n, w).to(kind) for name, (n, w, kind) in of.items()}

    sequences = {
        name: SequenceState(
            len(kept),
            torch.randint(-9, 9, (2, 3)).int(),
            tensors(kept),
            tensors(more),
            torch.randn(3) if pool else None,
        )
        for name, (kept, more, pool) in parts.items()
    }
    events = pa.table(
        {"a.time": pa.array([times], pa.list_(pa.int64())), "a.number": pa.array([[None]], pa.list_(pa.float32()))}
    )
    kept = Kept(user, "origin", UserState("v", events, 5, until, sequences), dict.fromkeys(parts, 2**40))
    assert same(from_bytes(to_bytes(kept)), kept)


def _data() -> bytes:
    engine, _ = make_engine("din")
    return to_bytes(Kept("1", "o", engine.encode(table_of(make_requests(1)))[0], {}))


def test_what_is_damaged_is_refused() -> None:
    data = _data()
    from_bytes(data)
    for place in [*range(60), *range(60, len(data), 37)]:
        for bit in (0, 7):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            with pytest.raises(DamagedState, match="expected"):
                from_bytes(bytes(flipped))
    for size in [*range(60), *range(60, len(data), 101)]:
        with pytest.raises(DamagedState):
            from_bytes(data[:size])
    with pytest.raises(DamagedState):
        from_bytes(data + b"\0")


@pytest.mark.parametrize("body", [b"", b"\0" * 8, b"\xff" * 30, b"\2\0\0\0\0\0\0\0{}", b"\4\0\0\0\0\0\0\0null"])
def test_bytes_with_the_right_sum_and_a_wrong_inside_are_refused(body: bytes) -> None:
    import hashlib

    with pytest.raises(DamagedState):
        from_bytes(MAGIC + hashlib.sha256(body).digest() + body)


def test_what_comes_back_does_not_need_the_bytes() -> None:
    data = bytearray(_data())
    kept = from_bytes(memoryview(data))
    copy = from_bytes(bytes(data))
    data[:] = b"\0" * len(data)
    assert same(kept, copy)
