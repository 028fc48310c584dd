"""What a job sees in `p.grad` and does there."""

import torch
from torch import nn

from dist_rec.optim.delayed import Pending
from dist_rec.optim.view import View


def _view(scale: float = 1.0) -> tuple[dict[str, nn.Parameter], dict[str, torch.Tensor], View]:
    parameters = {name: nn.Parameter(torch.zeros(2)) for name in "abc"}
    gradients = {"a": torch.tensor([2.0, 4.0]), "b": torch.tensor([6.0, 8.0])}
    return parameters, gradients, View(parameters, None, Pending(None, scale, landed=gradients), gradients, "abc")


def test_gradients_stand_there_unscaled_and_zeros_for_the_rest() -> None:
    parameters, gradients, view = _view(2.0)
    assert {name: p.grad.tolist() for name, p in parameters.items()} == {"a": [1.0, 2.0], "b": [3.0, 4.0], "c": [0.0, 0.0]}
    assert view.found() == gradients and not view.is_changed(), "zeros are nothing to apply"
    view.close()
    assert all(p.grad is None for p in parameters.values())


def test_every_change_is_told() -> None:
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


def test_what_was_shown_goes_back_as_it_came_with_what_was_done_to_it() -> None:
    parameters, gradients, view = _view(2.0)
    parameters["a"].grad.mul_(0.5)
    assert view.as_it_came()["a"].tolist() == [1.0, 2.0] and gradients["a"].tolist() == [0.5, 1.0]
    view.take_back()
    assert gradients["a"].tolist() == [1.0, 2.0] and gradients["b"].tolist() == [6.0, 8.0]
