"""Optimizers of rows: which class FBGEMM applies, with which settings, and what it cannot apply."""

from typing import Any

import pytest
import torch
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from dist_rec.common.strict import ConfigError, Strict
from dist_rec.config import EmbeddingConfig
from dist_rec.embedding.optimizers import ON_CPU, FusedOptimizer, fused_optimizer

HERE = __name__


def _config(**changes: Any) -> EmbeddingConfig:
    return EmbeddingConfig.model_validate(changes)


@pytest.mark.parametrize(
    ("name", "kind", "settings", "state"),
    [
        ("rowwise_adagrad", RowWiseAdagrad, {"lr": 0.1, "weight_decay": 0.0, "eps": 1e-3}, 7),
        ("adam", torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.0, "eps": 1e-3}, 2 * 7 * 16),
        ("sgd", torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.0}, 0),
    ],
)
def test_a_built_in_optimizer(name: str, kind: type, settings: dict[str, float], state: int) -> None:
    config = _config(optimizer=name, lr=0.1, eps=1e-3)
    made = fused_optimizer(config, "cuda")
    assert (made.kind(), made.settings(config), made.state_numel(7, 16)) == (kind, settings, state)


@pytest.mark.parametrize("name", ["rowwise_adagrad", "adam", "sgd"])
def test_those_without_a_form_for_the_cpu_are_refused_there(name: str) -> None:
    if name in ON_CPU:
        assert fused_optimizer(_config(optimizer=name), "cpu")
        return
    with pytest.raises(ConfigError, match=r"embedding\.optimizer=adam: FBGEMM has no fused Adam on CPU"):
        fused_optimizer(_config(optimizer=name), "cpu")


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_decay_that_would_not_be_applied_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"decays rows with rowwise_adagrad only, got {name}"):
        fused_optimizer(_config(optimizer=name, weight_decay=0.1), "cuda")


class OfOnesOwn(FusedOptimizer):
    """One that FBGEMM has no fused form of."""

    def kind(self) -> type[torch.optim.Optimizer]:
        return torch.optim.LBFGS


def test_a_class_that_fbgemm_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"FBGEMM has no fused form of LBFGS; expected torch's SGD, Adagrad or Adam"):
        fused_optimizer(_config(optimizer=f"{HERE}:OfOnesOwn"), "cpu")


def test_the_base_has_no_kind_and_no_size() -> None:
    base = FusedOptimizer(Strict())
    with pytest.raises(NotImplementedError):
        base.kind()
    with pytest.raises(NotImplementedError):
        base.state_numel(1, 4)
