"""Filtered events in models: what is hidden, key-masked or dropped moves no logit, no gradient and no row."""

from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from dist_rec.common.strict import Strict
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.collate import collate
from dist_rec.data.schema import Schema
from dist_rec.kernels.cross_causal_attention import Mask
from dist_rec.models.late_fusion import LateFusion
from dist_rec.models.layers.loss import BinaryCrossEntropy, total_loss
from dist_rec.optim.hybrid import HybridOptimizer
from tests.data.filter.policies import all_items, filter_by_item
from tests.data.requests import make_rows, make_schema, make_table, seen_schema
from tests.embedding.sharded import DENSE, initial_table, local_batch, shard, sharded_config
from tests.helpers.ranks import run_ranks
from tests.models.batches import MODELS, Model, Row, make_model, seen_row
from tests.training.runs import losses, make_config, run, these_ranks, write_dataset

CPU = torch.device("cpu")
HIDDEN = make_schema(hidden=True)


def _batch(rows: list[Row], actions: dict[int, str], schema: Schema = HIDDEN, **more: Any) -> SequenceBatch:
    filtered = filter_by_item(schema, actions, **more)
    return collate(make_table(rows, schema), schema, event_filter=filtered).to(CPU)


def _loss(model: Model, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
    logits = model(batch)
    loss = total_loss(BinaryCrossEntropy(Strict()), logits, batch.labels, batch.candidates_per_rank)
    return loss, logits


def _row_gradients(model: Model, batch: SequenceBatch) -> Tensor:
    """Of the table of items, (51, D)."""
    model.zero_grad(set_to_none=True)
    loss, _ = _loss(model, batch)
    loss.backward()
    grad = model.tables.weights["item"].grad
    assert grad is not None
    return grad


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("action", ["hide", "keymask", "drop"])
def test_rows_of_filtered_items_are_neither_read_nor_trained(name: str, action: str) -> None:
    """No bit of loss and logits depends on them, and their gradient is zero to the bit."""
    batch, model = _batch(make_rows(12), all_items(action)), make_model(HIDDEN, **MODELS[name])
    chosen = torch.tensor(sorted(all_items(action)))
    loss, logits = _loss(model, batch)
    grad = _row_gradients(model, batch)
    assert not grad[chosen].any() and grad.any()
    assert (action == "hide") == bool(grad[50].any()), "HIDDEN learns, where events are hidden"
    with torch.no_grad():
        model.tables.weights["item"][chosen] = torch.nan
    again, same = _loss(model, batch)
    assert torch.equal(again, loss) and torch.equal(same, logits)


@pytest.mark.parametrize("name", list(MODELS))
def test_rows_of_masked_events_learn_from_what_sees_them(name: str) -> None:
    """Masking a loss is no control of privacy."""
    grad = _row_gradients(make_model(HIDDEN, **MODELS[name]), _batch(make_rows(12), all_items("mask")))
    assert grad[sorted(all_items("mask"))].any() and not grad[50].any()


@pytest.mark.parametrize("name", list(MODELS))
def test_masked_candidates_move_nothing(name: str) -> None:
    """The mean is over the trained ones: as if the others had not been there."""
    rows, items = make_rows(12), set(all_items("mask"))
    model = make_model(HIDDEN, **MODELS[name])
    masked = _batch(rows, all_items("mask"))
    alone = [
        {
            name: [v for v, item in zip(value, row["candidate.item"], strict=True) if item not in items]
            if name.startswith("candidate")
            else value
            for name, value in row.items()
        }
        for row in rows
    ]
    left = [
        row for row, before in zip(alone, rows, strict=True) if row["candidate.item"] or not before["candidate.item"]
    ]
    without = collate(make_table(left), HIDDEN).to(CPU)
    torch.testing.assert_close(_loss(model, masked)[0], _loss(model, without)[0], rtol=1e-6, atol=1e-7)
    got, expected = (_row_gradients(model, batch) for batch in (masked, without))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_batch_without_targets_has_a_loss_of_zero(name: str) -> None:
    """And zero gradients, of everything: no NaN, and every rank takes part in every collective."""
    rows = [row for row in make_rows(12) if row["candidate.item"]]
    model = make_model(HIDDEN, **MODELS[name])
    for batch in (_batch(rows, dict.fromkeys(range(50), "hide")), _all_masked(rows)):
        model.zero_grad(set_to_none=True)
        loss, _ = _loss(model, batch)
        loss.backward()
        assert float(loss.detach()) == 0.0
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def _all_masked(rows: list[Row]) -> SequenceBatch:
    """Candidates that are there, none of them trained."""
    batch = collate(make_table(rows), HIDDEN).to(CPU)
    batch.labels.fill_(torch.nan)
    batch.candidates_per_rank.fill_(0.0)
    return batch


# Without positions, merging and a bound on the query rows; times of events stay what they are.
EQUAL = {
    "longer": {"longer": {"merge": 1, "k": 0}, "tokens": {"position": "none"}},
    "longer_bounded": {"longer": {"merge": 1, "k": 3}, "tokens": {"position": "none"}},
    "hyformer": {**MODELS["hyformer"], "tokens": {"width": 20, "position": "none"}},
    "sum_pooling": {**MODELS["sum_pooling"], "tokens": {"position": "none"}},
    "din": {**MODELS["din"], "tokens": {"position": "none"}},
}


@pytest.mark.parametrize("name", list(EQUAL))
def test_key_masked_is_dropped_where_places_do_not_count(name: str) -> None:
    model, rows = make_model(HIDDEN, **EQUAL[name]), make_rows(12)
    masked, dropped = (model(_batch_without_candidates(rows, action)) for action in ("keymask", "drop"))
    assert torch.equal(masked, dropped)


def _batch_without_candidates(rows: list[Row], action: str) -> SequenceBatch:
    """Filtered histories, and all candidates as they are."""
    return _batch(rows, all_items(action), training=False)


@pytest.mark.parametrize("name", ["longer", "longer_absolute", "longer_inner", "longer_rotary", "hyformer_rotary"])
def test_places_of_key_masked_events_stay_empty(name: str) -> None:
    """With places, the rest is where it was: attention with the mask of keys says so, on every slot of the batch."""
    changes: dict[str, Any] = {
        "longer": {"longer": {"merge": 1, "k": 0}},
        "longer_absolute": {"longer": {"merge": 1, "k": 0}, "tokens": {"position": "absolute"}},
        "longer_inner": {"longer": {"merge": 3, "k": 2, "inner_trans": True}},
        "longer_rotary": {"longer": {"merge": 2, "k": 0, "rotary": True}},
        "hyformer_rotary": {**MODELS["hyformer"], "hyformer": {"heads": 2, "mixer_expansion": 2, "rotary": True}},
    }[name]
    model, rows = make_model(HIDDEN, **changes), make_rows(12)
    masked, dropped = (model(_batch_without_candidates(rows, action)) for action in ("keymask", "drop"))
    assert not torch.allclose(masked, dropped, atol=1e-4), "places count"
    # One more key-masked event in front of a history that is masked up to there changes nothing but absolute places.
    if name != "longer_absolute":
        longer = [_with_older_event(row) for row in rows]
        torch.testing.assert_close(model(_batch_without_candidates(longer, "keymask")), masked, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rotary", [False, True])
def test_it_is_attention_with_a_mask_of_keys(rotary: bool) -> None:
    """The outputs of the globals with all events there, hidden, and keys that nobody may see, in every layer."""
    inputs = ["globals", "candidate", "context"]
    model = make_model(
        HIDDEN,
        longer={"merge": 1, "k": 0, "rotary": rotary},
        tokens={"position": "absolute"},
        head={"hidden": [16], "inputs": inputs},
    )
    rows = make_rows(12)
    valid = [
        seen
        for row in rows
        for seen in [*(item % 3 > 0 for item in row["history.item"]), *[True] * (2 * len(row["candidate.item"]))]
    ]

    def summary(action: str) -> Tensor:
        batch = _batch_without_candidates(rows, action)
        found = model.tables(batch)
        tokens = model.ranker.event_tokens("history", found, batch, None)
        view = model.ranker.candidates(found, batch)
        body = model.ranker.body
        assert isinstance(body, LateFusion)
        return body.summaries["history"](tokens, batch.sequences["history"].lengths, view)

    with mock.patch("dist_rec.models.longer.model.Mask", partial(Mask, key_valid=torch.tensor(valid))):
        expected = summary("hide")
    torch.testing.assert_close(summary("keymask"), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(summary("hide"), expected, atol=1e-3), "the mask is at work"


def _with_older_event(row: Row) -> Row:
    """With three more events that are filtered, before all others, so that groups of three stay what they are."""
    first = {"item": 0, "kind": 1, "action": 1, "page": 1, "time": 0}
    return row | {f"history.{name}": [value] * 6 + row[f"history.{name}"] for name, value in first.items()}


def _state_of_items(action: str) -> tuple[Tensor, Tensor]:
    """After four steps: rows of the table of items, and the fused optimizer's sum for each."""
    rules = [{"reason": "bot", "field": "item", "values": sorted(all_items(action))}]
    config = sharded_config(event_filter={"actions": {"bot": action}, "rules": rules}, lr=0.05)
    dmp = shard(config, ddp=False)
    hybrid = HybridOptimizer(dmp, DENSE["sgd"], dense_update="delayed", warmup_sync_steps=0)
    rows = make_rows(40)
    for step in range(4):
        hybrid.zero_grad()
        dmp(local_batch([rows[10 * step : 10 * step + 10]], config))[0].backward()
        hybrid.step()
    state = dmp.fused_optimizer.state_dict()["state"]
    (sums,) = (value for of in state.values() for name, value in of.items() if name.startswith("item."))
    (weight,) = (value for name, value in dmp.module.state_dict().items() if name.endswith(".item.weight"))
    return weight.local_shards()[0].tensor.clone(), sums.local_shards()[0].tensor.clone().flatten()


@pytest.mark.parametrize(
    "action", ["hide", "drop", *(pytest.param(action, marks=pytest.mark.slow) for action in ("keymask", "mask"))]
)
def test_the_optimizer_has_seen_nothing_of_filtered_rows(action: str) -> None:
    (weight, sums) = run_ranks(_state_of_items, 1, action)[0]
    chosen = torch.tensor(sorted(all_items(action)))
    assert sums.any() and bool(sums[chosen].any()) == (action == "mask")
    config = sharded_config(event_filter={"actions": {"bot": action}})
    assert torch.equal(weight[chosen], initial_table("item", config)[chosen]) == (action != "mask")


OF_MOMENTS: dict[str, dict[str, Any]] = {
    "longer": {"longer": {"merge": 1, "k": 0, "globals": ["candidate"]}, "tokens": {"position": "absolute"}},
    "longer_rotary": {
        "longer": {"merge": 1, "k": 0, "globals": ["candidate"], "rotary": True},
        "tokens": {"position": "none"},
    },
    "hyformer": {
        "name": "hyformer",
        "tokens": {"width": 24, "position": "absolute"},
        "hyformer": {"heads": 2, "rotary": True, "sequences": {"history": {"encoder": "full", "causal": True}}},
    },
    "sum_pooling": {"name": "sum_pooling", "tokens": {"position": "absolute"}},
    "din": {"name": "din", "tokens": {"position": "absolute"}},
}


@pytest.mark.parametrize("name", list(OF_MOMENTS))
@pytest.mark.parametrize("action", ["hide", "keymask", "drop"])
def test_candidates_with_their_own_moment(action: str, name: str) -> None:
    """Each sees what is left of its prefix: the logits of requests cut there by hand."""
    schema = seen_schema().model_copy(update={"hidden": True})
    rng = np.random.default_rng(1)
    rows = [seen_row(rng, 9, [0, 3, 9, 5]) for _ in range(4)]
    model = make_model(schema, **OF_MOMENTS[name])
    together = model(_batch(rows, all_items(action), schema, training=False))
    apart = [
        row
        | {name: value[:seen] for name, value in row.items() if name.startswith("history")}
        | {name: [value[c]] for name, value in row.items() if name.startswith("candidate")}
        for row in rows
        for c, seen in enumerate(row["candidate.visible_events"])
    ]
    torch.testing.assert_close(
        together, model(_batch(apart, all_items(action), schema, training=False)), rtol=1e-5, atol=1e-6
    )


def _train_on_nothing(data: Path, out: Path) -> tuple[Any, list[float]]:
    """Every candidate is filtered, from the third batch on."""
    rules = [{"reason": "privacy", "field": "item", "values": list(range(50))}]
    event_filter = {"rules": rules, "start_step": 2}
    config = make_config(data, out, data={"filter": event_filter}, run={"max_steps": 5}, optim={"clip_norm": 1.0})
    result = run(config, these_ranks())
    return result, losses(config) if torch.distributed.get_rank() == 0 else []


def test_two_ranks_train_on_with_nothing_left_to_train(tmp_path: Path) -> None:
    """From a step on, as the recipe says."""
    (result, seen), (other, _) = run_ranks(_train_on_nothing, 2, write_dataset(tmp_path / "data"), tmp_path)
    assert len(seen) >= 3 and all(seen[:2]) and not any(seen[2:])
    assert result.test["click"].strata["forget"].candidates == result.test["click"].candidates
    assert repr(result.test) == repr(other.test)
