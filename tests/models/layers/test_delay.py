"""Corrections of delay against their formulas written out on probabilities, in float64, and at the ends of their
range."""

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import softplus

from dist_rec.models.config import HeadConfig
from dist_rec.models.layers.delay import (
    LEAST_RATE,
    delayed_feedback_model,
    delayed_places,
    fake_negative_weighting,
    num_rates,
)
from tests.data.feedback_rows import feedback_schema
from tests.data.requests import make_schema

numbers = st.floats(-8.0, 8.0)
shares = st.one_of(st.sampled_from((0.0, 1.0)), st.floats(0.0, 1.0))
rows = st.lists(st.tuples(numbers, numbers, st.sampled_from((0.0, 1.0)), shares), min_size=1, max_size=6)


def _density(r: Tensor, d: Tensor) -> Tensor:
    return r * (-r * d).exp() / (1 - (-r).exp())


def _beyond(r: Tensor, e: Tensor) -> Tensor:
    return ((-r * e).exp() - (-r).exp()) / (1 - (-r).exp())


def _written_out(z: Tensor, rates: Tensor, observed: Tensor, waited: Tensor) -> Tensor:
    p, r = z.sigmoid(), softplus(rates) + LEAST_RATE
    came = -(p * _density(r, waited)).log()
    waiting = -((-z).sigmoid() + p * _beyond(r, waited)).log()
    return torch.where(observed > 0, came, waiting)


def _weighted(z: Tensor, observed: Tensor) -> Tensor:
    """The stream: a negative for every candidate, and a positive for every 1 that came; weights are constants."""
    p = z.detach().sigmoid()
    as_positive, as_negative = -z.sigmoid().log(), -(-z).sigmoid().log()
    return observed * (1 + p) * as_positive + (1 - p) * (1 + p) * as_negative


def _leaves(*columns: Tensor) -> list[Tensor]:
    return [column.clone().requires_grad_() for column in columns]


def _columns(of: list[tuple[float, float, float, float]]) -> tuple[Tensor, ...]:
    return torch.tensor(of, dtype=torch.float64).unbind(1)


@settings(max_examples=60, deadline=None)
@given(of=rows)
def test_the_delay_model_is_the_formula_and_so_are_its_gradients(of: list[tuple[float, float, float, float]]) -> None:
    z, rates, observed, waited = _columns(of)
    (mine, my_rates), (plain, plain_rates) = _leaves(z, rates), _leaves(z, rates)
    found = delayed_feedback_model(mine, my_rates, observed, waited)
    expected = _written_out(plain, plain_rates, observed, waited)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
    scale = torch.arange(1.0, 1.0 + len(z), dtype=torch.float64)
    gradients = torch.autograd.grad((found * scale).sum(), (mine, my_rates))
    of_plain = torch.autograd.grad((expected * scale).sum(), (plain, plain_rates))
    torch.testing.assert_close(gradients, of_plain, rtol=1e-6, atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(of=rows)
def test_fake_negatives_are_weighed_as_in_the_formula(of: list[tuple[float, float, float, float]]) -> None:
    z, _, observed, _ = _columns(of)
    (mine,), (plain,) = _leaves(z), _leaves(z)
    found, expected = fake_negative_weighting(mine, observed), _weighted(plain, observed)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), mine), torch.autograd.grad(expected.sum(), plain), rtol=1e-8, atol=1e-12
    )


ENDS = torch.tensor(list(product((-60.0, -5.0, 0.0, 5.0, 60.0), (-30.0, 0.0, 30.0), (0.0, 1.0), (0.0, 0.5, 0.9, 1.0))))


def test_extremes_are_finite_and_keep_their_digits() -> None:
    """In float32, against float64: also where hardly any delay is as long as what was waited for."""
    found, gradients = _of_ends(ENDS)
    expected, in_double = _of_ends(ENDS.double())
    assert found.isfinite().all() and all(of.isfinite().all() for of in gradients)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    for of_float, of_double in zip(gradients, in_double, strict=True):
        torch.testing.assert_close(of_float.double(), of_double, rtol=1e-4, atol=1e-4)


def _of_ends(ends: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    z, rates, observed, waited = ends.unbind(1)
    z, rates = _leaves(z, rates)
    losses = delayed_feedback_model(z, rates, observed, waited)
    return losses, torch.autograd.grad(losses.sum(), (z, rates))


def test_fake_negative_weighting_is_finite_at_the_ends() -> None:
    z, _, observed, _ = ENDS.unbind(1)
    (z,) = _leaves(z)
    losses = fake_negative_weighting(z, observed)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    assert losses.isfinite().all() and (losses >= 0.0).all() and gradient.isfinite().all()


@pytest.mark.parametrize("rate", [-30.0, -2.0, 0.0, 5.0, 30.0])
def test_at_the_horizon_without_a_1_it_is_a_plain_0(rate: float) -> None:
    z, rates = _leaves(torch.linspace(-60.0, 60.0, 25), torch.full((25,), rate))
    losses = delayed_feedback_model(z, rates, torch.zeros(25), torch.ones(25))
    torch.testing.assert_close(losses, softplus(z))
    of_logits, of_rates = torch.autograd.grad(losses.sum(), (z, rates))
    torch.testing.assert_close(of_logits, z.sigmoid())
    assert of_rates.abs().max() < 1e-6, "how long a 1 takes is not learned from a 0"


@pytest.mark.parametrize("rate", [-30.0, -1.0, 2.0, 8.0])
def test_delays_have_a_density_and_a_share_beyond(rate: float) -> None:
    """Of a candidate that surely is a 1: the likelihood of its delay integrates to 1, and from e on to S(e)."""
    at = torch.linspace(0.0, 1.0, 20_001, dtype=torch.float64)
    sure, rates = torch.full_like(at, 60.0), torch.full_like(at, rate)
    density = (-delayed_feedback_model(sure, rates, torch.ones_like(at), at)).exp()
    assert float(torch.trapezoid(density, at)) == pytest.approx(1.0, abs=1e-6)
    beyond = (-delayed_feedback_model(sure, rates, torch.zeros_like(at), at)).exp()
    for place in range(0, 20_001, 2_500):
        assert float(torch.trapezoid(density[place:], at[place:])) == pytest.approx(float(beyond[place]), abs=1e-6)


def test_maximum_likelihood_finds_what_data_were_drawn_from() -> None:
    p, r, count = 0.3, 3.0, 6_000
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(3, count, dtype=torch.float64, generator=generator)
    delay = -(1 - uniform[0] * (1 - torch.tensor(-r).exp())).log() / r
    elapsed = (1.2 * uniform[1]).clamp(max=1.0)
    observed = ((uniform[2] < p) & (delay <= elapsed)).double()
    waited = torch.where(observed > 0, delay, elapsed)
    assert observed.mean() < 0.8 * p, "many are still to come"

    def loss(free: Tensor) -> Tensor:
        z, rate = free.expand(count, 2).unbind(1)
        return delayed_feedback_model(z, rate, observed, waited).sum()

    free = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([free], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(free)
        value.backward()
        return value

    optimizer.step(closure)
    of_each = free.detach().repeat(count, 1).requires_grad_()
    (scores,) = torch.autograd.grad(loss(of_each), of_each)
    error = (scores.T @ scores).inverse().diagonal().sqrt()  # by Fisher's information
    truth = torch.tensor([p / (1 - p), r - LEAST_RATE], dtype=torch.float64)
    truth = torch.stack([truth[0].log(), torch.expm1(truth[1]).log()])
    assert (error < 0.25).all() and ((free.detach() - truth).abs() < 3.5 * error).all(), (free, truth, error)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
def test_fake_negative_weighting_is_least_at_the_probability(p: float) -> None:
    """Once all 1s have come: its expected gradient is 0 at logit(p), below it falls, above it rises."""
    logit = torch.tensor(p, dtype=torch.float64).logit()
    (z,) = _leaves(logit + torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64))
    expected = p * fake_negative_weighting(z, torch.ones_like(z)) + (1 - p) * fake_negative_weighting(
        z, torch.zeros_like(z)
    )
    below, at, above = torch.autograd.grad(expected.sum(), z)[0].tolist()
    assert below < 0.0 < above and at == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("delayed", "places"),
    [
        ({}, []),
        ({"buy": {"horizon": 5}}, [1]),
        ({"buy": {"horizon": 5}, "click": {"horizon": 7}}, [0, 1]),
        ({"buy": {}, "click": {"horizon": 7}}, [0]),  # without a horizon nothing is known before it is final
    ],
)
def test_tasks_with_a_horizon(delayed: dict[str, Any], places: list[int]) -> None:
    schema = feedback_schema(delayed=delayed) if delayed else make_schema()
    assert delayed_places(schema) == places
    for immature, rates in (
        ("leave_out", 0),
        ("fake_negative_weighting", 0),
        ("delayed_feedback_model", len(places)),
    ):
        assert num_rates(schema, HeadConfig.model_validate({"immature": immature})) == rates
