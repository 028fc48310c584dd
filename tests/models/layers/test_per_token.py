"""Layers with weights per position, against one nn.Linear per position."""

import pytest
import torch
from torch import Tensor, nn

from dist_rec.models.layers.per_token import PerTokenFfn, PerTokenLinear

TOKENS, WIDTHS = 3, (4, 10, 6)


def _ffn(shared: bool = False) -> PerTokenFfn:
    torch.manual_seed(0)
    ffn = PerTokenFfn(TOKENS, WIDTHS, 0.0, shared).double()
    for parameter in ffn.parameters():
        nn.init.normal_(parameter)
    return ffn


def _input(candidates: int = 5) -> Tensor:
    return torch.randn(candidates, TOKENS, WIDTHS[0], dtype=torch.float64, requires_grad=True)


def _chain(ffn: PerTokenFfn, position: int) -> nn.Sequential:
    """The feed-forward layer of one position, made of torch's own."""
    inputs, hidden, outputs = WIDTHS
    chain = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs)).double()
    for mine, own in ((chain[0], ffn[0]), (chain[2], ffn[-1])):
        mine.weight.data.copy_(own.weight[position].T)
        mine.bias.data.copy_(own.bias[position, 0])
    return chain


def test_equals_a_chain_of_linear_layers_per_position() -> None:
    """Outputs and the gradients of weights, biases and inputs."""
    ffn, x = _ffn(), _input()
    chains = [_chain(ffn, t) for t in range(TOKENS)]
    got, truth = ffn(x), torch.stack([chain(x[:, t]) for t, chain in enumerate(chains)], dim=1)
    torch.testing.assert_close(got, truth, rtol=0.0, atol=1e-12)
    weights = torch.randn_like(got)
    *mine, mine_x = torch.autograd.grad((got * weights).sum(), [*ffn.parameters(), x])
    *theirs, theirs_x = torch.autograd.grad((truth * weights).sum(), [p for c in chains for p in c.parameters()] + [x])
    torch.testing.assert_close(mine_x, theirs_x, rtol=0.0, atol=1e-11)
    for place, gradient in enumerate(mine):
        for t in range(TOKENS):
            expected = theirs[len(mine) * t + place]
            expected = expected.T if expected.ndim == 2 else expected[None]
            torch.testing.assert_close(gradient[t], expected, rtol=0.0, atol=1e-11)


def test_weights_of_a_position_touch_its_token_only() -> None:
    ffn, x = _ffn(), _input()
    out = ffn(x)
    for t in range(TOKENS):
        *gradients, of_x = torch.autograd.grad(out[:, t].sum(), [*ffn.parameters(), x], retain_graph=True)
        own = [position == t for position in range(TOKENS)]
        assert all(gradient.flatten(1).any(1).tolist() == own for gradient in gradients)
        assert of_x.any(2).any(0).tolist() == own


def test_shared_weights_are_one_mlp_for_all_positions() -> None:
    ffn, x = _ffn(shared=True), _input()
    assert not any(isinstance(layer, PerTokenLinear) for layer in ffn)
    plain = nn.Sequential(ffn[0], nn.GELU(), ffn[-1])
    torch.testing.assert_close(ffn(x), plain(x.flatten(0, 1)).unflatten(0, (5, TOKENS)), rtol=0.0, atol=1e-12)
    turned = ffn(x[:, [2, 0, 1]])
    torch.testing.assert_close(turned, ffn(x)[:, [2, 0, 1]], rtol=0.0, atol=1e-12)
    assert not torch.isclose(_ffn()(x[:, [2, 0, 1]]), _ffn()(x)[:, [2, 0, 1]]).any()


@pytest.mark.parametrize(("tokens", "width", "expansion"), [(1, 4, 1), (5, 20, 4), (7, 14, 2)])
def test_there_are_as_many_parameters_as_the_paper_says(tokens: int, width: int, expansion: int) -> None:
    """`2 k T D^2` weights, and a bias for every number that leaves a layer."""
    widths = (width, expansion * width, width)
    own, shared = (PerTokenFfn(tokens, widths, 0.0, shared) for shared in (False, True))
    weights = sum(p.numel() for name, p in own.named_parameters() if name.endswith("weight"))
    assert weights == 2 * expansion * tokens * width**2
    counts = [sum(p.numel() for p in ffn.parameters()) for ffn in (own, shared)]
    assert counts == [weights + tokens * (expansion + 1) * width, counts[0] // tokens]


def test_starts_as_wide_as_linear_layers_do_and_with_positions_of_their_own() -> None:
    torch.manual_seed(0)
    layer = PerTokenLinear(2, 16, 500)
    assert not layer.bias.any() and not torch.equal(layer.weight[0], layer.weight[1])
    assert 0.24 < layer.weight.detach().abs().max() <= 0.25


def test_one_row_may_stand_for_all_positions() -> None:
    """An expanded input, of stride zero, gives what its copies give; its gradient is the sum over positions."""
    ffn = _ffn()
    row = torch.randn(5, 1, WIDTHS[0], dtype=torch.float64, requires_grad=True)
    expanded = row.expand(-1, TOKENS, -1)
    assert expanded.stride(1) == 0
    copies = expanded.detach().clone().requires_grad_()
    got, expected = ffn(expanded), ffn(copies)
    torch.testing.assert_close(got, expected, rtol=0.0, atol=1e-12)
    (mine,), (theirs,) = torch.autograd.grad(got.sum(), row), torch.autograd.grad(expected.sum(), copies)
    torch.testing.assert_close(mine, theirs.sum(1, keepdim=True), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_no_candidates_leave_zero_gradients(shared: bool) -> None:
    ffn = _ffn(shared)
    out = ffn(_input(candidates=0))
    assert out.shape == (0, TOKENS, WIDTHS[-1])
    gradients = torch.autograd.grad(out.sum(), list(ffn.parameters()))
    assert not any(gradient.any() for gradient in gradients)
