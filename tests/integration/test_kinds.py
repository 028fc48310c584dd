"""Numbers, lists, vectors and cyclic times, from rows of a file to logits: against plain references, and in every
model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_rec.data.attribute_store import open_attributes, write_attributes
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.collate import Collator, collate, empty_batch
from dist_rec.data.example import ExampleAttributes
from dist_rec.data.schema import Schema
from dist_rec.models.features import widened
from dist_rec.models.layers.tokens import EventTokens
from dist_rec.models.ranker import Ranker
from tests.data.filter.policies import all_items, filter_by_item
from tests.data.kind_rows import (
    ATTRIBUTES,
    NUMBERS,
    attribute_arrays,
    flat,
    kind_rows,
    kinds_batch,
    kinds_schema,
    kinds_store,
    kinds_table,
    named,
)
from tests.data.requests import make_rows, make_schema, make_table
from tests.models.batches import MODELS, Model, make_model, model_config, one_candidate_each

CPU = torch.device("cpu")
SENT = ("price", "stay")
Rows = list[dict[str, Any]]


def _batch(rows: Rows, schema: Schema | None = None, **options: Any) -> SequenceBatch:
    return kinds_batch(rows, schema, **options).to(CPU)


def _model(name: str) -> Model:
    return make_model(kinds_schema(), **MODELS[name])


def _newest(rows: Rows, most: int) -> Rows:
    return [
        {name: value[-most:] if name.startswith(("history", "searches")) else value for name, value in row.items()}
        for row in rows
    ]


@pytest.mark.parametrize("newest", [None, 3])
@pytest.mark.parametrize("dedup", [True, False])
def test_a_batch_has_the_numbers_of_its_rows(newest: int | None, dedup: bool) -> None:
    rows, schema = kind_rows(30), kinds_schema()
    batch = _batch(rows, max_length=newest, dedup=dedup)
    left = rows if newest is None else _newest(rows, newest)
    owners = {"history": batch.sequences["history"], "candidate": batch.candidates}
    for owner, events in owners.items():
        for name in SENT:
            np.testing.assert_array_equal(events.numbers[name].numpy(), flat(left, f"{owner}.{name}"))
        expected = schema.candidate.numbers["rank"].buckets_of(flat(left, f"{owner}.rank"))
        assert events.side["rank"].tolist() == expected.tolist() and events.side["rank"].dtype == torch.uint8
    np.testing.assert_array_equal(batch.sequences["searches"].numbers["stay"].numpy(), flat(left, "searches.stay"))
    assert batch.request is not None and batch.request.week is not None
    np.testing.assert_array_equal(batch.request.numbers["of_price"].numpy(), flat(rows, "of_price"))
    assert list(batch.request.side) == ["of_rank"] and batch.request.week.dtype == torch.int32


def test_what_numbers_cost() -> None:
    """4 bytes each, and 1 of a bucket; the plain job moves 4 for each and the lengths."""
    rows, plain = kind_rows(20), make_schema()
    with_numbers = make_schema(
        request={"grouping_key": "user", "time": "time", "cyclic": True, **named("of", NUMBERS)},
        sequences=[{**of.model_dump(), "numbers": NUMBERS if of.time else {}} for of in plain.sequences],
    )
    sent, without = collate(kinds_table(rows, with_numbers), with_numbers), collate(make_table(rows, plain), plain)
    events = sent.counts["history"]
    assert sent.plain_bytes - without.plain_bytes == 4 * 3 * (events + 20) + 20 * (3 * 8 + 12)
    more = [name for name in sent.tensors if name not in without.tensors]
    assert sum(sent.tensors[name].nbytes for name in more) == 9 * events + 20 * (9 + 4)


def test_hidden_events_hide_their_numbers() -> None:
    rows, schema = kind_rows(30), kinds_schema(hidden=True)
    acting = filter_by_item(schema, all_items("hide"))
    table = kinds_table(rows, schema)
    batch = Collator(schema, event_filter=acting, attributes=kinds_store(schema))(table).to(CPU)
    ids = batch.unique.to_dict()["history.item"].values()
    for events in (batch.sequences["history"], batch.candidates):
        hidden = ids[torch.as_tensor(events.inverse).long()] == 50
        assert hidden.any() and not hidden.all()
        assert all(events.numbers[name][hidden].isnan().all() for name in SENT)
        assert (events.side["rank"][hidden] == 4).all() and not (events.side["rank"][~hidden] == 4).all()
        assert not events.numbers["price"][~hidden].isnan().all()


@pytest.mark.parametrize("name", MODELS)
def test_eight_candidates_are_eight_requests_with_one(name: str) -> None:
    rows, model = kind_rows(12), _model(name)
    together, apart = _batch(rows), _batch(one_candidate_each(rows))
    torch.testing.assert_close(model(together), model(apart), rtol=0, atol=2e-6)
    mine, theirs = model.gradients(together), model.gradients(apart)
    for parameter, expected in theirs.items():
        limit = 1e-5 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(mine[parameter], expected, rtol=0, atol=limit, msg=parameter)


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_is_each_request_alone(name: str) -> None:
    rows, model = kind_rows(8), _model(name)
    apart = torch.cat([model(_batch([row])) for row in rows])
    torch.testing.assert_close(model(_batch(rows)), apart, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_field_matters(name: str) -> None:
    """To the logits of some candidate; and every weight has a gradient."""
    rows, model = kind_rows(12), _model(name)
    before = model(_batch(rows))
    columns = [*(f"{owner}.{n}" for owner in ("history", "candidate") for n in NUMBERS), "searches.stay"]
    columns += [f"of_{n}" for n in NUMBERS]
    for column in columns:
        changed = [{**row, column: _other(row[column])} for row in rows]
        assert (model(_batch(changed)) - before).abs().max() > 1e-6, column
    for column, size in (("tags", 7), ("candidate.related", 50)):
        changed = [{**row, column: _next(row[column], size)} for row in rows]
        assert (model(_batch(changed)) - before).abs().max() > 1e-6, column
    later = [
        {**row, "time": row["time"] + 40_000, "history.time": [t + 40_000 for t in row["history.time"]]} for row in rows
    ]
    assert (model(_batch(later)) - before).abs().max() > 1e-6, "time of day and of the week"
    assert all(gradient.any() for name, gradient in model.gradients(_batch(rows)).items() if "number" in name)


def _other(value: Any) -> Any:
    if isinstance(value, list):
        return [_other(each) for each in value]
    return 0.7 if value is None or np.isnan(value) else None


def _next(value: Any, size: int) -> Any:
    return [_next(each, size) for each in value] if isinstance(value, list) else (value + 1) % size


@pytest.mark.parametrize("name", MODELS)
def test_every_attribute_matters(name: str, tmp_path: Path) -> None:
    schema, rows, model = kinds_schema(), kind_rows(12), _model(name)
    before, other = model(_batch(rows)), attribute_arrays(seed=1)
    for table, attributes in ATTRIBUTES.items():
        for attribute in attributes:
            arrays = {**attribute_arrays()[table], attribute: other[table][attribute]}
            for of, whole in {**attribute_arrays(), table: arrays}.items():
                write_attributes(tmp_path, schema, of, whole)
            changed = _batch(rows, attributes=open_attributes(tmp_path, schema))
            assert (model(changed) - before).abs().max() > 1e-6, attribute
    gradients = model.gradients(_batch(rows))
    assert all(gradient.any() for name, gradient in gradients.items() if "attributes" in name or "genre" in name)


def test_n_grams_are_fused_with_the_row_of_the_id_alone() -> None:
    """Of the second field: what belongs to the ids of the first stands before it."""
    ngram = {"orders": [2], "heads": 1, "rows": 40}
    sequence = {"name": "history", "ids": ["item", {"name": "kind", "ngram": ngram}], "time": True}
    candidate = {"ids": ["item", {"name": "kind"}], "labels": ["click", "buy"], "oracle": True}
    attributes = {"item": ATTRIBUTES["item"], "kind": {"weight": {"vector": 3}}}
    schema = kinds_schema(sequences=[sequence], candidate=candidate, attributes=attributes, feature_groups={})
    config = model_config()
    dims = {**dict.fromkeys(schema.tables, 8), "history_kind_ngram": 8}
    ranker = Ranker(schema, config, dims)
    tokens, sizes = ranker.tokens["history"], widened(schema, dims, config.tokens)
    assert isinstance(tokens, EventTokens) and tokens.ngrams is not None
    (field,) = tokens.ngrams.fields
    assert field.columns == slice(sizes["item"], sizes["item"] + 8) and tokens.static.in_features == sum(
        sizes[name] for name in ("item", "kind")
    )
    layout, table, found = schema.layout, kinds_table(kind_rows(6), schema), []
    names = set(layout.tables.values())
    weights = {name: torch.randn(schema.rows_of(name), dims[name]) for name in sorted(names)}
    for on_host in (True, False):
        batch = Collator(schema, hash_ngrams=on_host, attributes=ExampleAttributes.of(schema))(table).to(CPU)
        ids = {key: batch.unique[key].values() for key in layout.tables}
        rows = {
            name: torch.cat([weights[layout.tables[key]][ids[key]] for key in of.keys], dim=1)
            for name, of in layout.feature_sets.items()
        }
        found.append(ranker(rows, batch))
    assert found[0].isfinite().all()
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("requests", [0, 2])
def test_without_candidates_every_gradient_is_zero(name: str, requests: int) -> None:
    schema, model = kinds_schema(), _model(name)
    rows = [{n: [] if n.startswith("candidate") else v for n, v in row.items()} for row in kind_rows(requests)]
    batch = _batch(rows) if requests else empty_batch(schema).to(CPU)
    assert not any(gradient.any() for gradient in model.gradients(batch).values())


@pytest.mark.parametrize("name", MODELS)
def test_columns_that_are_missing_throughout(name: str) -> None:
    rows = [
        {n: _missing(v) if n.split(".")[-1].removeprefix("of_") in NUMBERS else v for n, v in row.items()}
        for row in kind_rows(8)
    ]
    model, batch = _model(name), _batch(rows)
    assert batch.candidates.numbers["price"].isnan().all()
    assert model(batch).isfinite().all() and all(g.isfinite().all() for g in model.gradients(batch).values())


def _missing(value: Any) -> Any:
    return [None] * len(value) if isinstance(value, list) else None


def test_huge_numbers_stay_finite() -> None:
    rows = [{n: _huge(v) if n.split(".")[-1] == "price" else v for n, v in row.items()} for row in kind_rows(8)]
    model = _model("longer")
    assert model(_batch(rows)).isfinite().all()


def _huge(value: list[float | None]) -> list[float]:
    return [3e38 * (-1) ** n for n in range(len(value))]


def test_recomputing_changes_no_gradient() -> None:
    rows = kind_rows(8)
    plain, again = (make_model(kinds_schema(), recompute=parts) for parts in ([], ["tokens"]))
    for name, expected in plain.gradients(_batch(rows)).items():
        assert torch.equal(again.gradients(_batch(rows))[name], expected), name


@pytest.mark.parametrize("name", MODELS)
def test_tokens_may_run_in_bf16(name: str) -> None:
    changes = {**MODELS[name], "precision": {"tokens": "bf16", "layers": "bf16"}}
    rows, half = kind_rows(8), make_model(kinds_schema(), **changes)
    torch.testing.assert_close(half(_batch(rows)), _model(name)(_batch(rows)), rtol=0, atol=0.05)
    half.gradients(_batch(rows))


def test_a_schema_without_them_makes_the_batch_that_it_made() -> None:
    sent = collate(make_table(make_rows(9)), make_schema())
    assert not any(name.startswith(("number.", "week.", "side.request")) for name in sent.tensors)
    assert sent.to(CPU).request is None and not sent.to(CPU).candidates.numbers


def test_a_filter_that_drops_everything_leaves_no_numbers() -> None:
    schema = kinds_schema()
    acting = filter_by_item(schema, all_items("drop", range(50)))
    sent = collate(kinds_table(kind_rows(5), schema), schema, event_filter=acting)
    assert sent.num_requests == 0 and len(sent.to(CPU).candidates.numbers["price"]) == 0


@pytest.mark.parametrize("name", ["longer", "hyformer"])
def test_ids_of_feedback_have_attributes(name: str) -> None:
    candidate = kinds_schema().candidate.model_dump() | {"feedback": {"ids": ["item"], "side": {"dwell": 6}}}
    schema = kinds_schema(candidate=candidate)
    rows = [
        {
            **row,
            "candidate.feedback_events": [1] * len(row["candidate.item"]),
            "feedback.item": row["candidate.item"][::-1],
            "feedback.dwell": [2] * len(row["candidate.item"]),
        }
        for row in kind_rows(8)
    ]
    model, batch = make_model(schema, **MODELS[name]), _batch(rows, schema)
    assert batch.feedback is not None and "feedback.item" in batch.attributes
    scores = model(batch)
    assert len(scores) == 2 * batch.num_candidates and scores.isfinite().all()
    served = collate(kinds_table(rows, schema), schema.as_served()).to(CPU)
    assert len(model(served)) == served.num_candidates
    assert any(gradient.any() for name, gradient in model.gradients(batch).items() if "feedback" in name)
