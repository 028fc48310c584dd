"""Two numbers that tell whether one step of delay is harmless: do gradients still point the same way a step later, and
how far do the weights move in a step."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Health:
    """At one dense update. Tensors on the parameters' device, so that nobody waits until they are read.

    gradient_cosine: of this update's mean gradient and that of the update before, all parameters as one vector. Near one,
        delay costs nothing; near zero, noise outweighs it; below zero, the steps overshoot: delay will hurt first there.
    update_norm: length of the change of the weights. weight_norm: length of the weights before it.
    """

    applied: int
    gradient_cosine: Tensor
    update_norm: Tensor
    weight_norm: Tensor


class HealthMeter:
    """Measures every `every`-th update (0: none). Memory: between the update before and the measured one a copy of the
    gradients, and during the measured one a copy of the weights."""

    def __init__(self, every: int, parameters: Mapping[str, nn.Parameter]) -> None:
        self._every, self._parameters = every, parameters
        self._last: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}
        self._cosine: Tensor | None = None
        self.latest: Health | None = None

    @torch.no_grad()
    def before(self, applied: int, gradients: Mapping[str, Tensor]) -> None:
        """With the mean gradients as they came back, before they are clipped or corrected."""
        self._weights, self._cosine = {}, None
        if self._every and applied % self._every == 0 and self._last:
            shared = self._last.keys() & gradients.keys()
            pairs = [(gradients[name].flatten().float(), self._last[name].flatten().float()) for name in sorted(shared)]
            if pairs:
                # Lengths first: the squares of small gradients are beyond fp32.
                length, last = (nn.utils.get_total_norm(list(side)) for side in zip(*pairs, strict=True))
                self._cosine = torch.stack([(a / length).dot(b / last) for a, b in pairs]).sum()
                self._weights = {name: p.detach().clone() for name, p in self._parameters.items()}
        keep = self._every and (applied + 1) % self._every == 0
        self._last = {name: g.clone() for name, g in gradients.items()} if keep else {}

    @torch.no_grad()
    def after(self, applied: int) -> None:
        if self._cosine is None:
            return
        moved = nn.utils.get_total_norm([p.detach() - self._weights[name] for name, p in self._parameters.items()])
        self.latest = Health(applied, self._cosine, moved, nn.utils.get_total_norm(list(self._weights.values())))
        self._weights, self._cosine = {}, None
