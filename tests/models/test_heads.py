import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from dist_rec.config import HeadConfig
from dist_rec.models.heads import Head, binary_loss


def test_layers_follow_the_configuration() -> None:
    head = Head(HeadConfig(hidden=[16, 4], dropout=0.5), width=10, num_tasks=3)
    assert [(m.in_features, m.out_features) for m in head.modules() if isinstance(m, nn.Linear)] == [(10, 16), (16, 4), (4, 3)]
    assert [m.p for m in head.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    assert head(torch.randn(7, 10)).shape == (7, 3)
    linear = Head(HeadConfig(hidden=[]), width=10, num_tasks=1)
    assert sum(p.numel() for p in linear.parameters()) == 11


def test_loss_of_one_rank_is_the_mean() -> None:
    logits, labels = torch.randn(6, 2), torch.randint(0, 2, (6, 2)).float()
    expected = binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(binary_loss(logits, labels, torch.tensor(6.0)), expected)


@pytest.mark.parametrize("sizes", [(6, 2), (8, 0), (1, 7)])
def test_mean_over_ranks_is_the_mean_over_candidates(sizes: tuple[int, ...]) -> None:
    """However unevenly the candidates are spread: `share` is what an average rank has."""
    logits, labels = torch.randn(8, 3), torch.randint(0, 2, (8, 3)).float()
    share = torch.tensor(8 / len(sizes))
    parts = zip(logits.split(sizes), labels.split(sizes))
    mean = torch.stack([binary_loss(part, truth, share) for part, truth in parts]).mean()
    torch.testing.assert_close(mean, binary_cross_entropy_with_logits(logits, labels))


def test_a_step_without_candidates_is_zero() -> None:
    logits = torch.zeros(0, 2, requires_grad=True)
    loss = binary_loss(logits, torch.zeros(0, 2), torch.tensor(0.0))
    loss.backward()
    assert loss == 0.0 and logits.grad is not None


def test_low_precision_logits_are_widened() -> None:
    logits, labels = torch.randn(50, 1).bfloat16(), torch.ones(50, 1)
    loss = binary_loss(logits, labels, torch.tensor(50.0))
    assert loss.dtype == torch.float32 and torch.equal(loss, binary_loss(logits.float(), labels, torch.tensor(50.0)))
