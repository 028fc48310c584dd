import torch
from torch import nn

from dist_rec.models.config import HeadConfig
from dist_rec.models.layers.heads import Head


def test_layers_follow_the_configuration() -> None:
    """Once per task."""
    head = Head(HeadConfig(hidden=[16, 4], dropout=0.5), width=10, num_tasks=3)
    sizes = [(m.in_features, m.out_features) for m in head.modules() if isinstance(m, nn.Linear)]
    assert sizes == 3 * [(10, 16), (16, 4), (4, 1)]
    assert [m.p for m in head.modules() if isinstance(m, nn.Dropout)] == 3 * [0.5, 0.5]
    assert head(torch.randn(7, 10)).shape == (7, 3)
    linear = Head(HeadConfig(hidden=[]), width=10, num_tasks=1)
    assert sum(p.numel() for p in linear.parameters()) == 11


def test_tasks_share_nothing_but_their_input() -> None:
    head, features = Head(HeadConfig(hidden=[16]), width=10, num_tasks=2), torch.randn(7, 10)
    assert torch.equal(head(features)[:, 1:], head.mlps[1](features))
    head(features)[:, 0].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in head.mlps[1].parameters())
    assert all(p.grad is not None and p.grad.any() for p in head.mlps[0].parameters())
