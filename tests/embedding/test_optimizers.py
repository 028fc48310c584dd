"""Optimizers of embedding rows: what FBGEMM is asked for, and what it cannot do."""

from typing import Any

import pytest
import torch
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad as TorchrecRowWiseAdagrad

from dist_rec.common.strict import ConfigError, Strict
from dist_rec.config import EmbeddingConfig
from dist_rec.embedding.optimizers import FusedOptimizer, fused_optimizer


class Rprop(FusedOptimizer):
    def kind(self) -> type[torch.optim.Optimizer]:
        return torch.optim.Rprop


def _config(**changes: Any) -> EmbeddingConfig:
    return EmbeddingConfig.model_validate({"lr": 0.25, "eps": 1e-3, **changes})


@pytest.mark.parametrize(
    ("name", "kind", "settings", "state"),
    [
        ("rowwise_adagrad", TorchrecRowWiseAdagrad, {"lr": 0.25, "eps": 1e-3, "weight_decay": 0.0}, 100),
        ("sgd", torch.optim.SGD, {"lr": 0.25, "weight_decay": 0.0}, 0),
    ],
)
def test_the_built_in_ones(name: str, kind: type, settings: dict[str, float], state: int) -> None:
    config = _config(optimizer=name)
    made = fused_optimizer(config, "cpu")
    assert made.kind() is kind and made.settings(config) == settings and made.state_numel(100, 8) == state


def test_adam_is_for_gpus() -> None:
    made = fused_optimizer(_config(optimizer="adam"), "cuda")
    assert made.kind() is torch.optim.Adam and made.state_numel(100, 8) == 1600
    with pytest.raises(ConfigError, match="FBGEMM has no fused Adam on CPU"):
        fused_optimizer(_config(optimizer="adam"), "cpu")


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_only_rowwise_adagrad_decays(name: str) -> None:
    with pytest.raises(ConfigError, match="FBGEMM decays rows with rowwise_adagrad only"):
        fused_optimizer(_config(optimizer=name, weight_decay=0.1), "cuda")
    assert fused_optimizer(_config(weight_decay=0.1), "cpu").settings(_config(weight_decay=0.1))["weight_decay"] == 0.1


def test_what_fbgemm_does_not_know_is_refused() -> None:
    assert Rprop(Strict()).kind() is torch.optim.Rprop
    with pytest.raises(ConfigError, match="FBGEMM has no fused form of Rprop; expected torch's SGD"):
        fused_optimizer(_config(optimizer=f"{__name__}:Rprop"), "cpu")
