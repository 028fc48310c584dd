"""Feedback in a batch, against a slow reference that looks at one candidate after the other."""

import math
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.common.choices import DistilledRows
from dist_rec.data.batch import Feedback, SequenceBatch
from dist_rec.data.collate import collate, empty_batch
from dist_rec.data.schema import Schema
from dist_rec.data.targets import Targets
from tests.data.later import ACTIONS, FEEDBACK, HORIZON, LABELS, Row, filter_of, later_rows, later_schema, left_of
from tests.data.requests import make_table

CPU = torch.device("cpu")
DECLARED: dict[str, dict[str, Any]] = {
    "as the history": FEEDBACK,
    "fields of its own": {"ids": ["kind"], "side": {"page": 300}, "time": True, "most": 3},
    "as the searches, without times": {"ids": ["query"], "most": 2, "window": 70},
    "without ids": {"side": {"dwell": 5}, "time": True, "window": 40},
    "times alone": {"time": True, "most": 3},
}


def _distilled(of: Row, label: str, now: float, which: DistilledRows) -> bool:
    if label == "buy" and not of["click"]:
        return False
    mature = {"back": of["back.matured"] == 1, "convert": now - of["now"] >= HORIZON}.get(label, True)
    return {"all": True, "labelled": mature, "immature": not mature}[which]


def _twins(left: list[list[Row]], schema: Schema, now: float) -> list[tuple[int, int, Row, list[Row]]]:
    """Request, candidate (of the batch), and the events that are read, of every twin."""
    feedback, found, number = schema.candidate.feedback, [], 0
    assert feedback is not None
    for request, candidates in enumerate(left):
        for of in candidates:
            window = math.inf if feedback.window is None else feedback.window
            read = [event for event in of["feedback"] if not feedback.time or event["time"] <= of["now"] + window]
            passed = of["now"] + (feedback.window or 0) <= now
            if of["trained"] and of["known"] and passed:
                found.append((request, number, of, read[: feedback.most]))
            number += 1
    return found


def _opened(
    rows: list[Row], schema: Schema, targets: Targets | None = None, action: str | None = None, /, **more: Any
) -> tuple[SequenceBatch, Feedback]:
    sent = collate(make_table(rows, schema), schema, event_filter=filter_of(schema, action), targets=targets, **more)
    batch = sent.to(CPU)
    assert batch.feedback is not None
    return batch, batch.feedback


def _ids(batch: SequenceBatch, feedback: Feedback, schema: Schema, name: str) -> list[int]:
    assert isinstance(feedback.inverse, Tensor)
    feature_set = schema.layout.owners["feedback"].name
    return batch.unique.to_dict()[f"{feature_set}.{name}"].values()[feedback.inverse.long()].tolist()


@settings(max_examples=150, deadline=None)
@given(
    declared=st.sampled_from(list(DECLARED)),
    order=st.lists(st.integers(0, 7), max_size=9),
    seed=st.integers(0, 1000),
    now=st.none() | st.integers(950, 1_400),
    action=st.sampled_from(ACTIONS),
    which=st.sampled_from(get_args(DistilledRows)),
    dedup=st.booleans(),
)
def test_twin_by_twin(
    declared: str,
    order: list[int],
    seed: int,
    now: int | None,
    action: str | None,
    which: DistilledRows,
    dedup: bool,
) -> None:
    schema, rows = later_schema(DECLARED[declared], hidden=True), later_rows(8, seed)
    moment, of = math.inf if now is None else now, schema.candidate.feedback
    assert of is not None
    some = {"rows": np.array(order, np.int64), "dedup": dedup}
    batch, got = _opened(rows, schema, Targets(now, distilled=which), action, **some)
    has_items = any(field.name == "item" for field in of.ids)
    left = left_of([rows[row] for row in order], action, of_feedback=has_items)
    twins = _twins(left, schema, moment)
    events = [event for *_, known in twins for event in known]
    assert got.twin.tolist() == got.twin_host.tolist() == [candidate for _, candidate, *_ in twins]
    requests = [request for request, *_ in twins]
    assert got.twins.host.tolist() == got.twins.tensor.tolist() == [requests.count(row) for row in range(len(left))]
    assert got.lengths.host.tolist() == got.lengths.tensor.tolist() == [len(known) for *_, known in twins]
    assert batch.candidates.lengths.host[got.twins.host > 0].all(), "a twin has a candidate in its request"
    for field in of.ids:
        assert _ids(batch, got, schema, field.name) == [event[field.name] for event in events]
    assert {name: values.tolist() for name, values in got.side.items()} == {
        name: [event[name] for event in events] for name in of.side
    }
    elapsed = [event["time"] - candidate["now"] for *_, candidate, known in twins for event in known]
    assert (got.age is None) if not of.time else (got.age is not None and got.age.tolist() == elapsed)
    distilled = [[_distilled(candidate, label, moment, which) for label in LABELS] for *_, candidate, _ in twins]
    assert got.distilled.tolist() == distilled and got.distilled.shape == (len(twins), len(LABELS))


def _row(**changes: Any) -> Row:
    """At 1000 three candidates: with three events, without, and with one; after 10 seconds nothing happens."""
    row = next(row for row in later_rows(99) if len(row["candidate.item"]) == 3)
    times: Row = {"time": 1_000, "history.time": [0] * len(row["history.item"])}
    convert: Row = {"candidate.convert": [0, 0, 0], "candidate.back.matured": [0, 1, 1], "candidate.click": [1, 1, 0]}
    events: Row = {"candidate.feedback_events": [3, 0, 1], "feedback.time": [1_000, 1_010, 1_020, 1_005]}
    names = {"item": [11, 12, 13, 14], "kind": [1, 2, 3, 4], "dwell": [4, 3, 2, 1], "page": [256, 1, 2, 299]}
    return row | times | convert | events | {f"feedback.{name}": of for name, of in names.items()} | changes


@pytest.mark.parametrize(
    ("most", "window", "now", "twin", "items"),
    [
        (1, None, None, [0, 1, 2], [11, 14]),
        (2, None, None, [0, 1, 2], [11, 12, 14]),
        (9, None, None, [0, 1, 2], [11, 12, 13, 14]),
        (9, 20, None, [0, 1, 2], [11, 12, 13, 14]),
        (9, 19, None, [0, 1, 2], [11, 12, 14]),
        (9, 4, None, [0, 1, 2], [11]),
        (9, 10, 1_010, [0, 1, 2], [11, 12, 14]),
        (9, 10, 1_009, [], []),
        (9, 0, 999, [], []),
    ],
)
def test_events_by_hand(most: int, window: int | None, now: int | None, twin: list[int], items: list[int]) -> None:
    schema = later_schema(FEEDBACK | {"most": most, "window": window})
    batch, got = _opened([_row()], schema, Targets(now))
    assert got.twin.tolist() == twin and _ids(batch, got, schema, "item") == items


@pytest.mark.parametrize(("told", "twin"), [([3, 0, 1], [0, 1, 2]), ([3, -1, 1], [0, 2])])
def test_nothing_happened_is_known_and_nobody_knows_is_not(told: list[int], twin: list[int]) -> None:
    _, got = _opened([_row(**{"candidate.feedback_events": told})], later_schema())
    assert got.twin.tolist() == twin and got.lengths.host.tolist() == [min(told[of], 2) for of in twin]


@pytest.mark.parametrize(
    ("which", "first", "last"),
    [
        ("all", [True, True, True, True], [True, False, True, True]),
        ("labelled", [True, True, False, False], [True, False, True, False]),
        ("immature", [False, False, True, True], [False, False, False, True]),
    ],
)
def test_what_is_taught_by_hand(which: DistilledRows, first: list[bool], last: list[bool]) -> None:
    """The label of a purchase is defined with a click alone."""
    schema = later_schema(FEEDBACK | {"window": 50})
    _, got = _opened([_row()], schema, Targets(1_050, distilled=which))
    assert [got.distilled.tolist()[0], got.distilled.tolist()[2]] == [first, last]
    some = Targets(1_050, distilled=which, taught={"click": 0.5, "back": 0.0})
    batch, got = _opened([_row()], schema, some)
    assert [row[0] for row in got.distilled.tolist()] == [which != "immature"] * 3
    assert not got.distilled[:, 1:].any(), "tasks without a weight are not taught"
    assert batch.candidates_per_rank.tolist() == [3.0, 3.0, 2.0, 0.0]


def test_what_is_taught_counts_with_its_weight() -> None:
    batch, _ = _opened([_row()], later_schema(FEEDBACK | {"window": 50}), Targets(1_050, taught={"convert": 0.5}))
    assert batch.candidates_per_rank.tolist() == [3.0, 3.0, 2.0, 1.5]


def test_a_filter_takes_events_before_they_are_counted() -> None:
    """Item 12 is dropped, so the third event of the first candidate is its second, and is read."""
    schema = later_schema(hidden=True)
    row = _row(**{"candidate.item": [1, 3, 2]})
    batch, got = _opened([row], schema, None, "drop")
    assert batch.num_candidates == 2 and got.twin.tolist() == [0, 1]
    assert _ids(batch, got, schema, "item") == [11, 13, 14] and got.lengths.host.tolist() == [2, 1]
    only = row | {"feedback.item": [11, 13, 14, 12]}  # the last candidate's one event
    assert _opened([only], schema, None, "drop")[1].twin.tolist() == [0], "nobody knows what is left out"
    sent = collate(make_table([row], schema), schema, event_filter=filter_of(schema, "drop"))
    history = sum(item % 3 == 0 for item in row["history.item"])
    assert sent.filtered["drop"] == history + 1 + 1, "a candidate and an event of its feedback besides"


def test_types_and_shapes() -> None:
    batch, got = _opened([_row()], later_schema())
    assert isinstance(got.inverse, Tensor) and got.age is not None
    assert (got.inverse.dtype, got.age.dtype, got.lengths.tensor.dtype, got.twins.tensor.dtype) == (torch.int32,) * 4
    assert got.twin.dtype == torch.int64 and got.twin_host.dtype == np.int32 and got.distilled.dtype == torch.bool
    assert got.side["dwell"].dtype == torch.uint8 and got.side["page"].dtype == torch.int16
    assert batch.candidates_per_rank.shape == (len(LABELS),)


def test_feedback_and_events_of_the_same_ids_are_one_token() -> None:
    """Looked up once, as for candidates."""
    row = _row()
    events = {"item": row["feedback.item"], "kind": row["feedback.kind"], "action": [0] * 4, "page": [0] * 4}
    row |= {f"history.{name}": of for name, of in events.items()} | {"history.time": [0] * 4}
    row |= {"candidate.item": [11, 12, 11], "candidate.kind": [1, 2, 1]}
    schema = later_schema(FEEDBACK | {"most": 3})
    assert collate(make_table([row], schema), schema).num_unique["history.item"] == 4
    alone = collate(make_table([row], schema), schema, dedup=False)
    assert alone.num_unique["history.item"] == 4 + 3 + 4


def test_seconds_are_clipped() -> None:
    late = [1_000, 1_010, 2**40, 2**40]
    _, got = _opened([_row(**{"feedback.time": late})], later_schema(FEEDBACK | {"most": 3, "window": None}))
    assert got.age is not None and got.age.tolist() == [0, 10, 2**31 - 1, 2**31 - 1]


NONE = {name: [] for name in _row() if name.startswith("feedback.")}
NOBODY = NONE | {name: [] for name in _row() if name.startswith("candidate.")}


@pytest.mark.parametrize("declared", DECLARED.values(), ids=DECLARED)
@pytest.mark.parametrize(
    "rows",
    [[], [_row(**NOBODY)], [_row(**NONE | {"candidate.feedback_events": [-1, -1, -1]})] * 2],
    ids=["no request", "no candidate", "nothing known"],
)
def test_nothing_to_read(rows: list[Row], declared: dict[str, Any]) -> None:
    schema = later_schema(declared)
    for batch in (_opened(rows, schema)[0], empty_batch(schema, targets=Targets(now=5)).to(CPU)):
        got = batch.feedback
        assert got is not None and len(got.lengths) == len(got.twin) == len(got.twin_host) == got.twins.total == 0
        assert len(got.twins) == len(batch.grouping_key) and got.distilled.shape == (0, len(LABELS))
        assert all(not len(values) for values in (*got.side.values(), *([] if got.age is None else [got.age])))
        assert (got.inverse is None) == (not schema.candidate.feedback or not schema.candidate.feedback.ids)
        assert batch.unique.keys() == list(schema.layout.tables)


@pytest.mark.parametrize("declared", DECLARED.values(), ids=DECLARED)
def test_bytes_of_plain_tensors(declared: dict[str, Any]) -> None:
    """Of every column a number of 8 bytes per event that is read, and a length of 4 per candidate."""
    schema, rows, targets = later_schema(declared), later_rows(9), Targets(now=1_150)
    sent, served = (collate(make_table(rows, of), of, targets=targets) for of in (schema, schema.as_served()))
    assert schema.candidate.feedback is not None
    columns, events = len(schema.candidate.feedback.columns), int(sent.tensors["lengths.feedback"].sum())
    assert events > 0 and sent.plain_bytes - served.plain_bytes == columns * (8 * events + 4 * sent.num_candidates)
    assert sent.nbytes > served.nbytes


@pytest.mark.parametrize("declared", DECLARED.values(), ids=DECLARED)
@pytest.mark.parametrize("use_dedup", [True, False])
def test_a_server_knows_all_but_the_feedback(declared: dict[str, Any], use_dedup: bool) -> None:
    """Its batch has the keys of training, and the same events, candidates and labels."""
    schema, rows = later_schema(declared), later_rows(9)
    batch, got = _opened(rows, schema, dedup=use_dedup)
    served = collate(make_table(rows, schema.as_served()), schema.as_served(), dedup=use_dedup)
    assert not any("feedback" in of for of in _other_tensors(served))
    there = served.to(CPU)
    assert there.feedback is None and len(got.twin) > 0
    assert there.unique.keys() == batch.unique.keys() == list(schema.layout.tables)
    assert torch.equal(there.labels.nan_to_num(-1), batch.labels.nan_to_num(-1))
    untaught, _ = _opened(rows, schema, Targets(taught={}), dedup=use_dedup)
    assert there.candidates_per_rank.tolist() == untaught.candidates_per_rank.tolist()
    for name in ("history.item", "history.kind"):
        for one, other in (
            (there.sequences["history"], batch.sequences["history"]),
            (there.candidates, batch.candidates),
        ):
            assert isinstance(one.inverse, Tensor) and isinstance(other.inverse, Tensor)
            ids = [of.unique.to_dict()[name].values() for of in (there, batch)]
            assert torch.equal(ids[0][one.inverse.long()], ids[1][other.inverse.long()])


def _other_tensors(sent: Any) -> list[str]:
    """Names without the ids and index that owners of the layout always have."""
    return [name for name in sent.tensors if not name.startswith(("ids.", "inverse."))]


def test_chunks_of_a_table_make_no_difference() -> None:
    schema, rows = later_schema(hidden=True), later_rows(7)
    table = make_table(rows, schema)
    joined = pa.concat_tables([table.slice(0, 1), table.slice(1, 3), table.slice(4)])
    options: dict[str, Any] = {"rows": np.array([5, 0, 6, 1]), "event_filter": filter_of(schema, "hide")}
    one, other = (collate(of, schema, **options) for of in (table, joined))
    for name, values in one.tensors.items():
        assert torch.equal(values.nan_to_num(-1), other.tensors[name].nan_to_num(-1)), name
