"""The custom ops: their fake forms, autograd and torch.compile's view of them."""

import torch

from dist_rec.kernels.slot_attention.op import attend, attend_backward, tile_of
from tests.kernels.slot_attention.cases import DEVICE, Case, make_case


def test_custom_ops_are_sound() -> None:
    case = make_case(5, 4, 2, 6).to(torch.float32)
    qkv, real = case.qkv.to(DEVICE), case.real.to(DEVICE)
    torch.library.opcheck(attend, (qkv.clone().requires_grad_(), real))
    out, log_sum = attend(qkv, real)
    torch.library.opcheck(attend_backward, (torch.randn_like(out), qkv, real, log_sum))


def test_without_groups() -> None:
    out, grad = make_case(0, 4, 2, 6).to(torch.float32).run("triton")
    assert out.shape == (0, 4, 2, 6) and grad.shape == (0, 4, 3, 2, 6)


def test_qkv_with_any_strides() -> None:
    case = make_case(7, 4, 2, 6).to(torch.float32)
    turned = Case(case.qkv.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0), case.real)
    assert not turned.qkv.is_contiguous()
    for got, expected in zip(turned.run("triton"), case.run("triton"), strict=True):
        assert torch.equal(got, expected)


def test_a_tile_is_as_large_for_every_head() -> None:
    for size in (1, 5, 8, 16, 24, 64, 128):
        tile = tile_of(size)
        assert tile["HEAD"] >= size and tile["BR"] * tile["HEAD"] <= 1024
