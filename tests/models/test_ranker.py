"""The whole dense model: what every sequence encoder promises, and what the configuration may not ask for."""

import itertools
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from dist_rec.common.strict import ConfigError
from dist_rec.data.collate import empty_batch
from dist_rec.models.options import ModelOptions
from dist_rec.models.protocol import ModelInputs, SequenceModel
from tests.data.feedback_rows import feedback_schema
from tests.data.requests import make_row, make_rows, make_schema, seen_schema
from tests.models.batches import (
    MODELS,
    Model,
    Row,
    cut,
    make_batch,
    make_model,
    one_candidate_each,
    saved_bytes,
    seen_row,
)

NAMES = tuple(MODELS)
STRATEGIES = ("recent", "uniform", "mixed", "learnable")
ROUNDING = 2e-6  # logits here are about 0.5; a few roundings of fp32
SEEN = {
    "tokens": {"position": "absolute"},
    "longer": {"merge": 1, "k": 0, "inner_trans": False, "globals": ["candidate"], "self_layers": 2, "rotary": True},
}


def _rows(counts: list[int], longest: int = 20) -> list[Row]:
    """Requests with given numbers of candidates."""
    rng = np.random.default_rng(0)
    rows = []
    for user, count in enumerate(counts):
        row = make_row(rng, user, longest)
        candidates = make_row(rng, user, 0) | {"history.item": []}
        while len(candidates["candidate.item"]) < count:
            more = make_row(rng, user, 40)
            candidates = {name: more[name] for name in more if name.startswith("candidate")}
        row |= {name: value[:count] for name, value in candidates.items() if name.startswith("candidate")}
        rows.append(row)
    return rows


def _close(got: Tensor, expected: Tensor, scale: float = ROUNDING) -> None:
    torch.testing.assert_close(got, expected, rtol=0.0, atol=scale)


def _same_gradients(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, truth in expected.items():
        _close(got[name], truth, 1e-5 * max(1.0, float(truth.abs().max())))


@pytest.mark.parametrize("name", NAMES)
def test_eight_candidates_are_eight_requests_with_one(name: str) -> None:
    """Outputs and the gradient of every parameter, tables included."""
    rows = _rows([8, 3, 8, 0, 1])
    together, apart = make_batch(rows), make_batch(one_candidate_each(rows))
    assert together.num_candidates == apart.num_candidates == len(apart.grouping_key) == 20
    model = make_model(**MODELS[name])
    _close(model(together), model(apart))
    _same_gradients(model.gradients(together), model.gradients(apart))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_each_request_alone(name: str) -> None:
    """Padding and neighbours never change anything."""
    rows = _rows([2, 0, 1, 4, 1], longest=40)
    model = make_model(**MODELS[name])
    _close(model(make_batch(rows)), torch.cat([model(make_batch([row])) for row in rows]))


@pytest.mark.parametrize(
    ("name", "position"),
    [("longer", "none"), ("longer", "recency"), ("sum_pooling", "recency"), ("hyformer", "recency")],
)
def test_order_matters_to_longer(name: str, position: str) -> None:
    rows = [row for row in _rows([2] * 6) if len(row["history.item"]) > 3]
    shuffled = [
        {column: value[::-1] if column.startswith("history") else value for column, value in row.items()}
        for row in rows
    ]
    model = make_model(**_with(MODELS[name], tokens={"position": position}))
    before, after = model(make_batch(rows)), model(make_batch(shuffled))
    assert len(rows) > 2 and ((before - after).abs().amax(1) > 1e-6).all()  # rounding: 1e-7


def test_order_does_not_matter_to_pooling_without_positions() -> None:
    rows = _rows([2] * 6)
    reverse = [
        {name: value[::-1] if name.startswith("history") else value for name, value in row.items()} for row in rows
    ]
    model = make_model(name="sum_pooling", tokens={"position": "none"})
    _close(model(make_batch(rows)), model(make_batch(reverse)))


@pytest.mark.parametrize("name", NAMES)
def test_a_request_without_history_is_scored(name: str) -> None:
    rows = _rows([3, 2], longest=0)
    assert not any(row["history.item"] or row["searches.query"] for row in rows)
    logits = make_model(**MODELS[name])(make_batch(rows))
    assert logits.shape == (5, 2) and logits.isfinite().all() and len(set(logits[:, 0].tolist())) == 5


@pytest.mark.parametrize(
    "changes",
    list(MODELS.values())
    + [{"longer": {"queries": queries, "globals": ["candidate", "cls"]}} for queries in STRATEGIES],
)
@pytest.mark.parametrize("requests", [0, 2])
def test_no_candidates_leave_zero_gradients(changes: dict[str, Any], requests: int) -> None:
    """For every parameter: one without a gradient would make DDP wait for ever."""
    batch = (
        make_batch(_rows([0] * requests, longest=0)) if requests else empty_batch(make_schema()).to(torch.device("cpu"))
    )
    model = make_model(**changes)
    assert model(batch).shape == (0, 2)
    assert not any(gradient.any() for gradient in model.gradients(batch).values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("position", ["none", "absolute"])
def test_seen_equals_a_history_cut_to_it(name: str, position: str) -> None:
    rng = np.random.default_rng(0)
    rows = [seen_row(rng, 9, [0, 4, 9, 1]), seen_row(rng, 0, [0]), seen_row(rng, 3, []), seen_row(rng, 14, [13, 2])]
    alone = [cut(row, c) for row in rows for c in range(len(row["candidate.visible_events"]))]
    model = make_model(seen_schema(), **_seen(name, position))
    together, apart = make_batch(rows, seen_schema()), make_batch(alone, seen_schema())
    _close(model(together), model(apart))
    _same_gradients(model.gradients(together), model.gradients(apart))


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_after_the_cut_changes_nothing_bitwise(name: str) -> None:
    """The leak test: every prediction sees 5 of 20 events; the other 15 become others, with other answers."""
    rng = np.random.default_rng(0)
    rows = [seen_row(rng, 20, [5, 3, 0, 5]), seen_row(rng, 12, [5, 4])]
    others = [
        row | {name: row[name][:5] + seen_row(rng, 20, [])[name][5 : len(row[name])] for name in _HISTORY}
        for row in rows
    ]
    assert all(row["history.item"] != other["history.item"] for row, other in zip(rows, others))
    model = make_model(seen_schema(), **_seen(name, "absolute"))
    before, after = (model(make_batch(batch, seen_schema())) for batch in (rows, others))
    assert torch.equal(before, after)
    inside = [other | {"history.correct": [1 - c for c in other["history.correct"]]} for other in others]
    changed = model(make_batch(inside, seen_schema())) != before
    assert changed.any(1).tolist() == [True, True, False, True, True, True]


_HISTORY = ("history.item", "history.correct")


def _seen(name: str, position: str) -> dict[str, Any]:
    one_sequence = {
        "hyformer": {"heads": 2, "sequences": {"history": {"encoder": "full", "causal": True}}, "rotary": True}
    }
    return _with(MODELS[name], **SEEN, **one_sequence) | {"tokens": {"position": position}}


def _with(model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Groups of settings are merged with those of the model."""
    return model | {part: {**model.get(part, {}), **settings} for part, settings in changes.items()}


@pytest.mark.parametrize("parts", [["tokens"], ["tokens", "inner", "cross", "self"]])
def test_recomputing_changes_no_gradient(parts: list[str]) -> None:
    batch = make_batch(_rows([2, 1, 3]))
    kept, dropped = (make_model(recompute=recompute).gradients(batch) for recompute in ([], parts))
    for name, expected in kept.items():
        assert torch.equal(dropped[name], expected), name


def test_recomputing_tokens_keeps_fewer_activations() -> None:
    batch = make_batch(_rows([1, 1, 1], longest=40))
    kept, dropped = (make_model(name="sum_pooling", recompute=parts) for parts in ([], ["tokens"]))
    assert saved_bytes(lambda: dropped(batch)) < saved_bytes(lambda: kept(batch)) / 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "bf16", [p for n in (1, 2, 3) for p in itertools.combinations(("tokens", "layers", "head"), n)]
)
def test_any_part_may_run_in_bf16(name: str, bf16: tuple[str, ...]) -> None:
    batch = make_batch(_rows([2, 1, 3]))
    exact = make_model(**MODELS[name])
    model = make_model(**MODELS[name], precision=dict.fromkeys(bf16, "bf16"))
    error = (model(batch).float() - exact(batch)).abs().max()
    assert error < 0.03  # logits of about 0.5, bf16 keeps 8 bits, a dozen layers
    assert error > 0 or (name == "sum_pooling" and bf16 == ("layers",)), "averages are always taken in fp32"
    gradients = model.gradients(batch)
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize(
    "inputs", [["globals"], ["sequence_mean"], ["globals", "candidate"], ["sequence_mean", "context"]]
)
def test_head_sees_what_is_asked_for(inputs: list[str]) -> None:
    model, batch = make_model(head={"inputs": inputs}), make_batch(_rows([2, 1]))
    widths = {"globals": 2 * 2 * 16, "sequence_mean": 2 * 16, "candidate": 16, "context": 8}
    assert _head_width(model) == sum(widths[name] for name in inputs)
    assert model(batch).shape == (3, 2)


def _head_width(model: Model) -> int:
    return model.ranker.head.mlps[0][0].in_features


def test_candidates_may_have_dynamic_fields() -> None:
    schema = make_schema(candidate={"ids": ["item"], "side": {"slot": 4}, "labels": ["click"], "oracle": True})
    rows = [row | {"candidate.slot": [c % 4 for c in range(len(row["candidate.item"]))]} for row in make_rows(6)]
    other = [row | {"candidate.slot": [(slot + 1) % 4 for slot in row["candidate.slot"]]} for row in rows]
    model = make_model(schema)
    assert not torch.isclose(model(make_batch(rows, schema)), model(make_batch(other, schema))).any()


class _NoWidth(SequenceModel):
    """Says that it reads feedback, and not how wide its tokens are."""

    class Config(ModelOptions):
        READS_FEEDBACK: ClassVar[bool] = True

    def __init__(self, options: ModelOptions, inputs: ModelInputs) -> None:
        super().__init__()
        self.width = 1


def test_feedback_needs_a_width() -> None:
    own = {"name": f"{__name__}:{_NoWidth.__name__}"}
    with pytest.raises(ConfigError, match=r"READS_FEEDBACK, but its feedback_width is 0; expected the width of the"):
        make_model(feedback_schema(), **own)
    make_model(feedback_schema().with_feedback(None), **own)


def test_swiglu_works_with_seen() -> None:
    rng = np.random.default_rng(0)
    rows = [seen_row(rng, 9, [0, 4, 9, 1]), seen_row(rng, 3, [])]
    alone = [cut(row, c) for row in rows for c in range(len(row["candidate.visible_events"]))]
    settings = {**_seen("hyformer", "none"), "hyformer": {"heads": 2, "sequences": {"history": {"encoder": "swiglu"}}}}
    model = make_model(seen_schema(), **settings)
    _close(model(make_batch(rows, seen_schema())), model(make_batch(alone, seen_schema())))


@pytest.mark.parametrize(
    ("inputs", "width"),
    [(["mixed"], 5 * 20), (["mixed_queries"], 2 * 20), (["mixed_mean", "candidate", "context"], 20 + 16 + 8)],
)
def test_the_head_of_hyformer(inputs: list[str], width: int) -> None:
    model = make_model(**MODELS["hyformer"], head={"inputs": inputs})
    assert _head_width(model) == width and model(make_batch(_rows([2, 1]))).shape == (3, 2)


SPLIT = {**MODELS["hyformer"], "tokens": {"width": 24}, "non_sequential": {"split": 4}}


def test_slices_instead_of_groups() -> None:
    """24 columns of context and candidate in 4 slices of 6, or 5 of 5 with one column of padding: T = 6 or 7."""
    for split, width in ((4, 24), (5, 28)):
        model = make_model(**{**SPLIT, "non_sequential": {"split": split}, "tokens": {"width": width}})
        rows = _rows([3, 1])
        _close(model(make_batch(rows)), torch.cat([model(make_batch([row])) for row in rows]))
        assert all(gradient.any() for gradient in model.gradients(make_batch(rows)).values())
