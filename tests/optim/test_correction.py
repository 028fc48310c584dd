"""The formulas on one number; test_delayed_trajectories.py compares whole trajectories with every correction."""

import pytest
import torch
from torch import nn

from dist_rec.common.choices import CorrectionKind
from dist_rec.optim.correction import Correction


def _apply(correction: Correction, w: nn.Parameter, g: float, *, delayed: bool = True) -> float:
    """One step of SGD at rate 1; returns the gradient that reached it."""
    used = correction.gradients({"w": torch.tensor([g])}, delayed=delayed)["w"].item()
    w.data -= used
    correction.finish(delayed=delayed)
    return used


def test_extrapolation_continues_the_last_two() -> None:
    w = nn.Parameter(torch.zeros(1))
    correction = Correction("extrapolate", {"w": w})
    assert [_apply(correction, w, g) for g in (1.0, 3.0, 4.0)] == [1.0, 5.0, 5.0], "the first has nothing before it"


def test_error_feedback_corrects_the_update() -> None:
    w = nn.Parameter(torch.zeros(1))
    correction = Correction("error_feedback", {"w": w})
    seen = []
    for g in (1.0, 3.0, 4.0):
        _apply(correction, w, g)
        seen.append(w.item())
    assert seen == [-1.0, -6.0, -11.0], "with plain SGD as extrapolated"


@pytest.mark.parametrize("kind", ["none", "extrapolate", "error_feedback"])
def test_a_synchronous_gradient_is_recorded_but_not_corrected(kind: CorrectionKind) -> None:
    w = nn.Parameter(torch.zeros(1))
    correction = Correction(kind, {"w": w})
    assert [_apply(correction, w, g, delayed=False) for g in (1.0, 3.0)] == [1.0, 3.0] and w.item() == -4.0
    _apply(correction, w, 4.0)
    assert w.item() == {"none": -8.0, "extrapolate": -9.0, "error_feedback": -9.0}[kind]
    assert correction.keeps_history == (kind != "none") == bool(correction.last)


def test_parameters_without_a_gradient_last_time() -> None:
    both = {name: nn.Parameter(torch.zeros(1)) for name in "ab"}
    correction = Correction("extrapolate", both)
    correction.gradients({"a": torch.ones(1)}, delayed=True)
    found = correction.gradients({"a": torch.ones(1) * 3, "b": torch.ones(1) * 7}, delayed=True)
    assert (found["a"].item(), found["b"].item()) == (5.0, 7.0)
    correction.gradients({"b": torch.ones(1)}, delayed=True)
    found = correction.gradients({"a": torch.ones(1) * 3}, delayed=True)
    assert found["a"].item() == 3.0, "its last gradient is two updates old"


def test_a_step_without_an_update_ends_the_history() -> None:
    w = nn.Parameter(torch.zeros(1))
    correction = Correction("extrapolate", {"w": w})
    _apply(correction, w, 1.0)
    correction.forget()
    assert _apply(correction, w, 3.0) == 3.0
