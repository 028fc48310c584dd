import torch

from dist_rec.models.longer.inner_trans import InnerTrans


def _block() -> InnerTrans:
    torch.manual_seed(0)
    return InnerTrans(8, 2, 4, dropout=0.0).double()


def _groups() -> tuple[torch.Tensor, torch.Tensor]:
    """Three groups of four slots: full, two paddings in front, three in front."""
    real = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]], dtype=torch.bool)
    return torch.randn(3, 4, 8, dtype=torch.float64), real


def test_padding_comes_out_as_zero_and_never_matters() -> None:
    block, (x, real) = _block(), _groups()
    x.requires_grad_()
    out = block(x, real)
    assert not out[~real].any() and out[real].all()
    changed = torch.where(real[..., None], x, 1e3 * torch.randn_like(x))
    assert torch.equal(block(changed, real), out)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert not gradient[~real].any() and gradient[real].all()


def test_a_padded_group_is_the_smaller_group() -> None:
    block, (x, real) = _block(), _groups()
    alone = block(x[1:2, 2:], real[1:2, 2:])
    torch.testing.assert_close(block(x, real)[1:2, 2:], alone, rtol=0.0, atol=1e-14)


def test_slots_see_one_another_and_groups_do_not() -> None:
    block, (x, real) = _block(), _groups()
    changed = x.clone()
    changed[0, 3] *= -1.0
    before, after = block(x, real), block(changed, real)
    assert not torch.isclose(before[0], after[0]).all(-1).any()  # the oldest slot sees the newest: not causal
    assert torch.equal(before[1:], after[1:])


def test_is_a_transformer_block_at_the_small_width() -> None:
    assert sum(p.numel() for p in _block().parameters()) == 12 * 8**2 + 13 * 8


def test_no_groups() -> None:
    block = _block()
    out = block(torch.zeros(0, 4, 8, dtype=torch.float64), torch.zeros(0, 4, dtype=torch.bool))
    assert out.shape == (0, 4, 8)
    assert not any(gradient.any() for gradient in torch.autograd.grad(out.sum(), list(block.parameters())))
