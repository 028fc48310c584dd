"""FLOPs by formula against torch's own count of a whole forward, for every model; parameters by part."""

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dist_rec.data.schema import Schema
from dist_rec.kernels.cross_causal_attention import cross_causal_attention
from dist_rec.models.cost import dense_params, request_flops
from tests.data.kind_rows import FITTED, NUMBERS
from tests.data.requests import make_schema
from tests.models.batches import MODELS, Model, Row, make_batch, make_model

LENGTHS = {"history": 11, "searches": 6}
SHORT = {"history": 3, "searches": 0}


def _hyformer(sequences: dict[str, Any] | None = None, width: int = 20, **changes: Any) -> dict[str, Any]:
    settings = {"heads": 2, "mixer_expansion": 2, "layers": 3, "sequences": sequences or {}, **changes}
    return {"name": "hyformer", "tokens": {"width": width}, "hyformer": settings}


def _every(**settings: Any) -> dict[str, Any]:
    return dict.fromkeys(LENGTHS, settings)


HYFORMERS = {
    "full": _hyformer(_every(encoder="full", causal=True), ffn_expansion=2),
    "swiglu": _hyformer(_every(encoder="swiglu"), ffn_expansion=3),
    "longer": _hyformer(_every(encoder="longer", recent=4)),
    "mixed": _hyformer({"history": {"encoder": "full"}, "searches": {"encoder": "swiglu"}}, query_expansion=3),
    "from input": _hyformer(_every(encoder="longer", recent=4), encode_from="input"),
    "merged": _hyformer({"history": {"recent": 5, "queries": 2}}, merge_sequences=True),
    "many queries": _hyformer({"history": {"queries": 3}, "searches": {"queries": 4}}, rotary=True),
    "own pools": _hyformer(pools="own"),
    "from candidates": _hyformer(query_inputs=["candidate"]),
    "from pools": _hyformer(query_inputs=["pools"], evolve_non_sequential=False),
    "shared": _hyformer(per_token=False),
    "rankmixer block": _hyformer(rankmixer_block=True),
    "slices": {**_hyformer(width=28), "non_sequential": {"split": 5}},
}
RANKMIXER: dict[str, Any] = {"interaction": "rankmixer", "rankmixer": {"width": 20, "expansion": 3, "layers": 3}}
CASES: dict[str, dict[str, Any]] = {
    **MODELS,
    **{f"hyformer {name}": changes for name, changes in HYFORMERS.items()},
    "longer without inner": {
        "longer": {"merge": 1, "inner_trans": False, "k": 0, "self_layers": 2, "globals": ["user", "cls"]}
    },
    "longer learnable": {"longer": {"queries": "learnable", "k": 3}},
    "longer, mean only": {"head": {"inputs": ["sequence_mean", "candidate"], "hidden": [7, 5]}},
    "longer_rankmixer, slices": {**RANKMIXER, "rankmixer": {"width": 24}, "non_sequential": {"split": 4}},
    "pooling_rankmixer": {"name": "sum_pooling", **RANKMIXER},
    "din_rankmixer": {"name": "din", **RANKMIXER},
}


def _schema(**changes: Any) -> Schema:
    """No times and no dynamic fields: their terms of the tokens are learned tables, which the formula leaves out."""
    sequences = [{"name": "history", "ids": ["item", "kind"]}, {"name": "searches", "ids": ["query"]}]
    return make_schema(sequences=sequences, **changes)


def _request(lengths: dict[str, int], candidates: int) -> Row:
    """Every event is another token, and candidates are tokens of the history, so that the first layer's rows are the
    events."""
    assert candidates <= lengths["history"]
    row = {"user": 7, "time": 1_000, "searches.query": list(range(lengths["searches"]))}
    for place, count in (("history", lengths["history"]), ("candidate", candidates)):
        row |= {f"{place}.item": list(range(count)), f"{place}.kind": [0] * count}
    row |= {f"candidate.{label}": [0] * candidates for label in ("click", "buy")}
    return row | {f"candidate.{label}.oracle": [0.5] * candidates for label in ("click", "buy")}


def _model(changes: dict[str, Any], schema: Schema) -> Model:
    return make_model(schema, **{**changes, "tokens": {**changes.get("tokens", {}), "position": "none"}})


def _counted(model: Model, row: Row, monkeypatch: pytest.MonkeyPatch) -> int:
    """What torch counts in the ranker's forward. Attention is the reference, which multiplies every query row with
    every key row of its request and masks then, and for InnerTrans torch's plain one; the formula means the same."""
    for module in ("layers.attention_block", "hyformer.query_decoder"):
        reference = partial(cross_causal_attention, backend="reference")
        monkeypatch.setattr(f"dist_rec.models.{module}.cross_causal_attention", reference)
    batch = make_batch([row], model.tables.schema)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        looked_up = model.tables(batch)
        with FlopCounterMode(display=False) as counter:
            model.ranker(looked_up, batch)
    return counter.get_total_flops()


def _elementwise(model: Model, lengths: dict[str, int], candidates: int) -> int:
    """DIN weighs every event it sees by a number: `2 d` per pair in the formula, no matrix product for torch."""
    config = model.ranker.config
    return 2 * config.tokens.width * candidates * sum(lengths.values()) if config.name == "din" else 0


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("lengths", "candidates"), [(LENGTHS, 1), (LENGTHS, 4), (SHORT, 3)], ids=["one", "several", "short"]
)
def test_torch_counts_the_same(
    name: str, lengths: dict[str, int], candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model(CASES[name], _schema())
    formula = request_flops(model.ranker, lengths, candidates)
    counted = _counted(model, _request(lengths, candidates), monkeypatch)
    assert sum(formula.values()) == counted + _elementwise(model, lengths, candidates), formula


def test_with_seen_every_candidate_has_a_pool_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = [{"name": "history", "ids": ["item", "kind"]}]
    candidate = {"ids": ["item", "kind"], "labels": ["click"], "visible_events": True}
    model = _model(
        _hyformer({"history": {"encoder": "full", "causal": True}}),
        make_schema(sequences=sequences, candidate=candidate),
    )
    row = {"user": 7, "time": 1_000, "candidate.visible_events": [2, 0, 5], "candidate.click": [0] * 3}
    row |= {
        f"{place}.{field}": list(range(n))
        for place, n in (("history", 5), ("candidate", 3))
        for field in ("item", "kind")
    }
    formula = request_flops(model.ranker, {"history": 5}, 3)
    assert sum(formula.values()) == _counted(model, row, monkeypatch)
    assert formula["pools"] == 3 * 2 * 16 * 20


def test_repeated_events_cost_less_than_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens' first layer runs over unique rows: four of the eleven events here, and one row of the searches'
    six."""
    model = _model(MODELS["sum_pooling"], _schema())
    row = _request(LENGTHS, 1) | {"history.item": [0, 1, 2, 3] * 2 + [0] * 3, "searches.query": [5] * 6}
    saved = (11 - 4) * 2 * 16 * 12 + (6 - 1) * 2 * 8 * 12
    assert sum(request_flops(model.ranker, LENGTHS, 1).values()) == _counted(model, row, monkeypatch) + saved


PARTS = {
    "longer": {"globals", "inner", "cross", "self"},
    "sum_pooling": set(),
    "din": {"attention"},
    "hyformer": {"pools", "non-sequential", "queries", "encoders", "decoders", "mixer"},
    "longer_rankmixer": {"globals", "inner", "cross", "self", "non-sequential", "mixer"},
}


@pytest.mark.parametrize("name", ["longer", "hyformer"])
def test_numbers_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are sent as they are; buckets are learned tables, as times are."""
    sent = {name: {**of, "encoding": "value", "fitted": FITTED} for name, of in NUMBERS.items()}
    schema = _schema(
        request={"grouping_key": "user", "time": "time", "cyclic": True, "numbers": {"of": sent["price"]}},
        candidate={"ids": ["item", "kind"], "labels": ["click", "buy"], "oracle": True, "numbers": sent},
    )
    changes = {**schema.model_dump(), "feature_groups": {"one": ["context.user", "context.of", "context.time"]}}
    changes["feature_groups"] |= {"kind": ["candidate.kind"]}
    changes["feature_groups"] |= {"item": ["candidate.item", *(f"candidate.{name}" for name in sent)]}
    changes["sequences"][0]["numbers"] = sent
    model = _model(CASES[name], Schema.model_validate(changes))
    row = _request(LENGTHS, 4) | {"of": 0.5}
    row |= {f"{owner}.{name}": [1.0] * n for name in sent for owner, n in (("history", 11), ("candidate", 4))}
    formula = request_flops(model.ranker, LENGTHS, 4)
    assert sum(formula.values()) == _counted(model, row, monkeypatch), formula
    plain = request_flops(_model(CASES[name], _schema()).ranker, LENGTHS, 4)
    assert formula["features"] == 4 * 2 * 3 * 2 * 4 + 2 * 4 * (2 + 4) and "features" not in plain
    assert formula["tokens"] - plain["tokens"] == 11 * 2 * 3 * 2 * 12
    assert dense_params(model.ranker)["candidate"] == 3 * 2 * 4 and dense_params(model.ranker)["request"] == 4 * 6


@pytest.mark.parametrize("name", PARTS)
def test_parameters_are_counted_by_part(name: str) -> None:
    """On a schema with times and dynamic fields, in a model of several tasks."""
    ranker = make_model(**CASES[name]).ranker
    parts = dense_params(ranker)
    assert sum(parts.values()) == sum(p.numel() for p in ranker.parameters())
    assert set(parts) == {"tokens", "head", *PARTS[name]}
    assert parts["head"] == sum(p.numel() for p in ranker.head.parameters())
