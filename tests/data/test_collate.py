import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.data import dedup
from dist_rec.data.batch import JaggedEvents, SequenceBatch
from dist_rec.data.collate import collate, empty_batch
from dist_rec.data.dedup import native
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.data.transfer_buffer import TransferBuffer
from dist_rec.data.validate import validate
from tests.data.filter.policies import all_items, filter_by_item
from tests.data.requests import make_row, make_rows, make_schema, make_table, seen_schema

CPU = torch.device("cpu")


def _opened(rows: list[dict], schema: Schema, newest: int | None = None) -> SequenceBatch:
    return collate(make_table(rows, schema), schema, newest).to(CPU)


def _ids(batch: SequenceBatch, key: str, events: JaggedEvents) -> list[int]:
    return batch.unique.to_dict()[key].values()[events.inverse.long()].tolist()


def _flat(rows: list[dict], name: str, newest: int | None = None) -> list:
    return [value for row in rows for value in (row[name] if newest is None else row[name][-newest:])]


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 8),
    longest=st.integers(0, 12),
    seed=st.integers(0, 1000),
    newest=st.none() | st.integers(1, 10),
)
def test_rebuilds_every_field(count: int, longest: int, seed: int, newest: int | None) -> None:
    rng = np.random.default_rng(seed)
    rows = [make_row(rng, user, longest) for user in range(count)]
    batch = _opened(rows, make_schema(), newest)
    history = batch.sequences["history"]
    for name in ("item", "kind"):
        assert _ids(batch, f"history.{name}", history) == _flat(rows, f"history.{name}", newest)
        assert _ids(batch, f"history.{name}", batch.candidates) == _flat(rows, f"candidate.{name}")
    assert _ids(batch, "searches.query", batch.sequences["searches"]) == _flat(rows, "searches.query", newest)
    assert history.side["page"].tolist() == _flat(rows, "history.page", newest)
    assert history.age is not None and history.age.tolist() == [1000 - t for t in _flat(rows, "history.time", newest)]
    assert history.lengths.host.tolist() == [min(len(row["history.item"]), newest or 99) for row in rows]
    assert batch.candidates.lengths.host.tolist() == [len(row["candidate.item"]) for row in rows]
    assert batch.labels.T.flatten().tolist() == _flat(rows, "candidate.click") + _flat(rows, "candidate.buy")
    assert batch.context is not None
    assert batch.unique.to_dict()["context.user"].values()[batch.context.long()].tolist() == list(range(count))


def test_tokens_are_unique() -> None:
    sent = collate(make_table(make_rows(40)), make_schema())
    ids = sent.to(CPU).unique.to_dict()
    tokens = list(zip(ids["history.item"].values().tolist(), ids["history.kind"].values().tolist()))
    assert len(tokens) == len(set(tokens)) < sent.num_events


def test_types_and_shapes() -> None:
    batch = _opened(make_rows(5), make_schema())
    history = batch.sequences["history"]
    assert batch.unique.stride() == 1 and batch.unique.values().dtype == torch.int64
    assert batch.unique.keys() == ["context.user", "history.item", "history.kind", "searches.query"]
    assert batch.unique.lengths().dtype == history.lengths.tensor.dtype == history.inverse.dtype == torch.int32
    assert history.side["action"].dtype == torch.uint8 and history.side["page"].dtype == torch.int16
    assert history.age is not None and history.age.dtype == torch.int32 and batch.candidates.age is None
    assert batch.labels.shape == (batch.num_candidates, 2) and batch.labels.dtype == torch.float32
    assert batch.oracle is not None and batch.oracle.shape == batch.labels.shape and batch.oracle.dtype == torch.float32
    assert batch.grouping_key.tolist() == [0, 1, 2, 3, 4] and batch.grouping_key.dtype == torch.int64
    assert float(batch.candidates_per_rank) == batch.num_candidates and batch.visible_events is None


def test_a_label_without_its_condition_is_nan() -> None:
    """Whatever the file says there; and the condition may stand before or behind it."""
    rows = make_rows(20)
    click, buy = (torch.tensor(_flat(rows, f"candidate.{label}"), dtype=torch.float32) for label in ("click", "buy"))
    for task, condition, columns in (("buy", "click", [click, buy]), ("click", "buy", [buy, click])):
        candidate = {"ids": ["item", "kind"], "labels": ["click", "buy"], "oracle": True, "given": {task: condition}}
        schema = make_schema(candidate=candidate)
        sent = collate(make_table(rows, schema), schema)
        batch = sent.to(CPU)
        observed = {name: batch.labels[:, index] for index, name in enumerate(schema.candidate.labels)}
        assert torch.equal(observed[condition], columns[0]), "the condition itself is always defined"
        assert torch.equal(observed[task].isnan(), columns[0] == 0)
        assert torch.equal(observed[task][columns[0] == 1], columns[1][columns[0] == 1])
        assert batch.oracle is not None and batch.oracle.isfinite().all()
        assert sent.plain_bytes == collate(make_table(rows), make_schema()).plain_bytes


def test_seen() -> None:
    row = {"user": 2**40, "history.item": [4, 5], "history.correct": [1, 0]}
    row |= {"candidate.item": [4, 5], "candidate.correct": [1, 0], "candidate.visible_events": [0, 1]}
    batch = _opened([row], seen_schema())
    assert (
        batch.visible_events is not None
        and batch.visible_events.host.tolist() == [0, 1]
        and batch.visible_events.tensor.dtype == torch.int32
    )
    assert batch.context is None and batch.oracle is None and batch.grouping_key.tolist() == [2**40]
    assert batch.sequences["history"].age is None


def test_age_is_clipped() -> None:
    row = make_row(np.random.default_rng(0), 0) | {"time": 2**40}
    for name in ("item", "kind", "action", "page"):
        row[f"history.{name}"] = [1, 1]
    row["history.time"] = [0, 2**40 - 5]
    age = _opened([row], make_schema()).sequences["history"].age
    assert age is not None and age.tolist() == [2**31 - 1, 5]


@pytest.mark.parametrize("schema", [make_schema(), seen_schema()], ids=["full", "seen"])
def test_empty_batch(schema: Schema) -> None:
    sent = empty_batch(schema)
    assert sent.num_requests == sent.num_candidates == sent.num_events == sent.plain_bytes == 0
    batch, keys = sent.to(CPU), list(schema.layout.tables)
    assert (
        batch.unique.keys() == keys
        and batch.unique.lengths().tolist() == [0] * len(keys)
        and batch.unique.stride() == 1
    )
    assert batch.labels.shape == (0, len(schema.candidate.labels)) and float(batch.candidates_per_rank) == 0.0


def test_plain_bytes_by_hand() -> None:
    row = {"user": 7, "history.item": [4, 5, 4], "history.correct": [1, 0, 1]}
    row |= {"candidate.item": [4, 5], "candidate.correct": [1, 0], "candidate.visible_events": [0, 1]}
    batch = collate(make_table([row], seen_schema()), seen_schema())
    events = 2 * (3 * 8 + 4)  # item and correct: three values and one length each
    candidates = 2 * 8 + 4
    assert batch.plain_bytes == events + candidates + 2 * 4 + 2 * 4 + 8  # labels, seen, group


def test_does_not_depend_on_chunks() -> None:
    table = make_table(make_rows(6))
    whole, joined = (collate(t, make_schema()).to(CPU) for t in (table, _rechunked(table)))
    assert torch.equal(whole.unique.values(), joined.unique.values())
    for one, other in zip(_inverses(whole), _inverses(joined)):
        assert torch.equal(one, other)


def _bytes(sent: HostBatch) -> bytes:
    assert isinstance(sent.tensors, TransferBuffer)
    return sent.tensors.buffer.numpy().tobytes()


@given(rows=st.lists(st.integers(0, 11), max_size=20), newest=st.none() | st.integers(1, 7))
def test_rows_of_a_table_are_as_if_they_were_taken(rows: list[int], newest: int | None) -> None:
    table, some = make_table(make_rows(12)), np.array(rows, np.int64)
    for whole in (table, _rechunked(table)):
        sent = collate(whole, make_schema(), newest, rows=some)
        taken = collate(table.take(pa.array(some)), make_schema(), newest)
        assert _bytes(sent) == _bytes(taken) and sent.plain_bytes == taken.plain_bytes
        assert (sent.counts, sent.bits, sent.num_unique) == (taken.counts, taken.bits, taken.num_unique)


@pytest.mark.parametrize("use_dedup", [True, False])
def test_the_same_bytes_without_the_extension(monkeypatch: pytest.MonkeyPatch, use_dedup: bool) -> None:
    table, rows = make_table(make_rows(30)), np.random.default_rng(0).permutation(30)
    built = _bytes(collate(table, make_schema(), 3, rows=rows, dedup=use_dedup))

    def missing(name: str) -> None:
        raise ImportError(f"no {name}")

    monkeypatch.setattr(dedup, "import_module", missing)
    native.cache_clear()
    try:
        assert _bytes(collate(table, make_schema(), 3, rows=rows, dedup=use_dedup)) == built
    finally:
        native.cache_clear()


def _rechunked(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(0, 1), table.slice(1, 3), table.slice(4)])


def _inverses(batch: SequenceBatch) -> list[Tensor]:
    return [events.inverse for events in (*batch.sequences.values(), batch.candidates)]


def test_a_sequence_may_have_the_name_of_feedback_where_there_is_none() -> None:
    schema = make_schema(sequences=[{"name": "feedback", "ids": ["item", "kind"]}])
    rows = [{name.replace("history", "feedback"): value for name, value in row.items()} for row in make_rows(6)]
    table = validate(make_table(rows, schema), schema, file="f", row_group=0)
    batch = collate(table, schema, event_filter=filter_by_item(schema, all_items("drop"))).to(CPU)
    trained = [row for row in rows if any(item % 3 for item in row["candidate.item"])]
    left = [item for item in _flat(trained, "feedback.item") if item % 3]
    assert _ids(batch, "feedback.item", batch.sequences["feedback"]) == left and batch.feedback is None


@pytest.mark.parametrize("dedup", [True, False])
def test_every_token_is_its_own_without_dedup(dedup: bool) -> None:
    sent = collate(make_table(make_rows(9)), make_schema(), dedup=dedup)
    tokens = sent.counts["history"] + sent.num_candidates
    assert (sent.num_unique["history.item"] == tokens) is not dedup


def test_without_labels_all_else_is_the_same() -> None:
    """Nothing that a model reads comes from a column of labels."""
    schema, rows = make_schema(), make_rows(7)
    labelled, plain = collate(make_table(rows), schema), collate(make_table(rows), schema.without_labels())
    assert set(labelled.tensors) - set(plain.tensors) == {"oracle"}
    assert (
        torch.isnan(plain.tensors["labels"]).all() and plain.tensors["labels"].shape == labelled.tensors["labels"].shape
    )
    for name in set(plain.tensors) - {"labels"}:
        assert torch.equal(plain.tensors[name], labelled.tensors[name]), name
    assert empty_batch(schema.without_labels()).tensors["labels"].shape == (0, 2)
