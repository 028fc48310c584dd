"""Learning rate over the course of a run, as a factor of the base rate."""

import math
from collections.abc import Callable

from dist_rec.config import OptimConfig


def lr_factor(config: OptimConfig, total_updates: int) -> Callable[[int], float]:
    """A function from the number of dense updates so far to the factor for the next one.

    Linear warm-up over `warmup_steps`, then no, linear or cosine decay to `final_lr_fraction` at the last update.
    """

    def factor(updates: int) -> float:
        if updates < config.warmup_steps:
            return (updates + 1) / config.warmup_steps
        if config.decay == "none":
            return 1.0
        span = max(total_updates - config.warmup_steps - 1, 1)
        progress = min((updates - config.warmup_steps) / span, 1.0)
        left = 1 - progress if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        return config.final_lr_fraction + (1 - config.final_lr_fraction) * left

    return factor
