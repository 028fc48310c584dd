import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from dist_rec.common.strict import Strict
from dist_rec.models.layers.loss import BinaryCrossEntropy, total_loss, weighted_mean

BCE = BinaryCrossEntropy(Strict())


def test_loss_of_one_rank_is_the_mean() -> None:
    logits, labels = torch.randn(6, 2), torch.randint(0, 2, (6, 2)).float()
    expected = binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(total_loss(BCE, logits, labels, torch.tensor(6.0)), expected)


@pytest.mark.parametrize("sizes", [(6, 2), (8, 0), (1, 7)])
def test_mean_over_ranks_is_the_mean_over_candidates(sizes: tuple[int, ...]) -> None:
    """However unevenly the candidates are spread: `share` is what an average rank has."""
    logits, labels = torch.randn(8, 3), torch.randint(0, 2, (8, 3)).float()
    share = torch.tensor(8 / len(sizes))
    parts = zip(logits.split(sizes), labels.split(sizes))
    mean = torch.stack([total_loss(BCE, part, truth, share) for part, truth in parts]).mean()
    torch.testing.assert_close(mean, binary_cross_entropy_with_logits(logits, labels))


def test_a_step_without_candidates_is_zero() -> None:
    logits = torch.zeros(0, 2, requires_grad=True)
    loss = total_loss(BCE, logits, torch.zeros(0, 2), torch.tensor(0.0))
    loss.backward()
    assert loss == 0.0 and logits.grad is not None


def test_low_precision_logits_are_widened() -> None:
    logits, labels = torch.randn(50, 1).bfloat16(), torch.ones(50, 1)
    loss = total_loss(BCE, logits, labels, torch.tensor(50.0))
    assert loss.dtype == torch.float32 and torch.equal(
        loss, total_loss(BCE, logits.float(), labels, torch.tensor(50.0))
    )


@pytest.mark.parametrize("logit", [1.5, float("inf"), float("nan")])
def test_a_label_that_is_not_defined_has_no_part(logit: float) -> None:
    labels = torch.tensor([[1.0, 0.0], [0.0, torch.nan], [1.0, 1.0]])
    logits = torch.tensor([[0.3, -0.2], [0.1, logit], [2.0, 0.7]], requires_grad=True)
    loss = total_loss(BCE, logits, labels, torch.tensor(3.0))
    loss.backward()
    defined = ~labels.isnan()
    expected = binary_cross_entropy_with_logits(logits.detach()[defined], labels[defined], reduction="sum") / (2 * 3)
    torch.testing.assert_close(loss.detach(), expected)
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert torch.equal(logits.grad != 0, defined)


def test_no_label_defined_at_all() -> None:
    logits = torch.randn(3, 1, requires_grad=True)
    loss = total_loss(BCE, logits, torch.full((3, 1), torch.nan), torch.tensor(3.0))
    loss.backward()
    assert loss == 0.0 and logits.grad is not None and not logits.grad.any()


def test_tasks_have_weights() -> None:
    logits, labels, share = torch.randn(9, 3), torch.randint(0, 2, (9, 3)).float(), torch.tensor(9.0)
    labels[2:5, 1] = torch.nan
    each = [total_loss(BCE, logits[:, t : t + 1], labels[:, t : t + 1], share) for t in range(3)]
    got = total_loss(BCE, logits, labels, share, torch.tensor([1.0, 3.0, 0.0]))
    torch.testing.assert_close(got, (each[0] + 3 * each[1]) / 3)
    assert torch.equal(total_loss(BCE, logits, labels, share, torch.ones(3)), total_loss(BCE, logits, labels, share))


def test_nothing_undefined_is_the_plain_loss_bit_for_bit() -> None:
    logits, labels, share = torch.randn(999, 2), torch.randint(0, 2, (999, 2)).float(), torch.tensor(7.0)
    plain = binary_cross_entropy_with_logits(logits, labels, reduction="sum") / (2 * share)
    assert torch.equal(total_loss(BCE, logits, labels, share, torch.ones(2)), plain)


def test_every_task_may_have_a_divisor_of_its_own() -> None:
    """Where labels take time, tasks have different numbers of candidates with a label; one of none adds nothing."""
    losses, weights = torch.rand(5, 3), torch.tensor([1.0, 0.5, 2.0])
    defined = torch.tensor([[True, True, False]] * 3 + [[True, False, False]] * 2)
    losses = losses.masked_fill(~defined, 7.0).requires_grad_()
    mean = weighted_mean(losses, defined, torch.tensor([5.0, 3.0, 0.0]), weights)
    expected = (losses[:, 0].mean() + 0.5 * losses[:3, 1].mean()) / 3
    torch.testing.assert_close(mean, expected)
    (gradient,) = torch.autograd.grad(mean, losses)
    assert torch.equal(gradient != 0, defined)
    even = weighted_mean(losses, defined, torch.full((3,), 5.0), weights)
    torch.testing.assert_close(even, weighted_mean(losses, defined, torch.tensor(5.0), weights))
