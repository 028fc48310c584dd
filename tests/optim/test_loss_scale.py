import pytest
import torch
from torch.amp import GradScaler

from dist_rec.optim.loss_scale import LossScale


def _scaler(enabled: bool = True) -> GradScaler:
    options = {"init_scale": 8.0, "growth_factor": 2.0, "backoff_factor": 0.25, "growth_interval": 3, "enabled": enabled}
    return GradScaler("cpu", **options)


@pytest.mark.parametrize("used_before", [False, True])
def test_grows_after_good_updates_and_backs_off_after_a_bad_one(used_before: bool) -> None:
    scaler = _scaler()
    if used_before:
        scaler.scale(torch.ones(()))
    scale = LossScale(scaler)
    seen = []
    for finite in (True, True, True, True, False, True, True, True):
        scale.update(finite, scale.scale)
        seen.append(scale.scale)
        assert scaler.scale(torch.ones(())).item() == scale.scale
    assert seen == [8, 8, 16, 16, 4, 4, 4, 8]


def test_two_gradients_of_one_scale_back_off_once() -> None:
    scale = LossScale(_scaler())
    for _ in range(2):
        scale.update(False, 8.0)
    assert scale.scale == 2.0


def test_restores() -> None:
    scale = LossScale(_scaler())
    scale.restore(32.0, 2)
    scale.update(True, 32.0)
    assert scale.scale == 64.0


@pytest.mark.parametrize("scaler", [None, _scaler(enabled=False)])
def test_without_a_scaler_nothing_is_scaled(scaler: GradScaler | None) -> None:
    scale = LossScale(scaler)
    scale.update(False, 1.0)
    scale.restore(1.0, 0)
    assert scale.scale == 1.0
