"""A filtered batch against the batch of rows that were changed by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.common.strict import ConfigError, Strict
from dist_rec.data.collate import collate, empty_batch
from dist_rec.data.filter.config import FilterConfig
from dist_rec.data.filter.event_filter import EventFilter, make_filter, needs_hidden
from dist_rec.data.filter.events import Events
from dist_rec.data.filter.policy import FilterPolicy
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.data.transfer_buffer import TransferBuffer
from dist_rec.registry import Part
from tests.data.filter.policies import all_items, filter_by_item
from tests.data.later import later_rows, later_schema
from tests.data.requests import make_rows, make_schema, make_table, seen_schema
from tests.models.batches import Row, seen_row

HIDDEN = make_schema(hidden=True)


def _filtered(rows: list[Row], acting: EventFilter, schema: Schema = HIDDEN, newest: int | None = None) -> HostBatch:
    return collate(make_table(rows, schema), schema, newest, event_filter=acting)


def _plain(rows: list[Row], schema: Schema = HIDDEN, newest: int | None = None) -> HostBatch:
    return collate(make_table(rows, schema), schema, newest)


def _without(row: Row, items: set[int], owners: tuple[str, ...] = ("history", "candidate")) -> Row:
    """A request without the events and candidates of these items."""
    left = {owner: [i for i, item in enumerate(row[f"{owner}.item"]) if item not in items] for owner in owners}
    return {
        name: [value[i] for i in left[name.partition(".")[0]]] if name.partition(".")[0] in left else value
        for name, value in row.items()
    }


def _same(one: HostBatch, other: HostBatch) -> None:
    left, right = one.tensors, other.tensors
    assert isinstance(left, TransferBuffer) and isinstance(right, TransferBuffer)
    assert left.slots == right.slots and torch.equal(left.buffer, right.buffer)


def _tokens(batch: HostBatch, owner: str, *names: str) -> list[tuple[int, ...]]:
    """Ids of every event."""
    inverse = batch.inverse(owner)
    assert isinstance(inverse, torch.Tensor)
    return list(zip(*(batch.ids_of(f"history.{name}")[inverse.long()].tolist() for name in names)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(0, 8), newest=st.none() | st.integers(1, 4))
def test_dropped_events_are_as_if_they_had_never_been(seed: int, count: int, newest: int | None) -> None:
    """To the byte. Requests that lose all candidates are gone with their context."""
    rows, items = make_rows(count, seed), set(all_items("drop"))
    expected = [after for row in rows if (after := _without(row, items))["candidate.item"]]
    got = _filtered(rows, filter_by_item(HIDDEN, all_items("drop")), newest=newest)
    _same(got, _plain(expected, newest=newest))
    assert got.filtered["drop"] >= sum(len(row["candidate.item"]) for row in rows) - got.num_candidates


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), newest=st.none() | st.integers(1, 4))
def test_hidden_events_show_nothing_of_themselves(seed: int, newest: int | None) -> None:
    """Ids and side values are HIDDEN, the time stays."""
    rows, items = make_rows(6, seed), set(all_items("hide"))
    got = _filtered(rows, filter_by_item(HIDDEN, all_items("hide")), newest=newest)
    trained = [row for row in rows if set(row["candidate.item"]) - items]
    tokens, pages, ages = [], [], []
    for row in trained:
        events = zip(*(row[f"history.{name}"] for name in ("item", "kind", "page", "time")))
        for item, kind, page, time in list(events)[-(newest or 99) :]:
            hidden = item in items
            tokens.append((50, 5) if hidden else (item, kind))
            pages.append(300 if hidden else page)
            ages.append(1000 - time)
    assert _tokens(got, "history", "item", "kind") == tokens
    assert got.tensors["side.history.page"].tolist() == pages and got.tensors["age.history"].tolist() == ages
    candidates = [item for row in trained for item in row["candidate.item"]]
    assert [item for (item,) in _tokens(got, "candidate", "item")] == [50 if i in items else i for i in candidates]
    untrained = got.tensors["labels"].isnan().all(1).tolist()
    assert untrained == [item in items for item in candidates]
    assert got.num_targets[0] == untrained.count(False) == float(got.tensors["candidates_per_rank"])


@pytest.mark.parametrize("action", ["hide", "keymask", "drop"])
def test_the_item_of_a_filtered_event_leaves_no_trace(action: str) -> None:
    """Another item, kind and page in its place: the same bytes."""
    rows = make_rows(8)
    others = [_with_other_values(row) for row in rows]
    assert sum(one != other for one, other in zip(rows, others, strict=True)) > 4, "there is something to see"
    acting = filter_by_item(HIDDEN, all_items(action))
    _same(_filtered(rows, acting), _filtered(others, acting))


def _with_other_values(row: Row) -> Row:
    """Of the events that `all_items` names: the item becomes another of these, and labels become others."""
    most = {"item": 48, "kind": 5, "page": 300, "click": 2, "buy": 2, "click.oracle": 1, "buy.oracle": 1}
    changed = dict(row)
    for owner in ("history", "candidate"):
        for name in (name for name in most if f"{owner}.{name}" in row):
            pairs = zip(row[f"{owner}.{name}"], row[f"{owner}.item"], strict=True)
            other = 0.3 if name.endswith("oracle") else 3
            changed[f"{owner}.{name}"] = [value if item % 3 else (value + other) % most[name] for value, item in pairs]
    return changed


def test_masked_events_stay_and_masked_candidates_have_no_label() -> None:
    rows, items = make_rows(40), set(all_items("mask"))
    got = _filtered(rows, filter_by_item(HIDDEN, all_items("mask")))
    trained = [row for row in rows if set(row["candidate.item"]) - items]
    plain = _plain(trained)
    for name, tensor in plain.tensors.items():
        if name not in ("labels", "oracle", "candidates_per_rank"):
            assert torch.equal(got.tensors[name], tensor), name
    masked = torch.tensor([item in items for row in trained for item in row["candidate.item"]])
    for name in ("labels", "oracle"):
        assert torch.equal(got.tensors[name].isnan().all(1), masked)
        assert torch.equal(got.tensors[name][~masked], plain.tensors[name][~masked])
    assert len(trained) < len(rows), "a request without a trained candidate is gone"


def test_keymasked_events_are_dropped_but_for_their_slots() -> None:
    rows = make_rows(9)
    masked, dropped = (
        _filtered(rows, filter_by_item(HIDDEN, all_items(action))).to(torch.device("cpu")).sequences["history"]
        for action in ("keymask", "drop")
    )
    assert isinstance(masked.inverse, torch.Tensor) and isinstance(dropped.inverse, torch.Tensor)
    assert masked.lengths.host.tolist() == dropped.lengths.host.tolist() and dropped.lengths.slots is None
    assert masked.age is not None and dropped.age is not None and torch.equal(masked.age, dropped.age)
    trained = [row for row in rows if any(i % 3 for i in row["candidate.item"])]
    slots = [slot for row in trained for slot, item in enumerate(row["history.item"]) if item % 3]
    assert masked.lengths.slot.tolist() == slots
    assert masked.lengths.places.host.tolist() == [len(row["history.item"]) for row in trained]


def test_evaluation_keeps_all_candidates_and_tells_them_apart() -> None:
    rows, items = make_rows(9), set(all_items("hide"))
    candidates = [item for row in rows for item in row["candidate.item"]]
    as_is = _filtered(rows, filter_by_item(HIDDEN, all_items("hide"), training=False, histories=False))
    plain = _plain(rows)
    for name, tensor in plain.tensors.items():
        assert torch.equal(as_is.tensors[name], tensor), name
    assert as_is.tensors["chosen"].tolist() == [item in items for item in candidates]
    filtered = _filtered(rows, filter_by_item(HIDDEN, all_items("hide"), training=False))
    assert torch.equal(filtered.tensors["labels"], plain.tensors["labels"])
    assert [item for (item,) in _tokens(filtered, "candidate", "item")] == candidates
    assert 50 in [item for (item,) in _tokens(filtered, "history", "item")]


@pytest.mark.parametrize("action", ["drop", "keymask", "hide"])
def test_what_a_candidate_sees_is_counted_among_what_is_left(action: str) -> None:
    rng, schema = np.random.default_rng(0), seen_schema().model_copy(update={"hidden": True})
    rows = [seen_row(rng, 9, [0, 3, 9, 5]) for _ in range(6)]
    batch = _filtered(rows, filter_by_item(schema, all_items(action)), schema)
    left = [[item % 3 > 0 or action == "hide" for item in row["history.item"]] for row in rows]
    there = [(row, c) for row in range(6) for c in range(4) if action != "drop" or rows[row]["candidate.item"][c] % 3]
    there = [(row, c) for row, c in there if any(item % 3 for item in rows[row]["candidate.item"])]
    seen = [rows[row]["candidate.visible_events"][c] for row, c in there]
    assert batch.tensors["visible_events"].tolist() == [sum(left[row][:n]) for (row, _), n in zip(there, seen)]
    if action == "keymask":
        assert batch.tensors["visible_slots"].tolist() == seen
    else:
        assert "visible_slots" not in batch.tensors


def test_a_batch_in_which_nothing_is_left() -> None:
    """It is an empty one, as a rank without data has it; the training loop makes no difference."""
    got = _filtered(make_rows(5), filter_by_item(HIDDEN, all_items("hide", range(50))))
    assert got.num_requests == got.num_events == got.num_targets[0] == 0
    assert not len(got.ids_of("context.user"))
    empty = empty_batch(HIDDEN, filter_by_item(HIDDEN, {}))
    assert empty.num_requests == empty.num_targets[0] == sum(empty.filtered.values()) == 0


def test_a_request_without_candidates_is_left_out_too() -> None:
    """Its user may be one that a rule is about."""
    rows = [row | {name: [] for name in row if name.startswith("candidate")} for row in make_rows(3)]
    assert _filtered([*rows, *make_rows(2)], filter_by_item(HIDDEN, {})).num_requests <= 2


@pytest.mark.parametrize("action", ["hide", "keymask", "drop", "mask"])
def test_the_feedback_of_what_is_filtered_leaves_no_trace(action: str) -> None:
    """Nor does a filtered event of other feedback, but for a masked one, which stays as it is."""
    schema, rows = later_schema(hidden=True), later_rows(24)
    acting = filter_by_item(schema, all_items(action))
    others = [_with_other_feedback(row, of_events=action != "mask") for row in rows]
    assert sum(one != other for one, other in zip(rows, others, strict=True)) > 4, "there is something to see"
    _same(_filtered(rows, acting, schema), _filtered(others, acting, schema))


def _with_other_feedback(row: Row, of_events: bool) -> Row:
    """Other kinds and pages: of the candidates that `all_items` names, and of the events that it does."""
    counts = np.array(row["candidate.feedback_events"], np.int64).clip(min=0)
    candidates = np.repeat(row["candidate.item"], counts).tolist()
    pairs = list(zip(candidates, row["feedback.item"], strict=True))
    changes = [item % 3 == 0 or (of_events and event % 3 == 0) for item, event in pairs]
    return row | {
        name: [(value + change) % size for value, change in zip(row[name], changes, strict=True)]
        for name, size in (("feedback.kind", 5), ("feedback.page", 300))
    }


def test_feedback_is_counted_by_action_where_its_request_stays() -> None:
    schema, rows = later_schema(hidden=True), later_rows(12)
    acting = filter_by_item(schema, all_items("hide"))
    left = [row for row in rows if any(item % 3 for item in row["candidate.item"])]
    items = [item for row in left for owner in ("history", "feedback") for item in row[f"{owner}.item"]]
    items += [item for row in rows for item in row["candidate.item"]]
    queries = sum(len(row["searches.query"]) for row in left)
    filtered = _filtered(rows, acting, schema).filtered
    assert (filtered["hide"], filtered["keep"]) == (
        sum(item % 3 == 0 for item in items),
        sum(item % 3 > 0 for item in items) + queries,
    )


def test_evaluation_decides_nothing_of_feedback() -> None:
    schema = later_schema(hidden=True)
    served, rows = schema.as_served(), later_rows(9)
    got = _filtered(rows, filter_by_item(served, all_items("hide"), training=False, histories=False), served)
    assert sum(got.filtered.values()) == got.num_candidates and got.feedback is None


class Wrong(FilterPolicy):
    def decide(self, events: Events) -> np.ndarray:
        wrong = {"short": [0], "large": [7] * len(events), "float": [0.5] * len(events)}
        return np.array(wrong[self.config.policy.name])


@pytest.mark.parametrize(
    ("name", "said"), [("short", r"shape \(1,\)"), ("large", "integers from 7 to 7"), ("float", "float64 of shape")]
)
def test_a_policy_that_decides_something_else(name: str, said: str) -> None:
    config = FilterConfig().model_copy(update={"policy": Part.model_construct(name=name)})
    with pytest.raises(ConfigError, match=f"Wrong: expected an action from 0 to 4 for .* candidate, got .*{said}"):
        _filtered(make_rows(9), EventFilter(Wrong(Strict(), config, HIDDEN), training=True))


def test_who_needs_hidden() -> None:
    hiding = FilterConfig.model_validate({"rules": [{"reason": "bot", "field": "item", "values": [3]}]})
    reasons = make_schema(candidate={"ids": ["item"], "labels": ["click"], "reason": True})
    assert needs_hidden(hiding, make_schema()) and not needs_hidden(None, make_schema())
    assert needs_hidden(FilterConfig(), reasons) and not needs_hidden(FilterConfig(), make_schema())


def test_it_acts_from_its_first_step_on_and_always_in_evaluation() -> None:
    training, evaluation = (filter_by_item(HIDDEN, {}, training=of, start_step=3) for of in (True, False))
    assert [training.acts(step) for step in range(5)] == [False] * 3 + [True] * 2
    assert evaluation.acts(0)


def test_from_a_recipe() -> None:
    tree = {"rules": [{"reason": "bot", "field": "item", "values": [3]}], "start_step": 5, "evaluation": "as_is"}
    config = FilterConfig.model_validate(tree)
    training, evaluation = (make_filter(config, HIDDEN, training=of) for of in (True, False))
    assert training is not None and evaluation is not None
    assert (training.start_step, training.histories, evaluation.histories) == (5, True, False)
    assert make_filter(None, HIDDEN, training=True) is None
