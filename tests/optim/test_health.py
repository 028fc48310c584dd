import math

import pytest
import torch
from torch import Tensor, nn

from dist_rec.optim.health import HealthMeter


def _run(every: int, gradients: list[dict[str, Tensor]]) -> list[tuple[int, float, float, float]]:
    parameters = {"a": nn.Parameter(torch.tensor([3.0])), "b": nn.Parameter(torch.tensor([4.0, 0.0]))}
    meter, found = HealthMeter(every, parameters), []
    for applied, step in enumerate(gradients):
        meter.before(applied, step)
        for name, g in step.items():
            parameters[name].data -= g
        meter.after(applied)
        if meter.latest is not None and meter.latest.applied == applied:
            latest = meter.latest
            found.append(
                (applied, *(float(x) for x in (latest.gradient_cosine, latest.update_norm, latest.weight_norm)))
            )
    return found


STEPS = [
    {"a": torch.tensor([1.0]), "b": torch.tensor([0.0, 0.0])},
    {"a": torch.tensor([1.0]), "b": torch.tensor([1.0, 0.0])},
    {"a": torch.tensor([0.0]), "b": torch.tensor([0.0, 2.0])},
]


def test_cosine_and_lengths_over_all_parameters() -> None:
    (one, cosine, update, weights), (two, other, *_) = _run(1, STEPS)
    assert (one, two) == (1, 2), "the first has nothing to compare with"
    assert cosine == pytest.approx(1 / math.sqrt(2)) and update == pytest.approx(math.sqrt(2))
    assert weights == pytest.approx(math.sqrt(2.0**2 + 4.0**2)) and other == 0.0


@pytest.mark.parametrize("size", [1e-18, 1e18])
def test_the_size_of_gradients_does_not_matter(size: float) -> None:
    gradients = {"b": torch.tensor([size, size])}
    ((_, cosine, *_),) = _run(1, [gradients, gradients])
    assert cosine == pytest.approx(1.0)


def test_only_every_so_often() -> None:
    assert [applied for applied, *_ in _run(2, STEPS)] == [2]
    assert _run(0, STEPS) == []


def test_parameters_without_a_gradient_do_not_count() -> None:
    ((_, cosine, *_),) = _run(1, [STEPS[1], {"b": torch.tensor([1.0, 0.0])}])
    assert cosine == 1.0


def test_what_is_forgotten_is_not_compared() -> None:
    meter = HealthMeter(1, {"b": nn.Parameter(torch.ones(2))})
    for forgotten in (False, True):
        meter.before(0, {"b": torch.ones(2)})
        meter.after(0)
        if forgotten:
            meter.forget()
        meter.latest = None
        meter.before(1, {"b": torch.ones(2)})
        meter.after(1)
        assert (meter.latest is None) == forgotten
        meter.forget()
