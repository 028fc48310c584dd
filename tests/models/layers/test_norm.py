import pytest
import torch
from torch import nn

from dist_rec.models.layers.norm import LayerNorm


def _pair() -> tuple[LayerNorm, nn.LayerNorm]:
    torch.manual_seed(0)
    mine, torchs = LayerNorm(8), nn.LayerNorm(8)
    nn.init.normal_(mine.weight), nn.init.normal_(mine.bias)
    torchs.load_state_dict(mine.state_dict())
    return mine, torchs


def test_full_precision_is_torchs_own() -> None:
    mine, torchs = _pair()
    x = torch.randn(5, 8)
    assert torch.equal(mine(x), torchs(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mine(x), torchs(x)), "fp32 rows stay what autocast makes of them"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_and_is_as_exact_as_its_rounding(dtype: torch.dtype) -> None:
    mine, torchs = _pair()
    x = (100.0 + torch.randn(50, 8)).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = mine(x)
    assert out.dtype == dtype
    exact = torchs.double()(x.double())
    # The parameters are rounded too, as those of linear layers are.
    assert ((out.double() - exact).abs() <= 4 * torch.finfo(dtype).eps * exact.abs().clamp(min=1.0)).all()
    out.float().square().sum().backward()
    assert x.grad is not None and x.grad.dtype == dtype and mine.weight.grad is not None
    assert mine.weight.grad.dtype == torch.float32
