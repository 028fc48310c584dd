"""FLOPs of HyFormer by formula: how they grow, and torch's own count."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from dist_rec.data.lengths import Lengths
from dist_rec.kernels.cross_causal_attention import cross_causal_attention
from dist_rec.models.hyformer.cost import HyformerShape, SequenceShape, hyformer_flops
from dist_rec.models.hyformer.query_decoder import QueryDecoder
from dist_rec.models.hyformer.sequence_encoder import Encoded
from dist_rec.models.layers.cost import cross_layer_flops
from tests.models.batches import make_view

FULL = SequenceShape(length=9, encoder="full", recent=128, queries=1)
LONGER = SequenceShape(length=9, encoder="longer", recent=4, queries=2)
SWIGLU = SequenceShape(length=6, encoder="swiglu", recent=128, queries=1)
SHAPE = HyformerShape((FULL, LONGER, SWIGLU), candidates=2, width=24, features=4, known=7, layers=2, mixer_expansion=2)
COUNT = st.integers(1, 300)


@given(length=COUNT, width=COUNT, queries=COUNT, candidates=COUNT)
def test_decoding_is_keys_once_and_queries_for_every_candidate(
    length: int, width: int, queries: int, candidates: int
) -> None:
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
    events = Encoded.of(torch.randn(9, 8), Lengths.of([9]))
    view = make_view([3], dtype=torch.float32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        QueryDecoder(8, heads=2, rotary=False, dropout=0.0)(torch.randn(3, 2, 8), events, view)
    shape = replace(SHAPE, sequences=(SequenceShape(9, "full", 1, queries=2),), width=8, layers=1, candidates=3)
    assert counter.get_total_flops() == hyformer_flops(shape)["decoders"]


@given(length=st.integers(0, 300), recent=COUNT, layers=st.integers(1, 4), again=st.booleans())
def test_longer_encoders_read_all_events_once_unless_told_to_again(
    length: int, recent: int, layers: int, again: bool
) -> None:
    sequence = SequenceShape(length, "longer", recent, queries=1)
    shape = replace(SHAPE, sequences=(sequence,), layers=layers, from_input=again)
    kept = min(length, recent)
    later = cross_layer_flops(kept, length if again else kept, SHAPE.width)
    assert hyformer_flops(shape)["encoders"] == cross_layer_flops(kept, length, SHAPE.width) + (layers - 1) * later


def test_no_part_of_an_encoder_depends_on_the_candidates() -> None:
    one, many = (hyformer_flops(replace(SHAPE, candidates=c)) for c in (1, 50))
    assert one["encoders"] == many["encoders"]
    assert [many[part] for part in ("queries", "mixer")] == [50 * one[part] for part in ("queries", "mixer")]
