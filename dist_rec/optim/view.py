"""Gradients in `p.grad` for a job to look at and to change, from its first look until the step that applies them."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from dist_rec.optim.delayed import Pending


class View:
    """Opened by the first use of a stand-in; closed by the step, or by a job that leaves the step out.

    `sent`: this step's gradient, which left early for the look; None where only the one in flight is shown, before a flush.
    `applied`: the one that stands in `p.grad`, unscaled; None where the step will apply nothing.

    Args:
        gradients: those of `applied`, by name.
        here: names for which the job finds a gradient; zeros stand where nothing will be applied.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        sent: Pending | None,
        applied: Pending | None,
        gradients: Mapping[str, Tensor],
        here: Collection[str],
    ) -> None:
        self.sent, self.applied, self._parameters = sent, applied, parameters
        self._scale = 1.0 if applied is None else applied.scale
        for gradient in gradients.values() if self._scale != 1.0 else ():
            gradient *= 1.0 / self._scale
        self._zeros = {name: torch.zeros_like(parameters[name]) for name in here if name not in gradients}
        for name, gradient in {**gradients, **self._zeros}.items():
            parameters[name].grad = gradient
        # In-place changes count a tensor's version up.
        self._shown = {name: (gradient, gradient._version) for name, gradient in gradients.items()}

    def found(self) -> dict[str, Tensor]:
        """What stands there now and is to be applied."""
        grads = {name: p.grad for name, p in self._parameters.items()}
        return {name: g for name, g in grads.items() if g is not None and g is not self._zeros.get(name)}

    def is_changed(self) -> bool:
        """Whether the job has changed or replaced a gradient."""
        found = self.found()
        if found.keys() != self._shown.keys():
            return True
        return any(found[name] is not was or was._version != version for name, (was, version) in self._shown.items())

    def close(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None

    def as_it_came(self) -> dict[str, Tensor]:
        """Copies of what is shown, scaled as before, with what the job has changed."""
        return {name: gradient * self._scale for name, (gradient, _) in self._shown.items()}

    def take_back(self) -> None:
        """Scales what was shown as it came: it is applied another time."""
        for gradient, _ in self._shown.values() if self._scale != 1.0 else ():
            gradient *= self._scale
