"""Optimizers of embedding rows: torch classes that FBGEMM applies inside the backward."""

from typing import Any, ClassVar

import torch
from torchrec.distributed.utils import optimizer_type_to_emb_opt_type
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad as TorchrecRowWiseAdagrad

from dist_rec.common.strict import ConfigError, Strict
from dist_rec.config import EmbeddingConfig
from dist_rec.registry import FUSED_OPTIMIZERS

ON_CPU = ("rowwise_adagrad", "sgd")


class FusedOptimizer:
    """Base of all optimizers of rows, made by `Name(options)`."""

    Config: ClassVar[type[Strict]] = Strict

    def __init__(self, options: Strict) -> None:
        self.options = options

    def kind(self) -> type[torch.optim.Optimizer]:
        """The class for TorchRec: a torch optimizer, or one of `torchrec.optim`."""
        raise NotImplementedError

    def settings(self, config: EmbeddingConfig) -> dict[str, Any]:
        """Arguments of the class, by TorchRec's names (lr, eps, weight_decay, beta1, ...)."""
        return {"lr": config.lr, "weight_decay": config.weight_decay, "eps": config.eps}

    def state_numel(self, rows: int, dim: int) -> int:
        """Number of fp32 state values of a table of this size."""
        raise NotImplementedError


class RowWiseAdagrad(FusedOptimizer):
    """Adagrad with one sum of squares per row (torchrec.optim.RowWiseAdagrad)."""

    def kind(self) -> type[torch.optim.Optimizer]:
        return TorchrecRowWiseAdagrad

    def state_numel(self, rows: int, dim: int) -> int:
        return rows


class Adam(FusedOptimizer):
    """Adam; on a GPU only."""

    def kind(self) -> type[torch.optim.Optimizer]:
        return torch.optim.Adam

    def state_numel(self, rows: int, dim: int) -> int:
        return 2 * rows * dim


class Sgd(FusedOptimizer):
    """Plain SGD, without state."""

    def kind(self) -> type[torch.optim.Optimizer]:
        return torch.optim.SGD

    def settings(self, config: EmbeddingConfig) -> dict[str, Any]:
        return {"lr": config.lr, "weight_decay": config.weight_decay}

    def state_numel(self, rows: int, dim: int) -> int:
        return 0


def fused_optimizer(config: EmbeddingConfig, device_type: str) -> FusedOptimizer:
    """The optimizer of a recipe. Raises ConfigError if FBGEMM cannot apply it on this kind of device."""
    name = config.optimizer.name
    made: FusedOptimizer = FUSED_OPTIMIZERS.make(config.optimizer)
    if name == "adam" and device_type == "cpu":
        raise ConfigError(
            "embedding.optimizer=adam: FBGEMM has no fused Adam on CPU; expected rowwise_adagrad or sgd there"
        )
    if config.weight_decay and name in ("adam", "sgd"):
        raise ConfigError(f"embedding.weight_decay: FBGEMM decays rows with rowwise_adagrad only, got {name}")
    try:
        optimizer_type_to_emb_opt_type(made.kind())
    except ValueError:
        raise ConfigError(
            f"embedding.optimizer={name}: FBGEMM has no fused form of {made.kind().__name__}; expected torch's SGD, "
            "Adagrad or Adam, or a class of torchrec.optim"
        ) from None
    return made
