"""Dense optimizers by their names in a recipe."""

from typing import Any

import pytest
import torch
from torch import nn

from dist_rec.config import OptimConfig
from dist_rec.training.optimizers import dense_factory

SETTINGS: dict[str, Any] = {"lr": 0.1, "betas": (0.5, 0.6), "momentum": 0.7, "weight_decay": 0.2}
PARAMETERS = [nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(2, 3, 4))]


def _made(name: str) -> list[torch.optim.Optimizer]:
    made = dense_factory(OptimConfig(optimizer=name, **SETTINGS))(PARAMETERS)  # pyright: ignore[reportArgumentType]
    return [made] if isinstance(made, torch.optim.Optimizer) else list(made)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("adamw", torch.optim.AdamW, {"betas": (0.5, 0.6)}),
        ("adam", torch.optim.Adam, {"betas": (0.5, 0.6)}),
        ("adagrad", torch.optim.Adagrad, {}),
        ("sgd", torch.optim.SGD, {"momentum": 0.7}),
    ],
)
def test_one_optimizer_for_all(name: str, kind: type, options: dict[str, Any]) -> None:
    (made,) = _made(name)
    (group,) = made.param_groups
    assert type(made) is kind and len(group["params"]) == 3
    assert {key: group[key] for key in options} == options and (group["lr"], group["weight_decay"]) == (0.1, 0.2)


def test_muon_takes_the_matrices_and_adamw_the_rest() -> None:
    muon, adam = _made("muon")
    assert [p.ndim for p in muon.param_groups[0]["params"]] == [2]
    assert [p.ndim for p in adam.param_groups[0]["params"]] == [1, 3]
    assert muon.param_groups[0]["lr"] == adam.param_groups[0]["lr"] == 0.1
