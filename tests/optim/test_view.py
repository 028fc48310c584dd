"""What a job reads and changes in `p.grad`."""

import torch
from torch import nn

from dist_rec.optim.pending_reduce import DelayedGradient
from dist_rec.optim.view import View


def _view() -> tuple[dict[str, nn.Parameter], dict[str, torch.Tensor], View]:
    parameters = {name: nn.Parameter(torch.zeros(2)) for name in "abc"}
    gradients = {"a": torch.tensor([2.0, 4.0]), "b": torch.tensor([6.0, 8.0])}
    return parameters, gradients, View(parameters, None, DelayedGradient(None, gradients), gradients, "abc")


def test_gradients_are_shown_with_zeros_for_the_rest() -> None:
    parameters, gradients, view = _view()
    assert {name: p.grad.tolist() for name, p in parameters.items()} == {
        "a": [2.0, 4.0],
        "b": [6.0, 8.0],
        "c": [0.0, 0.0],
    }
    assert view.found() == gradients and not view.is_changed(), "zeros are nothing to apply"
    view.close()
    assert all(p.grad is None for p in parameters.values())


def test_every_change_is_detected() -> None:
    for change in (
        lambda p: p["b"].grad.mul_(1.0),
        lambda p: setattr(p["a"], "grad", torch.ones(2)),
        lambda p: setattr(p["a"], "grad", None),
        lambda p: setattr(p["c"], "grad", torch.ones(2)),
    ):
        parameters, _, view = _view()
        change(parameters)
        assert view.is_changed()
    parameters, _, view = _view()
    parameters["c"].grad.add_(1.0)
    assert "c" not in view.found() and not view.is_changed(), "nothing is applied there, whatever is made of the zeros"
