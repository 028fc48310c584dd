"""Optimizers of the dense parameters, as a recipe names them."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from dist_rec.common.strict import Strict
from dist_rec.config import OptimConfig
from dist_rec.optim.dense import DenseFactory
from dist_rec.optim.muon import BatchedMuon
from dist_rec.registry import OPTIMIZERS

Parameters = list[nn.Parameter]


class DenseOptimizer:
    """Base of all optimizers of dense parameters, made by `Name(options)`."""

    Config: ClassVar[type[Strict]] = Strict

    def __init__(self, options: Strict) -> None:
        self.options = options

    def check(self) -> None:
        """Raises ConfigError if it cannot be used here."""

    def __call__(
        self, parameters: Parameters, config: OptimConfig
    ) -> torch.optim.Optimizer | Sequence[torch.optim.Optimizer]:
        """A torch optimizer, or several that share the parameters. `config` has the settings that all recipes have:
        `lr`, `weight_decay`, `betas`, `momentum`; the learning rate is the highest one, the schedule scales it."""
        raise NotImplementedError


class AdamW(DenseOptimizer):
    def __call__(self, parameters: Parameters, config: OptimConfig) -> torch.optim.Optimizer:
        return _adamw(parameters, config)


class Adam(DenseOptimizer):
    def __call__(self, parameters: Parameters, config: OptimConfig) -> torch.optim.Optimizer:
        settings = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
        return torch.optim.Adam(parameters, **settings, fused=_fused(parameters))


class Adagrad(DenseOptimizer):
    def __call__(self, parameters: Parameters, config: OptimConfig) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(parameters, lr=config.lr, weight_decay=config.weight_decay)


class Sgd(DenseOptimizer):
    def __call__(self, parameters: Parameters, config: OptimConfig) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


class Muon(DenseOptimizer):
    """Muon orthogonalises matrices; its updates are scaled to the size of AdamW's, so that one learning rate fits both.
    AdamW takes everything that is no matrix."""

    def __call__(self, parameters: Parameters, config: OptimConfig) -> list[torch.optim.Optimizer]:
        matrices, others = [p for p in parameters if p.ndim == 2], [p for p in parameters if p.ndim != 2]
        made: list[torch.optim.Optimizer] = []  # of either there may be none that is trained
        if matrices:
            decay = config.weight_decay
            made.append(BatchedMuon(matrices, lr=config.lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
        return [*made, _adamw(others, config)] if others else made


def _adamw(parameters: Parameters, config: OptimConfig) -> torch.optim.AdamW:
    settings = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    return torch.optim.AdamW(parameters, **settings, fused=_fused(parameters))


def _fused(parameters: Parameters) -> bool | None:
    """One call for all parameters, on a CPU and a GPU, which also drops an update without the host; None is torch's
    choice, for what its kernel does not take."""
    if not parameters or not all(p.is_floating_point() for p in parameters):
        return None
    if all(p.is_cuda for p in parameters):
        return True
    # The CPU's kernel reads a gradient in the order of the parameter's memory; gradients here are row by row.
    return True if all(p.device.type == "cpu" and p.is_contiguous() for p in parameters) else None


def dense_factory(config: OptimConfig) -> DenseFactory:
    """What makes the optimizer of a recipe. Raises ConfigError if it cannot be used here."""
    made: DenseOptimizer = OPTIMIZERS.make(config.optimizer)
    made.check()
    return lambda parameters: made(parameters, config)
