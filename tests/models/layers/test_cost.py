"""FLOPs of single layers against LONGER's published figures (arXiv 2505.04421, section 3.4) and torch's own count."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dist_rec.models.layers.cost import (
    cross_layer_flops,
    layer_flops,
    linear_flops,
    mixer_flops,
    mlp_flops,
    non_sequential_flops,
)
from dist_rec.models.layers.mixing import Boost, RankMixerBlock
from dist_rec.models.layers.non_sequential import GroupedTokens, SlicedTokens
from tests.models.batches import make_view

SIZES = st.integers(1, 4096)


def test_the_published_flops_of_a_layer() -> None:
    """Of 2,048 events, as they are and merged by four."""
    assert f"{layer_flops(2048, 32) / 1e6:.1f}" == "587.2"
    assert f"{layer_flops(2048 // 4, 4 * 32) / 1e6:.1f}" == "335.5"


def test_the_flops_of_a_layer_over_2000_events() -> None:
    flops = [f"{layer_flops(2000 // merge, merge * 32) / 1e6:.1f}" for merge in (1, 4, 8)]
    assert flops == ["561.2", "324.6", "457.2"]


@given(rows=SIZES, width=SIZES)
def test_a_layer_whose_rows_all_ask_is_an_ordinary_one(rows: int, width: int) -> None:
    assert cross_layer_flops(rows, rows, width) == layer_flops(rows, width)


@pytest.mark.parametrize(("tokens", "width", "expansion"), [(1, 4, 1), (5, 20, 4), (7, 14, 2)])
def test_the_cost_of_mixing_is_that_of_its_feed_forward_layers(tokens: int, width: int, expansion: int) -> None:
    """`4 k T D^2` FLOPs per candidate, in either block; shared weights cost as much."""
    assert mixer_flops(1, tokens, width, expansion) == 4 * expansion * tokens * width**2
    for kind in (Boost, RankMixerBlock):
        for shared in (False, True):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                kind(tokens, width, expansion, 0.0, shared)(torch.randn(3, tokens, width))
            assert counter.get_total_flops() == mixer_flops(3, tokens, width, expansion)


@pytest.mark.parametrize(
    "tokens", [GroupedTokens({"a": [slice(0, 4)], "b": [slice(5, 11)]}, 8), SlicedTokens(11, 3, 8)]
)
def test_non_sequential_tokens(tokens: GroupedTokens | SlicedTokens) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tokens(make_view([1], dtype=torch.float32))
    assert counter.get_total_flops() == non_sequential_flops(tokens)


@given(widths=st.lists(st.integers(1, 50), min_size=1, max_size=4))
def test_mlp_flops_are_two_per_weight(widths: list[int]) -> None:
    weights = sum(nn.Linear(a, b, bias=False).weight.numel() for a, b in pairwise(widths))
    assert mlp_flops(widths) == 2 * weights


def test_linear_flops_are_two_per_weight_and_none_per_bias() -> None:
    assert linear_flops(nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2, bias=False))) == 2 * (15 + 10)
