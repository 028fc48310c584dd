"""One update of the dense parameters: correction, clipping, learning rates, optimizers, measurement."""

from collections.abc import Callable

from torch import Tensor, nn

from dist_rec.optim.correction import Correction
from dist_rec.optim.dense import DenseOptimizers
from dist_rec.optim.health import HealthMeter
from dist_rec.optim.pending_reduce import total_norm

UpdateHook = Callable[[Tensor | None], None]


class DenseStep:
    """Updates the parameters of `dense`.

    Args:
        correction: of delayed gradients.
        health: measures some of the updates.
        clip_norm: largest norm of the gradients; None does not clip.
        lr_factor: number of updates so far -> factor of the next one's learning rates. None keeps the rates of the
            groups, which a scheduler may set.
        delayed_lr_factor: factor of the learning rates of delayed updates.
    """

    def __init__(
        self,
        dense: DenseOptimizers,
        correction: Correction,
        health: HealthMeter,
        *,
        clip_norm: float | None,
        lr_factor: Callable[[int], float] | None,
        delayed_lr_factor: float,
    ) -> None:
        self._dense, self.correction, self.health = dense, correction, health
        self.clip_norm, self.lr_factor, self._delayed_lr_factor = clip_norm, lr_factor, delayed_lr_factor
        self._base_lrs = [group["lr"] for group in dense.groups]
        self.update_hooks: list[UpdateHook] = []  # called after every update with its `wanted`

    def add_group(self, index: int) -> None:
        """Call after a group was added to `dense`, with its index among all groups."""
        self._base_lrs.insert(index, self._dense.groups[index]["lr"])

    def apply(
        self,
        gradients: dict[str, Tensor],
        norm: Tensor | None,
        *,
        updates: int,
        delayed: bool,
        wanted: Tensor | None = None,
    ) -> None:
        """Update number `updates`. The gradients end up in `p.grad`, corrected and clipped.

        Args:
            gradients: mean gradient by parameter name; changed in place.
            norm: () norm of all gradients; None if `clip_norm` is.
            delayed: whether the gradients are of the step before.
            wanted: () bool on the device; where it is false, the weights and the optimizers' state stay. None for true.
        """
        parameters = self._dense.parameters
        self.health.before(updates, gradients)
        gradients = self.correction.gradients(gradients, delayed=delayed)
        for name, parameter in parameters.items():
            parameter.grad = gradients.get(name)
        if self.clip_norm is not None and norm is not None:
            if delayed and self.correction.changes_gradients:
                norm = total_norm(parameters, gradients)  # of the corrected gradients
            nn.utils.clip_grads_with_norm_(list(parameters.values()), self.clip_norm, norm)
        self._step(updates, wanted, delayed=delayed)
        self.correction.finish(delayed=delayed)
        self.health.after(updates)
        for hook in self.update_hooks:
            hook(wanted)

    def _step(self, updates: int, wanted: Tensor | None, *, delayed: bool) -> None:
        """Steps the optimizers at the present learning rates, and restores rates that a scheduler may have set."""
        groups, slower = self._dense.groups, self._delayed_lr_factor if delayed else 1.0
        rates = [group["lr"] for group in groups]
        if self.lr_factor is not None:
            rates = [base * self.lr_factor(updates) for base in self._base_lrs]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * slower
        self._dense.step(wanted)
        for group, rate in zip(groups, rates, strict=True) if self.lr_factor is None else ():
            group["lr"] = rate
