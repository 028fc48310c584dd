import pickle
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.data.batch import SequenceBatch
from dist_rec.data.collate import Collator, collate
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.data.torchrec_types import NO_LOOKUP
from dist_rec.data.transfer_buffer import TransferBuffer
from dist_rec.kernels.unique_ids import BitPackedIndex
from tests.data.later import later_rows, later_schema
from tests.data.ngram.schemas import ngram_schema
from tests.data.requests import make_rows, make_schema, make_table, seen_schema

CPU = torch.device("cpu")
SEEN = {"user": 7, "history.item": [4, 5, 4], "history.correct": [1, 0, 1]}
SEEN |= {"candidate.item": [4, 5], "candidate.correct": [1, 0], "candidate.visible_events": [0, 1]}
CASES = {
    "full": (make_schema(), make_rows(9)),
    "without context": (make_schema(context=[]), make_rows(9)),
    "seen": (seen_schema(), [SEEN]),
    "one row": (make_schema(), make_rows(1)),
    "empty": (make_schema(), []),
    "feedback": (later_schema(), later_rows(9)),
    "feedback without ids": (later_schema({"time": True}), later_rows(9)),
    "no feedback of any": (later_schema(), []),
}


def _sent(rows: list[dict], schema: Schema | None = None, *, dedup: bool = True) -> HostBatch:
    schema = schema or make_schema()
    return collate(make_table(rows, schema), schema, dedup=dedup)


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
        twin = right[name]
        if isinstance(leaf, Tensor):
            torch.testing.assert_close(leaf, twin, rtol=0, atol=0, equal_nan=True, msg=name)
        elif isinstance(leaf, np.ndarray):
            assert isinstance(twin, np.ndarray) and np.array_equal(leaf, twin), name
        else:
            assert leaf == twin, name


@pytest.mark.parametrize("dedup", [True, False])
@pytest.mark.parametrize(("schema", "rows"), CASES.values(), ids=CASES.keys())
def test_comes_whole_out_of_another_process(schema: Schema, rows: list[dict], dedup: bool) -> None:
    """What is in it: test_collate.py."""
    sent = _sent(rows, schema, dedup=dedup)
    opened = sent.to(CPU)
    _assert_same(pickle.loads(pickle.dumps(sent)).to(CPU), opened)
    assert list(opened.sequences) == [of.name for of in schema.sequences]
    assert sent.num_requests == len(rows) == len(opened.grouping_key)
    assert sent.num_candidates == opened.num_candidates == opened.candidates.lengths.total
    assert sent.num_events == sum(len(row[f"{of.name}.{of.ids[0].name}"]) for row in rows for of in schema.sequences)


@pytest.mark.parametrize(("schema", "rows"), CASES.values(), ids=CASES.keys())
def test_without_a_lookup_all_else_is_the_same(schema: Schema, rows: list[dict]) -> None:
    sent = _sent(rows, schema)
    opened, alone = sent.to(CPU), sent.without_lookup(CPU)
    assert alone.unique is NO_LOOKUP
    _assert_same(replace(alone, unique=opened.unique), opened)
    ids = opened.unique.to_dict()
    assert all(torch.equal(sent.ids_of(key), ids[key].values()) for key in sent.num_unique)


def test_n_grams_that_a_lookup_hashes_need_one() -> None:
    schema = ngram_schema()
    collator = Collator(schema, hash_ngrams=False)
    with pytest.raises(ValueError, match="expected ids of n-grams that are hashed on the host"):
        collator(make_table(make_rows(3), schema)).without_lookup(CPU)


def test_each_part_is_as_small_as_it_can_be() -> None:
    schema = make_schema(tables={"item": 70_000, "kind": 5, "user": 1000, "query": 2**31 - 1})
    sent = _sent(make_rows(40), schema)
    tensors = sent.tensors
    assert {key: tensors[f"ids.{key}"].dtype for key in sent.num_unique} == {
        "context.user": torch.int16,
        "history.item": torch.int32,
        "history.kind": torch.uint8,
        "searches.query": torch.int32,
    }
    assert sent.bits["history"] == sent.bits["candidate"] == (sent.num_unique["history.item"] - 1).bit_length()
    assert len(tensors["inverse.history"]) == -(-sent.counts["history"] * sent.bits["history"] // 32) + 1
    assert tensors["side.history.action"].dtype == torch.uint8
    assert tensors["lengths.history"].dtype == torch.int32


def test_stays_bit_packed_on_a_device_and_moves_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has the part of a GPU: nothing on it can be read, so opening a batch there cannot wait for it."""
    sent = _sent(make_rows(9))
    moved: list[int] = []
    plain = torch.Tensor.to

    def to(self: Tensor, *args: object, **kwargs: object) -> Tensor:
        there = plain(self, *args, **kwargs)  # pyright: ignore[reportCallIssue, reportArgumentType]
        if there.device != self.device:
            moved.append(self.nbytes)
        return there

    monkeypatch.setattr(torch.Tensor, "to", to)
    there = sent.to(torch.device("meta"), non_blocking=True)
    assert moved == [sent.nbytes]
    inverse = there.sequences["history"].inverse
    assert isinstance(inverse, BitPackedIndex) and inverse.words.is_meta and isinstance(there.context, BitPackedIndex)
    assert there.unique.values().is_meta and there.unique.values().dtype == torch.int64
    assert len(inverse) == sent.counts["history"]


def test_share_is_set_before_the_copy() -> None:
    sent = _sent(make_rows(3))
    sent.set_candidates_per_rank([2.5])
    share = sent.to(CPU).candidates_per_rank
    assert float(share) == 2.5 and share.dtype == torch.float32 and share.shape == ()


def test_shares_of_every_task_are_set() -> None:
    sent = _sent(later_rows(5), later_schema())
    sent.set_candidates_per_rank([0.25, 1, 2, 3])
    batch = sent.to(CPU)
    assert batch.candidates_per_rank.tolist() == [0.25, 1, 2, 3] and batch.candidates_per_rank.dtype == torch.float32


def test_twins_are_copied_off_the_buffer() -> None:
    """It goes back to its allocator before the batch is done."""
    sent = _sent(later_rows(5), later_schema())
    feedback = sent.to(CPU).feedback
    assert feedback is not None
    before = [of.copy() for of in (feedback.twin_host, feedback.lengths.host, feedback.twins.host)]
    assert before[0].any() and isinstance(sent.tensors, TransferBuffer)
    sent.tensors.buffer.zero_()
    for of, now in zip(before, (feedback.twin_host, feedback.lengths.host, feedback.twins.host), strict=True):
        assert np.array_equal(of, now)


def test_feedback_stays_bit_packed_on_a_device() -> None:
    sent = _sent(later_rows(9), later_schema())
    feedback = sent.to(torch.device("meta"), non_blocking=True).feedback
    assert feedback is not None and isinstance(feedback.inverse, BitPackedIndex) and feedback.distilled.is_meta
    assert len(feedback.inverse) == feedback.lengths.total == sent.counts["feedback"] > 0
    assert len(feedback.twin_host) == len(feedback.lengths) == feedback.twins.total
