"""Optimizers of dense parameters by their names: the class of torch, with the recipe's settings."""

from typing import Any

import pytest
import torch
from torch import nn

from dist_rec.common.strict import ConfigError, Strict
from dist_rec.config import OptimConfig
from dist_rec.training.optimizers import DenseOptimizer, dense_factory

SETTINGS = {"lr": 0.02, "weight_decay": 0.3, "momentum": 0.4, "betas": (0.5, 0.6)}


def _parameters() -> list[nn.Parameter]:
    """A matrix, a vector, and a weight of three dims."""
    return [nn.Parameter(torch.ones(shape)) for shape in ((3, 2), (3,), (2, 3, 2))]


def _made(name: str) -> Any:
    return dense_factory(OptimConfig.model_validate({"optimizer": name, **SETTINGS}))(_parameters())


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("adamw", torch.optim.AdamW, ("lr", "weight_decay", "betas")),
        ("adam", torch.optim.Adam, ("lr", "weight_decay", "betas")),
        ("adagrad", torch.optim.Adagrad, ("lr", "weight_decay")),
        ("sgd", torch.optim.SGD, ("lr", "weight_decay", "momentum")),
    ],
)
def test_a_built_in_optimizer_has_the_settings_of_the_recipe(name: str, kind: type, settings: tuple[str, ...]) -> None:
    made = _made(name)
    assert type(made) is kind
    (group,) = made.param_groups
    assert len(group["params"]) == 3
    assert {key: group[key] for key in settings} == {key: SETTINGS[key] for key in settings}


def test_muon_takes_matrices_and_adamw_the_rest() -> None:
    muon, adamw = _made("muon")
    assert [type(muon), type(adamw)] == [torch.optim.Muon, torch.optim.AdamW]
    shapes = [[tuple(p.shape) for p in made.param_groups[0]["params"]] for made in (muon, adamw)]
    assert shapes == [[(3, 2)], [(3,), (2, 3, 2)]]
    assert muon.param_groups[0]["adjust_lr_fn"] == "match_rms_adamw" and adamw.param_groups[0]["betas"] == (0.5, 0.6)


def test_muon_needs_a_torch_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ConfigError, match=r"optim\.optimizer=muon needs torch 2\.9 or later, got"):
        dense_factory(OptimConfig(optimizer="muon"))  # pyright: ignore[reportArgumentType]


def test_the_base_makes_nothing() -> None:
    base = DenseOptimizer(Strict())
    base.check()
    with pytest.raises(NotImplementedError):
        base(_parameters(), OptimConfig())
