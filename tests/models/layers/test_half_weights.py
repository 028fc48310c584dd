"""Weights cast together against autocast, which casts one by one."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from dist_rec.models.layers.half_weights import HalfWeights
from dist_rec.models.layers.norm import LayerNorm
from tests.data.requests import make_rows
from tests.models.batches import MODELS, Model, make_batch, make_model

ALL = {"tokens": "bf16", "layers": "bf16", "head": "bf16"}
RECOMPUTED = {"longer": ["tokens", "inner", "cross", "self"], "hyformer": ["tokens", "encoders", "decoders", "mixer"]}
HALF = torch.bfloat16
# By rows and positions, by queries and keys, by events and candidates.
USED_TWICE = ("static.weight", "norm_attention.weight", "norm_attention.bias", ".norm.weight", ".norm.bias")


@contextmanager
def one_by_one() -> Iterator[None]:
    """As if no weights had been found."""
    with mock.patch.object(HalfWeights, "__init__", lambda self, _: setattr(self, "places", [])):
        yield


CASES: dict[str, dict[str, Any]] = {**MODELS, "learnable": {"longer": {"queries": "learnable"}}}


def moved(model: Model) -> Model:
    """Norms that are not the identity, with weights that bf16 does not hold."""
    generator = torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        if "norm" in name:
            p.data += 0.3 * torch.rand(p.shape, generator=generator)
    return model


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_are_those_of_autocast(name: str, recompute: bool) -> None:
    of = "longer" if name == "learnable" else name
    changes: dict[str, Any] = CASES[name] | ({"recompute": RECOMPUTED.get(of, [])} if recompute else {})
    batch = make_batch(make_rows(9))
    together = moved(make_model(**changes, precision=ALL))
    with one_by_one():
        plain = moved(make_model(**changes, precision=ALL))
    assert torch.equal(together(batch), plain(batch))
    expected = plain.gradients(batch)
    for parameter, gradient in together.gradients(batch).items():
        assert gradient.dtype == torch.float32
        if parameter.endswith(USED_TWICE):
            error = (gradient - expected[parameter]).norm() / expected[parameter].norm()
            assert error < torch.finfo(HALF).eps, parameter
        else:
            assert torch.equal(gradient, expected[parameter]), parameter


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), LayerNorm(3), nn.Linear(3, 2, bias=False))


def weights(module: nn.Module) -> list[Tensor]:
    return list(module.parameters())


def test_they_are_half_inside_and_the_parameters_again_outside() -> None:
    module = small()
    before = weights(module)
    half = HalfWeights(module)
    with half.used(HALF):
        assert all(w.dtype == HALF for layer in module for w in layer._parameters.values() if w is not None)
    assert all(a is b for a, b in zip(weights(module), before, strict=True))
    with pytest.raises(ZeroDivisionError), half.used(HALF):
        _ = 1 // 0
    assert all(a is b for a, b in zip(weights(module), before, strict=True))


def test_a_weight_that_is_not_used_gets_no_gradient() -> None:
    module = small()
    with HalfWeights(module).used(HALF):
        module[0](torch.ones(1, 3, dtype=HALF)).sum().backward()
    assert [p.grad is not None for p in module.parameters()] == [True, True, False, False, False]


def test_a_frozen_weight_gets_no_gradient() -> None:
    module = small()
    module[0].requires_grad_(False)
    with HalfWeights(module).used(HALF):
        module(torch.ones(1, 3, dtype=HALF)).sum().backward()
    assert [p.grad is not None for p in module.parameters()] == [False, False, True, True, True]


def test_other_parameters_and_later_layers_stay_for_autocast() -> None:
    module = small()
    module.scale = nn.Parameter(torch.ones(2))
    half = HalfWeights(module)
    module[2] = nn.Linear(3, 2)
    with half.used(HALF), torch.autocast("cpu", dtype=HALF):
        assert module.scale.dtype == module[2].weight.dtype == torch.float32
        module(torch.ones(1, 3)).sum().backward()
    assert module[2].weight.grad is not None and module[0].weight.grad is not None


def test_a_model_in_half_precision_already_stays() -> None:
    module = small().to(torch.float64)
    with HalfWeights(module).used(HALF):
        assert module(torch.ones(1, 3, dtype=torch.float64)).dtype == torch.float64


def test_a_copied_model_casts_its_own() -> None:
    model = make_model(precision=ALL)
    copied = deepcopy(model)
    for p in copied.parameters():
        p.data.zero_()
    batch = make_batch(make_rows(3))
    assert not torch.equal(model(batch), copied(batch)) and not copied(batch).any()


def test_compiled() -> None:
    model = make_model(precision=ALL, name="sum_pooling", interaction="rankmixer", rankmixer={"width": 20})
    batch = make_batch(make_rows(5))
    expected = model(batch)
    got = torch.compile(model, backend="aot_eager")(batch)
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.02)
