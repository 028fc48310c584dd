"""One update by plain SGD; whole trajectories are compared in tests/integration/test_delayed_trajectories.py."""

from typing import Any

import pytest
import torch
from torch import nn

from dist_rec.common.choices import CorrectionKind
from dist_rec.optim.correction import Correction
from dist_rec.optim.dense import DenseOptimizers
from dist_rec.optim.dense_step import DenseStep
from dist_rec.optim.health import HealthMeter


def _step(
    correction: CorrectionKind = "none", **options: Any
) -> tuple[dict[str, nn.Parameter], DenseOptimizers, DenseStep]:
    parameters = {name: nn.Parameter(torch.zeros(1)) for name in "ab"}
    dense = DenseOptimizers(parameters, lambda p: torch.optim.SGD(p, lr=1.0))
    usual = {"clip_norm": None, "lr_factor": None, "delayed_lr_factor": 1.0}
    corrected, health = Correction(correction, parameters), HealthMeter(1, parameters)
    return parameters, dense, DenseStep(dense, corrected, health, **usual | options)


def _gradients() -> dict[str, torch.Tensor]:
    return {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}


def test_clips_to_the_norm_that_it_is_given() -> None:
    parameters, _, step = _step(clip_norm=1.0)
    step.apply(_gradients(), torch.tensor(10.0), updates=0, delayed=False)
    assert parameters["a"].item() == pytest.approx(-0.3, rel=1e-5)


def test_clips_what_a_correction_made_by_its_own_norm() -> None:
    parameters, _, step = _step("extrapolate", clip_norm=1.0)
    for updates in range(2):
        last = parameters["a"].item()
        step.apply(_gradients(), torch.tensor(5.0), updates=updates, delayed=True)
    assert last - parameters["a"].item() == pytest.approx(0.6, rel=1e-5), "2 g - g has the norm 5"


def test_a_factor_sets_the_rate_and_a_delayed_update_has_its_own() -> None:
    parameters, dense, step = _step(lr_factor=lambda updates: 0.5 / (1 + updates), delayed_lr_factor=0.1)
    step.apply(_gradients(), None, updates=1, delayed=True)
    assert dense.groups[0]["lr"] == pytest.approx(0.025) and parameters["a"].item() == pytest.approx(-0.075)


def test_a_rate_that_a_scheduler_set_is_restored() -> None:
    parameters, dense, step = _step(delayed_lr_factor=0.5)
    dense.groups[0]["lr"] = 0.1
    step.apply(_gradients(), None, updates=0, delayed=True)
    assert dense.groups[0]["lr"] == 0.1 and parameters["a"].item() == pytest.approx(-0.15)


def test_a_new_group_has_the_factor_of_its_own_rate() -> None:
    parameters, dense, step = _step(lr_factor=lambda updates: 0.5)
    new = nn.Parameter(torch.zeros(1))
    step.add_group(dense.add({"new": new}, {"lr": 0.2}))
    step.apply(_gradients() | {"new": torch.ones(1)}, None, updates=0, delayed=False)
    assert new.item() == pytest.approx(-0.1) and parameters["a"].item() == -1.5


def test_measures_with_the_gradients_as_they_came() -> None:
    _, _, step = _step(clip_norm=1.0)
    for updates in range(2):
        step.apply(_gradients(), torch.tensor(5.0), updates=updates, delayed=False)
    assert step.health.latest is not None and step.health.latest.gradient_cosine == pytest.approx(1.0)
    assert step.health.latest.update_norm == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("wanted", [None, torch.tensor(True), torch.tensor(False)])
def test_whoever_wants_to_know_of_an_update_is_told_after_it(wanted: torch.Tensor | None) -> None:
    """With the flag itself, which may be on a device, and the weights that the update left."""
    parameters, _, step = _step()
    told: list[tuple[str, torch.Tensor | None, float]] = []
    for name in ("first", "second"):
        step.update_hooks.append(lambda flag, name=name: told.append((name, flag, parameters["a"].item())))
    step.apply(_gradients(), None, updates=0, delayed=False, wanted=wanted)
    after = 0.0 if wanted is not None and not wanted else -3.0
    assert [(name, weight) for name, _, weight in told] == [("first", after), ("second", after)]
    assert all(flag is wanted for _, flag, _ in told)
