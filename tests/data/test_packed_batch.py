import pickle
from dataclasses import fields, is_dataclass

import pytest
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.data.batch import SequenceBatch
from dist_rec.data.collate import collate
from dist_rec.data.packed_batch import PackedBatch
from dist_rec.data.schema import Schema
from dist_rec.kernels.unique_ids import BitPackedIndex
from tests.data.requests import make_rows, make_schema, make_table, seen_schema

CPU = torch.device("cpu")
SEEN = {"user": 7, "history.item": [4, 5, 4], "history.correct": [1, 0, 1]}
SEEN |= {"candidate.item": [4, 5], "candidate.correct": [1, 0], "candidate.seen": [0, 1]}
CASES = {
    "full": (make_schema(), make_rows(9)),
    "without context": (make_schema(context=[]), make_rows(9)),
    "seen": (seen_schema(), [SEEN]),
    "one row": (make_schema(), make_rows(1)),
    "empty": (make_schema(), []),
}


def _leaves(value: object, place: str = "") -> dict[str, object]:
    if isinstance(value, KeyedJaggedTensor):
        return {f"{place}.keys": value.keys(), f"{place}.values": value.values(), f"{place}.lengths": value.lengths()}
    if isinstance(value, dict):
        return {k: leaf for name, item in value.items() for k, leaf in _leaves(item, f"{place}.{name}").items()}
    if is_dataclass(value):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
        return {k: leaf for name, item in named.items() for k, leaf in _leaves(item, f"{place}.{name}").items()}
    return {place: value}


def _assert_same(one: SequenceBatch, other: SequenceBatch) -> None:
    left, right = _leaves(one), _leaves(other)
    assert left.keys() == right.keys()
    for name, leaf in left.items():
        if isinstance(leaf, Tensor):
            assert isinstance(twin := right[name], Tensor)
            assert leaf.dtype == twin.dtype and torch.equal(leaf, twin), name
        else:
            assert leaf == right[name], name


@pytest.mark.parametrize("dedup", [True, False])
@pytest.mark.parametrize(("schema", "rows"), CASES.values(), ids=CASES.keys())
def test_opens_to_what_was_packed(schema: Schema, rows: list[dict], dedup: bool) -> None:
    batch = collate(make_table(rows, schema), schema, dedup=dedup)
    packed = PackedBatch.of(batch, schema)
    _assert_same(packed.to(CPU), batch)
    _assert_same(pickle.loads(pickle.dumps(packed)).to(CPU), batch)
    assert (packed.num_requests, packed.num_candidates, packed.num_events) == (
        batch.num_requests,
        batch.num_candidates,
        batch.num_events,
    )
    assert (packed.max_candidates, packed.plain_bytes) == (batch.max_candidates, batch.plain_bytes)


def test_each_part_is_as_narrow_as_it_can_be() -> None:
    schema = make_schema(tables={"item": 70_000, "kind": 5, "user": 1000, "query": 2**31 - 1})
    rows = make_rows(40)
    batch = collate(make_table(rows), schema)
    packed = PackedBatch.of(batch, schema)
    types = {key: packed.packet[f"ids.{key}"].dtype for key in packed.keys}
    assert types == {
        "context.user": torch.int16,
        "history.item": torch.int32,
        "history.kind": torch.uint8,
        "searches.query": torch.int32,
    }
    tokens = len(batch.unique.to_dict()["history.item"].values())
    assert packed.bits["history"] == packed.bits["candidate"] == (tokens - 1).bit_length()
    words = packed.packet["inverse.history"]
    assert len(words) == -(-packed.counts["history"] * packed.bits["history"] // 32) + 1
    assert packed.packet["dynamic.history.action"].dtype == torch.uint8
    assert packed.packet["lengths.history"].dtype == torch.int32


def test_stays_packed_on_a_device_and_moves_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands for a GPU: nothing on it can be read, so opening a batch there cannot wait for it."""
    packed = PackedBatch.of(collate(make_table(make_rows(9)), make_schema()), make_schema())
    moved: list[int] = []
    plain = torch.Tensor.to

    def to(self: Tensor, *args: object, **kwargs: object) -> Tensor:
        there = plain(self, *args, **kwargs)  # pyright: ignore[reportCallIssue, reportArgumentType]
        if there.device != self.device:
            moved.append(self.nbytes)
        return there

    monkeypatch.setattr(torch.Tensor, "to", to)
    there = packed.to(torch.device("meta"), non_blocking=True)
    assert moved == [packed.nbytes]
    inverse = there.sequences["history"].inverse
    assert isinstance(inverse, BitPackedIndex) and inverse.words.is_meta and isinstance(there.context, BitPackedIndex)
    assert there.unique.values().is_meta and there.unique.values().dtype == torch.int64
    assert there.num_events == packed.num_events


def test_share_is_set_before_the_copy() -> None:
    packed = PackedBatch.of(collate(make_table(make_rows(3)), make_schema()), make_schema())
    packed.set_share(2.5)
    share = packed.to(CPU).share
    assert float(share) == 2.5 and share.dtype == torch.float32 and share.shape == ()
