"""Cost formulas against LONGER's published figures (arXiv 2505.04421, section 3.4), real modules, and torch's own count."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dist_rec.common.cost import (
    HyformerShape,
    LongerShape,
    SequenceShape,
    cross_layer_flops,
    hyformer_flops,
    hyformer_params,
    layer_flops,
    layer_params,
    longer_flops,
    merge_ratio,
    merged_layer_flops,
    merged_layer_params,
    mixer_flops,
    mlp_flops,
    per_token_params,
    table_bytes,
)
from dist_rec.data.batch import JaggedEvents
from dist_rec.kernels.cross_causal_attention import cross_causal_attention
from dist_rec.models.config import ModelConfig
from dist_rec.models.hyformer.model import HyFormer
from dist_rec.models.hyformer.query_decoder import QueryDecoder
from dist_rec.models.hyformer.sequence_encoder import Encoded
from dist_rec.models.layers.attention_block import CrossCausalBlock
from dist_rec.models.layers.jagged import CandidateView
from dist_rec.models.layers.mixing import Boost, RankMixerBlock
from dist_rec.models.layers.non_sequential import GroupedTokens
from dist_rec.models.layers.per_token import PerTokenFfn
from dist_rec.models.layers.tokens import EventTokens
from dist_rec.models.longer.inner_trans import InnerTrans
from dist_rec.models.longer.model import Longer
from tests.models.batches import make_view, model_config


def test_the_published_flops_of_a_layer() -> None:
    assert f"{layer_flops(2048, 32) / 1e6:.1f}" == "587.2"
    assert f"{merged_layer_flops(2048, 32, 4) / 1e6:.1f}" == "335.5"


def test_the_flops_of_a_layer_over_2000_events() -> None:
    assert f"{layer_flops(2000, 32) / 1e6:.1f}" == "561.2"
    assert [f"{merged_layer_flops(2000, 32, merge) / 1e6:.1f}" for merge in (1, 4, 8)] == ["561.2", "324.6", "457.2"]


SIZES = st.integers(1, 4096)


@given(length=SIZES, width=SIZES, merge=st.integers(1, 64))
def test_the_ratio_is_flops_with_merging_over_flops_without(length: int, width: int, merge: int) -> None:
    expected = merged_layer_flops(length, width, merge) / layer_flops(length, width)
    assert merge_ratio(length, width, merge) == pytest.approx(expected, rel=1e-12)


@given(groups=st.integers(1, 512), width=st.integers(1, 64), merge=st.integers(1, 16))
def test_merging_is_a_layer_over_fewer_and_wider_rows(groups: int, width: int, merge: int) -> None:
    assert merged_layer_flops(groups * merge, width, merge) == layer_flops(groups, merge * width)


@pytest.mark.parametrize(("width", "merge"), [(8, 1), (8, 4), (32, 4), (16, 8)])
def test_the_parameters_are_those_of_the_real_block(width: int, merge: int) -> None:
    block = CrossCausalBlock(merge * width, heads=2, expansion=4, rotary=False, dropout=0.0)
    count = sum(p.numel() for p in block.parameters())
    assert count == merged_layer_params(width, merge) == layer_params(merge * width)
    assert count == 12 * merge**2 * width**2 + 13 * merge * width


def test_the_parameters_of_inner_trans_are_those_of_a_layer_of_width_d() -> None:
    inner = InnerTrans(16, heads=2, expansion=4, dropout=0.0)
    assert sum(p.numel() for p in inner.parameters()) == layer_params(16)


@given(rows=SIZES, width=SIZES)
def test_a_layer_whose_rows_all_ask_is_an_ordinary_one(rows: int, width: int) -> None:
    assert cross_layer_flops(rows, rows, width) == layer_flops(rows, width)


@dataclass(frozen=True)
class _Case:
    """One request; everything else as in `_shape`."""

    length: int
    candidates: int
    merge: int = 4
    k: int = 5
    inner: bool = True
    layers: int = 1


CASES = [
    _Case(length=64, candidates=1),
    _Case(length=61, candidates=1),  # the oldest group is padded, and costs as much as a full one
    _Case(length=64, candidates=3, layers=2),
    _Case(length=10, candidates=2, k=9),  # fewer merged tokens than k
    _Case(length=30, candidates=1, merge=1, k=0, inner=False, layers=0),
]


def _shape(case: _Case) -> LongerShape:
    return LongerShape(
        length=case.length,
        candidates=case.candidates,
        token_width=8,
        token_hidden=12,
        row_dim=10,
        merge=case.merge,
        inner_trans=case.inner,
        k=case.k,
        group_size=2,
        self_layers=case.layers,
    )


def _counted(case: _Case) -> tuple[dict[str, int], LongerShape]:
    """What torch counts in a real forward of one request, by the parts of `longer_flops`."""
    shape = _shape(case)
    config = model_config(
        tokens={"width": shape.token_width, "hidden": shape.token_hidden, "position": "none"},
        longer={"merge": case.merge, "k": case.k, "inner_trans": case.inner, "self_layers": case.layers},
    )
    lengths = torch.tensor([case.length], dtype=torch.int32)
    # Every event is another token: the formula counts the first linear layer per event, dedup makes it cheaper.
    events = JaggedEvents(lengths, torch.arange(case.length, dtype=torch.int32), dynamic={})
    view = CandidateView(
        features=torch.randn(case.candidates, 6),
        context=torch.randn(1, 5),
        request=torch.zeros(case.candidates, dtype=torch.int64),
        counts=torch.tensor([case.candidates], dtype=torch.int32),
        seen=None,
        max_count=case.candidates,
    )
    net = nn.ModuleDict(
        {
            "tokens": EventTokens(config.tokens, shape.row_dim, dynamic={}, has_time=False, dropout=0.0),
            "longer": Longer(config, candidate_dim=6, context_dim=5, sequence_mean=True, with_globals=True),
        }
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        net["longer"](net["tokens"](torch.randn(case.length, shape.row_dim), events), lengths, view)
    counts = {name.removeprefix("ModuleDict."): sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    found = {
        "tokens": counts["EventTokens"],
        "inner": counts.get("Longer.inner", 0),
        "cross": counts["Longer.cross"],
        "self": sum(counts.get(f"Longer.layers.{layer}", 0) for layer in range(case.layers)),
    }
    assert sum(counter.get_flop_counts()["Global"].values()) == sum(found.values()) + _globals_flops(case)
    return found, shape


def _globals_flops(case: _Case) -> int:
    """What `longer_flops` leaves out: the projections of a candidate of width 6 and of a context of width 5."""
    return case.candidates * mlp_flops([6, 8 * case.merge, 8 * case.merge]) + mlp_flops([5, 8 * case.merge, 8 * case.merge])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_torch_counts_the_same_in_a_real_forward(case: _Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products only: no norms, activations, softmax, biases or gathers on either side.

    The attention is the reference's, which multiplies every query row with every key row of its request and masks then, and
    for InnerTrans torch's plain one; the formula means the same. (The counter does not see into torch's fused attention for
    CPU, and `bucketed` spares event rows the candidates' keys, so both would count less.) The projections of the global
    tokens and of learned positions stand outside the formula.
    """
    reference = partial(cross_causal_attention, backend="reference")
    monkeypatch.setattr("dist_rec.models.layers.attention_block.cross_causal_attention", reference)
    found, shape = _counted(case)
    assert found == longer_flops(shape)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_bucketed_backend_costs_at_most_the_formula(case: _Case) -> None:
    found, shape = _counted(case)
    formula = longer_flops(shape)
    assert {"tokens": found["tokens"], "inner": found["inner"]} == {name: formula[name] for name in ("tokens", "inner")}
    assert 0 < found["cross"] <= formula["cross"]
    assert found["self"] <= formula["self"]


def _parameters(*modules: Any) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


FULL = SequenceShape(length=9, encoder="full", recent=128, queries=1)
LONGER = SequenceShape(length=9, encoder="longer", recent=4, queries=2)
SWIGLU = SequenceShape(length=6, encoder="swiglu", recent=128, queries=1)
SHAPE = HyformerShape((FULL, LONGER, SWIGLU), candidates=2, width=24, features=4, known=7, layers=2, mixer_expansion=2)
SHAPES = {
    "mixed": SHAPE,
    "full": replace(SHAPE, sequences=(FULL, FULL), width=18, known=6, ffn_expansion=2),
    "swiglu": replace(SHAPE, sequences=(SWIGLU,) * 4, ffn_expansion=3, known=8),
    "longer": replace(SHAPE, sequences=(LONGER, LONGER), known=6, query_expansion=3, layers=3),
    "shared": replace(SHAPE, per_token=False),
    "rankmixer block": replace(SHAPE, rankmixer_block=True, mixer_expansion=4),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_the_parameters_of_hyformer_are_those_of_the_real_modules(shape: HyformerShape) -> None:
    """Queries are made from all non-sequential tokens and the pools of all sequences."""
    assert shape.known == shape.features + len(shape.sequences)
    names = [f"sequence {s}" for s in range(len(shape.sequences))]
    sequences = {
        name: {"encoder": s.encoder, "recent": s.recent, "queries": s.queries} for name, s in zip(names, shape.sequences)
    }
    kept = ("layers", "ffn_expansion", "mixer_expansion", "query_expansion", "per_token", "rankmixer_block")
    settings = {"heads": 2, "sequences": sequences, **{name: getattr(shape, name) for name in kept}}
    config = ModelConfig.model_validate({"name": "hyformer", "tokens": {"width": shape.width}, "hyformer": settings})
    tokens = GroupedTokens({str(i): [slice(i, i + 1)] for i in range(shape.features)}, shape.width)
    model = HyFormer(config, names, tokens, candidate_tokens=[])
    parts = hyformer_params(shape)
    assert parts == {
        "queries": _parameters(model.queries),
        "encoders": _parameters(*(layer.encoders for layer in model.layers)),
        "decoders": _parameters(*(layer.decoders for layer in model.layers)),
        "mixer": _parameters(*(layer.mixer for layer in model.layers), model.norm),
    }
    assert sum(parts.values()) == _parameters(model) - _parameters(tokens)


@pytest.mark.parametrize(("tokens", "width", "expansion"), [(1, 4, 1), (5, 20, 4), (7, 14, 2)])
def test_the_cost_of_mixing_is_that_of_its_feed_forward_layers(tokens: int, width: int, expansion: int) -> None:
    """`2 k T D^2` weights and `4 k T D^2` FLOPs per candidate, in either block; shared weights cost as much."""
    assert per_token_params(tokens, width, expansion) == _parameters(
        PerTokenFfn(tokens, (width, expansion * width, width), dropout=0.0)
    )
    assert mixer_flops(1, tokens, width, expansion) == 4 * expansion * tokens * width**2
    for kind in (Boost, RankMixerBlock):
        for shared in (False, True):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                kind(tokens, width, expansion, 0.0, shared)(torch.randn(3, tokens, width))
            assert counter.get_total_flops() == mixer_flops(3, tokens, width, expansion)


COUNT = st.integers(1, 300)


@given(length=COUNT, width=COUNT, queries=COUNT, candidates=COUNT)
def test_decoding_is_keys_once_and_queries_for_every_candidate(length: int, width: int, queries: int, candidates: int) -> None:
    """`4 L' D^2` for keys and values, then `4 N_s D^2 + 4 N_s L' D`."""
    sequence = SequenceShape(length, "swiglu", recent=1, queries=queries)
    one, several = (
        hyformer_flops(replace(SHAPE, sequences=(sequence,), width=width, layers=1, candidates=c))["decoders"]
        for c in (1, candidates)
    )
    asking = 4 * queries * width**2 + 4 * queries * length * width
    assert one == 4 * length * width**2 + asking
    assert several == 4 * length * width**2 + candidates * asking


def test_torch_counts_the_same_in_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = partial(cross_causal_attention, backend="reference")
    monkeypatch.setattr("dist_rec.models.hyformer.query_decoder.cross_causal_attention", reference)
    events = Encoded.of(torch.randn(9, 8), torch.tensor([9], dtype=torch.int32))
    view = make_view([3], dtype=torch.float32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        QueryDecoder(8, heads=2, rotary=False, dropout=0.0)(torch.randn(3, 2, 8), events, view)
    shape = replace(SHAPE, sequences=(SequenceShape(9, "full", 1, queries=2),), width=8, layers=1, candidates=3)
    assert counter.get_total_flops() == hyformer_flops(shape)["decoders"]


@given(length=st.integers(0, 300), recent=COUNT, layers=st.integers(1, 4), again=st.booleans())
def test_longer_encoders_read_all_events_once_unless_told_to_again(length: int, recent: int, layers: int, again: bool) -> None:
    sequence = SequenceShape(length, "longer", recent, queries=1)
    shape = replace(SHAPE, sequences=(sequence,), layers=layers, from_input=again)
    kept = min(length, recent)
    later = cross_layer_flops(kept, length if again else kept, SHAPE.width)
    assert hyformer_flops(shape)["encoders"] == cross_layer_flops(kept, length, SHAPE.width) + (layers - 1) * later


def test_no_part_of_an_encoder_depends_on_the_candidates() -> None:
    one, many = (hyformer_flops(replace(SHAPE, candidates=c)) for c in (1, 50))
    assert one["encoders"] == many["encoders"]
    assert [many[part] for part in ("queries", "mixer")] == [50 * one[part] for part in ("queries", "mixer")]


def test_learned_query_rows_ask_however_few_events_there_are() -> None:
    short = replace(_shape(CASES[0]), length=8, k=5)
    recent, learned = longer_flops(short), longer_flops(replace(short, learnable=True))
    width = short.merge * short.token_width
    assert (
        recent["cross"] == cross_layer_flops(2 + 2, 2 + 2, width) < learned["cross"] == cross_layer_flops(5 + 2, 2 + 2, width)
    )
    assert learned["self"] == cross_layer_flops(5 + 2, 5 + 2, width)


@given(widths=st.lists(st.integers(1, 50), min_size=1, max_size=4))
def test_mlp_flops_are_two_per_weight(widths: list[int]) -> None:
    weights = sum(nn.Linear(a, b, bias=False).weight.numel() for a, b in pairwise(widths))
    assert mlp_flops(widths) == 2 * weights


@pytest.mark.parametrize(("optimizer", "expected"), [("sgd", 4 * 800), ("rowwise_adagrad", 4 * 900), ("adam", 4 * 2400)])
def test_table_bytes_are_weights_and_state(optimizer: str, expected: int) -> None:
    assert table_bytes(100, 8, optimizer=optimizer) == expected


def test_an_unknown_optimizer_has_no_size() -> None:
    with pytest.raises(KeyError):
        table_bytes(100, 8, optimizer="lion")
