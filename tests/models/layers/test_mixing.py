"""Token mixing and the two blocks on it, against the papers' formulas written out."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from dist_rec.models.layers.mixing import Boost, RankMixerBlock, mix_tokens, mixed_outputs, mixed_width

INPUTS = ("globals", "sequence_mean", "mixed", "mixed_queries", "mixed_mean", "context", "candidate")
SHAPES = st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 4))  # C, T, D / T


def _tokens(candidates: int, tokens: int, width: int) -> Tensor:
    return torch.randn(candidates, tokens, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _by_hand(x: Tensor) -> Tensor:
    """Token h: slice h of token 1, then of token 2, and so on."""
    tokens, part = x.shape[1], x.shape[2] // x.shape[1]
    rows = [torch.cat([x[:, t, h * part : (h + 1) * part] for t in range(tokens)], dim=1) for h in range(tokens)]
    return torch.stack(rows, dim=1)


@given(shape=SHAPES)
@settings(max_examples=50, deadline=None)
def test_mixing_is_the_papers_slice_and_concatenate(shape: tuple[int, int, int]) -> None:
    candidates, tokens, part = shape
    x = _tokens(candidates, tokens, tokens * part)
    assert torch.equal(mix_tokens(x), _by_hand(x))


@given(shape=SHAPES)
@settings(max_examples=50, deadline=None)
def test_mixing_twice_gives_back_every_bit(shape: tuple[int, int, int]) -> None:
    candidates, tokens, part = shape
    x = _tokens(candidates, tokens, tokens * part)
    assert torch.equal(mix_tokens(mix_tokens(x)), x)
    assert candidates == 0 or tokens == 1 or not torch.equal(mix_tokens(x), x)


def _block(kind: type[Boost] | type[RankMixerBlock], shared: bool = False) -> nn.Module:
    """T = 3, D = 6, k = 2, every parameter random."""
    torch.manual_seed(0)
    block = kind(3, 6, 2, 0.0, shared).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return block


def _ffn(block: nn.Module, x: Tensor) -> Tensor:
    first, last = block.ffn[0], block.ffn[-1]
    rows = [
        gelu(token @ first.weight[t] + first.bias[t]) @ last.weight[t] + last.bias[t]
        for t, token in enumerate(x.unbind(1))
    ]
    return torch.stack(rows, dim=1)


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], norm.weight, norm.bias)


def test_boost_is_one_residual_around_mixing_and_feed_forward() -> None:
    block, x = _block(Boost), _tokens(4, 3, 6)
    expected = x + _ffn(block, _by_hand(_norm(block.norm, x)))
    torch.testing.assert_close(block(x), expected, rtol=0.0, atol=1e-12)


def test_rankmixers_block_is_two_residuals_each_before_its_norm() -> None:
    block, x = _block(RankMixerBlock), _tokens(4, 3, 6)
    mixed = _norm(block.norm_mix, _by_hand(x) + x)
    expected = _norm(block.norm_ffn, _ffn(block, mixed) + mixed)
    torch.testing.assert_close(block(x), expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("kind", [Boost, RankMixerBlock])
def test_mixing_itself_has_no_parameters(kind: type[Boost] | type[RankMixerBlock]) -> None:
    owners = {name.split(".")[0] for name, _ in _block(kind).named_parameters()}
    assert owners == ({"norm", "ffn"} if kind is Boost else {"norm_mix", "norm_ffn", "ffn"})


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", [Boost, RankMixerBlock])
def test_every_output_token_depends_on_every_input_token(
    kind: type[Boost] | type[RankMixerBlock], shared: bool
) -> None:
    block, x = _block(kind, shared), _tokens(1, 3, 6).requires_grad_()
    out = block(x)
    for h in range(3):
        (gradient,) = torch.autograd.grad((out[0, h] * torch.arange(6)).sum(), x, retain_graph=True)
        assert gradient[0].any(1).all()
        if kind is RankMixerBlock:  # without a norm before it, mixing shows token h slice h of the others and no more
            others = [t for t in range(3) if t != h]
            assert gradient[0, others].bool().tolist() == [[column // 2 == h for column in range(6)]] * 2


SUBSETS = [subset for n in range(len(INPUTS) + 1) for subset in itertools.combinations(INPUTS, n)]


@pytest.mark.parametrize("num_queries", [0, 2, 4])
def test_what_the_head_sees_is_as_wide_as_promised(num_queries: int) -> None:
    """For every subset of the head's inputs, in either order."""
    mixed = _tokens(3, 4, 8)
    expected = {"mixed": mixed.reshape(3, 32), "mixed_mean": mixed.sum(1) / 4}
    expected["mixed_queries"] = mixed[:, :num_queries].reshape(3, 8 * num_queries)
    for subset in [*SUBSETS, *(subset[::-1] for subset in SUBSETS)]:
        parts = mixed_outputs(mixed, subset, num_queries)
        assert sum(part.shape[1] for part in parts) == mixed_width(4, 8, subset, num_queries)
        wanted = [expected[name] for name in subset if name in expected]
        assert len(parts) == len(wanted)
        for got, truth in zip(parts, wanted):
            torch.testing.assert_close(got, truth, rtol=0.0, atol=1e-15)
