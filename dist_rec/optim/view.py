"""Mean gradients in `p.grad` for the job to read and change, from its first use of a placeholder until they are
applied."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from dist_rec.optim.pending_reduce import DelayedGradient


class View:
    """Opened by the first use of a placeholder or by `show_in_flight()`; closed by the update, or when the job skips
    the step.

    Args:
        parameters: name -> parameter; their `p.grad` is set.
        started: this step's gradient, whose remaining buckets were started for the view; None for `show_in_flight()`.
        applied: the gradient in `p.grad`; None if the step applies nothing.
        gradients: the tensors of `applied` by name, each in the shape and dtype of its parameter.
        here: parameters for which the job expects a gradient; `p.grad` is zeros for those that are not in `gradients`.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        started: DelayedGradient | None,
        applied: DelayedGradient | None,
        gradients: Mapping[str, Tensor],
        here: Collection[str],
    ) -> None:
        self.started, self.applied, self._parameters = started, applied, parameters
        self._zeros = {name: torch.zeros_like(parameters[name]) for name in here if name not in gradients}
        for name, gradient in {**gradients, **self._zeros}.items():
            parameters[name].grad = gradient
        # Every change in place increments a tensor's version.
        self._shown = {name: (gradient, gradient._version) for name, gradient in gradients.items()}

    def found(self) -> dict[str, Tensor]:
        """The present gradients to apply, by name; the zeros are left out."""
        grads = {name: p.grad for name, p in self._parameters.items()}
        return {name: g for name, g in grads.items() if g is not None and g is not self._zeros.get(name)}

    def is_changed(self) -> bool:
        """Whether the job changed, replaced or removed a gradient."""
        found = self.found()
        if found.keys() != self._shown.keys():
            return True
        return any(found[name] is not was or was._version != version for name, (was, version) in self._shown.items())

    def close(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None
