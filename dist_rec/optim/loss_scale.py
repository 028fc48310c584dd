"""Dynamic loss scaling for gradients that are looked at one step after the loss was scaled."""

import torch
from torch.amp import GradScaler


class LossScale:
    """Drives a torch `GradScaler`: the job scales its loss with it, this class sets its scale.

    `GradScaler.step` would look at gradients of this rank alone, before their all-reduce, and unscale them with a scale
    that may be another than theirs. Here the scale travels with the gradient, the verdict falls on the mean over all ranks,
    and the scale grows and backs off by the scaler's own factors, in step with applied updates.
    """

    def __init__(self, scaler: GradScaler | None) -> None:
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self.scale = self._scaler.get_scale() if self._scaler is not None else 1.0
        self.good = 0

    def update(self, finite: bool, scale: float) -> None:
        """After a gradient that came of a loss at `scale` was applied (`finite`) or skipped. Two gradients may be on their way
        at the same scale; it backs off from that once."""
        if self._scaler is None:
            return
        self.good = self.good + 1 if finite else 0
        if not finite:
            self._set(min(self.scale, scale * self._scaler.get_backoff_factor()))
        elif self.good == self._scaler.get_growth_interval():
            self._set(self.scale * self._scaler.get_growth_factor())
            self.good = 0

    def check_left_alone(self, optimizer: torch.optim.Optimizer) -> None:
        """Raises RuntimeError if the job has unscaled what is unscaled already."""
        states = getattr(self._scaler, "_per_optimizer_states", {})
        if id(optimizer) in states and states[id(optimizer)]["stage"].name == "UNSCALED":
            raise RuntimeError(
                "scaler.unscale_(optimizer) was called, and HybridOptimizer, which has the scaler, shows gradients unscaled in "
                "p.grad; expected neither unscale_ nor scaler.step and scaler.update"
            )

    @property
    def is_enabled(self) -> bool:
        return self._scaler is not None

    def restore(self, scale: float, good: int) -> None:
        """From a checkpoint of a run with a scaler."""
        self.good = good
        if self._scaler is not None:
            self._set(scale)

    def _set(self, scale: float) -> None:
        self.scale = scale
        assert self._scaler is not None, "only called with one"
        # The public way to set a scale that works before the first loss was scaled, too, and does not read the device.
        self._scaler.load_state_dict(
            {
                "scale": scale,
                "growth_factor": self._scaler.get_growth_factor(),
                "backoff_factor": self._scaler.get_backoff_factor(),
                "growth_interval": self._scaler.get_growth_interval(),
                "_growth_tracker": 0,
            }
        )
