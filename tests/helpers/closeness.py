"""Tolerances that are earned, not chosen: as close to the truth as plain low-precision maths, times a factor."""

import torch
from torch import Tensor


def assert_close_to_truth(got: Tensor, truth_float64: Tensor, plain_low_precision: Tensor, factor: float = 2.0) -> None:
    """The largest error of `got` is at most `factor` times that of plain maths in the same precision, plus one
    rounding.

    Args:
        got: what is tested, in its own precision.
        truth_float64: the same, computed by the reference in float64.
        plain_low_precision: the same, computed by the obvious formula in the precision of `got`.
        factor: how much worse than plain maths is still fine.
    """
    assert truth_float64.dtype == torch.float64, f"the truth must be float64, got {truth_float64.dtype}"
    assert got.shape == truth_float64.shape == plain_low_precision.shape, (
        f"shapes differ: got {tuple(got.shape)}, truth {tuple(truth_float64.shape)}, plain "
        f"{tuple(plain_low_precision.shape)}"
    )
    if got.numel() == 0:
        return
    truth = truth_float64.detach().cpu()
    error = _error(got, truth)
    rounding = torch.finfo(got.dtype).eps / 2 * _largest_finite(truth)
    allowed = factor * _error(plain_low_precision, truth).max().item() + rounding
    worst = int(error.argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), got.shape))
    assert error.max().item() <= allowed, (
        f"largest error {error.max().item():.3e} at {index}, allowed {allowed:.3e} ({factor} x plain {got.dtype} maths "
        f"+ one rounding): got {got.detach().flatten()[worst].item()!r}, truth {truth.flatten()[worst].item()!r}, "
        f"plain {plain_low_precision.detach().flatten()[worst].item()!r}"
    )


def farthest(values: list[Tensor], truth: Tensor) -> Tensor:
    """Of several values for each element the one that is farthest from the truth."""
    stacked = torch.stack(values)
    worst = (stacked.double() - truth).abs().argmax(0, keepdim=True) if stacked.numel() else stacked[:1].long()
    return stacked.gather(0, worst)[0]


def _error(value: Tensor, truth: Tensor) -> Tensor:
    """Absolute error in float64: none for equal infinities, infinite for a NaN where the truth is a number."""
    value = value.detach().cpu().double()
    same = (value == truth) | (value.isnan() & truth.isnan())
    error = (value - truth).abs().nan_to_num(nan=float("inf"))
    return torch.where(same, 0.0, error)


def _largest_finite(truth: Tensor) -> float:
    return truth.abs().nan_to_num(nan=0.0, posinf=0.0).max().item()
