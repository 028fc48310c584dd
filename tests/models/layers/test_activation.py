import torch
from torch import nn

from dist_rec.models.layers.activation import GELU


def test_is_torchs_gelu_and_has_no_state() -> None:
    x = torch.randn(20, 30)
    torch.testing.assert_close(GELU()(x), nn.GELU()(x))
    assert not GELU().state_dict() and torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), GELU()))
