"""The formulas on one number; whole trajectories with every correction are compared in test_hybrid.py."""

import pytest
import torch
from torch import nn

from dist_rec.optim.staleness import Correction, Staleness


def _apply(correction: Correction, w: nn.Parameter, g: float, at: float, *, late: bool = True) -> float:
    """One step of SGD at rate 1; returns the gradient that reached it."""
    used = correction.gradients({"w": torch.tensor([g])}, {"w": torch.tensor([at])}, late=late)["w"].item()
    w.data -= used
    correction.finish(late=late)
    return used


def test_extrapolation_goes_on_along_the_last_two() -> None:
    w = nn.Parameter(torch.zeros(1))
    correction = Correction("extrapolate", {"w": w}, 0.0)
    assert [_apply(correction, w, g, 0.0) for g in (1.0, 3.0, 4.0)] == [1.0, 5.0, 5.0], "the first has nothing before it"


def test_compensation_adds_the_curvature_that_the_step_between_has_met() -> None:
    w = nn.Parameter(torch.tensor([5.0]))
    correction = Correction("compensate", {"w": w}, 0.1)
    assert _apply(correction, w, 2.0, at=4.0) == pytest.approx(2.0 + 0.1 * 4.0 * (5.0 - 4.0))


def test_error_feedback_corrects_the_update() -> None:
    w = nn.Parameter(torch.zeros(1))
    correction = Correction("error_feedback", {"w": w}, 0.0)
    seen = []
    for g in (1.0, 3.0, 4.0):
        _apply(correction, w, g, 0.0)
        seen.append(w.item())
    assert seen == [-1.0, -6.0, -11.0], "with plain SGD as extrapolated"


@pytest.mark.parametrize("kind", ["none", "extrapolate", "compensate", "error_feedback"])
def test_a_gradient_in_time_is_left_alone_and_remembered(kind: Staleness) -> None:
    w = nn.Parameter(torch.zeros(1))
    correction = Correction(kind, {"w": w}, 0.5)
    assert [_apply(correction, w, g, 0.0, late=False) for g in (1.0, 3.0)] == [1.0, 3.0] and w.item() == -4.0
    _apply(correction, w, 4.0, at=w.item())
    assert w.item() == {"none": -8.0, "extrapolate": -9.0, "compensate": -8.0, "error_feedback": -9.0}[kind]


def test_parameters_without_a_gradient_last_time() -> None:
    both = {name: nn.Parameter(torch.zeros(1)) for name in "ab"}
    correction = Correction("extrapolate", both, 0.0)
    correction.gradients({"a": torch.ones(1)}, {}, late=True)
    found = correction.gradients({"a": torch.ones(1) * 3, "b": torch.ones(1) * 7}, {}, late=True)
    assert (found["a"].item(), found["b"].item()) == (5.0, 7.0)
    correction.gradients({"b": torch.ones(1)}, {}, late=True)
    found = correction.gradients({"a": torch.ones(1) * 3}, {}, late=True)
    assert found["a"].item() == 3.0, "its last gradient is two updates old"


def test_a_step_without_an_update_ends_the_history() -> None:
    w = nn.Parameter(torch.zeros(1))
    correction = Correction("extrapolate", {"w": w}, 0.0)
    _apply(correction, w, 1.0, 0.0)
    correction.forget()
    assert _apply(correction, w, 3.0, 0.0) == 3.0
