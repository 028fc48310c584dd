"""Two measurements that show whether one step of delay is harmless: the cosine of consecutive gradients, and the size
of the updates."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Health:
    """Measured at one dense update. The scalar tensors are on the parameters' device, so that the host waits only if
    they are read.

    applied: index of the update.
    gradient_cosine: cosine of this update's mean gradient and the previous one, all parameters as one vector. Near one,
        delay costs nothing; near zero, the noise is larger than the effect of delay; below zero, the steps overshoot
        and delay hurts first.
    update_norm: norm of the change of the weights.
    weight_norm: norm of the weights before the change.
    """

    applied: int
    gradient_cosine: Tensor
    update_norm: Tensor
    weight_norm: Tensor


class HealthMeter:
    """Measures every `every`-th update; 0 measures none. Memory: a copy of the gradients from the previous update to
    the measured one, and a copy of the weights during the measured one."""

    def __init__(self, every: int, parameters: Mapping[str, nn.Parameter]) -> None:
        self._every, self._parameters = every, parameters
        self._last: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}
        self._cosine: Tensor | None = None
        self.latest: Health | None = None

    @torch.no_grad()
    def before(self, applied: int, gradients: Mapping[str, Tensor]) -> None:
        """Call before update `applied` with the mean gradients, before they are clipped or corrected."""
        self._weights, self._cosine = {}, None
        if self._every and applied % self._every == 0 and self._last:
            shared = self._last.keys() & gradients.keys()
            pairs = [(gradients[name].flatten().float(), self._last[name].flatten().float()) for name in sorted(shared)]
            if pairs:
                # Divide by the norms first: the squares of small gradients underflow in fp32.
                length, last = (nn.utils.get_total_norm(list(side)) for side in zip(*pairs, strict=True))
                self._cosine = torch.stack([(a / length).dot(b / last) for a, b in pairs]).sum()
                self._weights = {name: p.detach().clone() for name, p in self._parameters.items()}
        keep = self._every and (applied + 1) % self._every == 0
        self._last = {name: g.clone() for name, g in gradients.items()} if keep else {}

    @torch.no_grad()
    def after(self, applied: int) -> None:
        """Call after update `applied`."""
        if self._cosine is None:
            return
        moved = nn.utils.get_total_norm([p.detach() - self._weights[name] for name, p in self._parameters.items()])
        self.latest = Health(applied, self._cosine, moved, nn.utils.get_total_norm(list(self._weights.values())))
        self._weights, self._cosine = {}, None

    def forget(self) -> None:
        """Drops what is kept of the last gradient; the next measurement that needs it is left out."""
        self._last = {}
