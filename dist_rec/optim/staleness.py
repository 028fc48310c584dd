"""What may be done about a gradient that is one step old when it is applied. Each is off by default.

Notation: g_k is the gradient of step k, computed at the weights W_{k-1}; the update of step k has g_{k-1} at hand.

- `extrapolate` applies 2 g_{k-1} - g_{k-2}, the straight line through the last two gradients continued to step k.
- `compensate` applies g_{k-1} + c g_{k-1} g_{k-1} (W_{k-1} - W_{k-2}), elementwise: the first-order Taylor expansion of the
  gradient with the diagonal of g g^T for the Hessian (Zheng et al., Asynchronous Stochastic Gradient Descent with Delay
  Compensation, ICML 2017).
- `error_feedback` corrects the update instead of the gradient. With u(g) the change of the weights that the optimizer makes of
  g, step k - 1 applied u(g_{k-2}) for want of u(g_{k-1}); step k knows the difference and adds it:
  u(g_{k-1}) + (u(g_{k-1}) - u(g_{k-2})). For plain SGD that is `extrapolate`; for optimizers with state it is not.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

Staleness = Literal["none", "extrapolate", "compensate", "error_feedback"]


class Correction:
    """Keeps what the correction needs of the last step: one tensor like each parameter, by name, none for `none`.

    Per update: `gradients` before the optimizer, `finish` after it. History is kept in synchronous steps too, where
    (`late=False`) nothing is corrected.
    """

    def __init__(self, kind: Staleness, parameters: Mapping[str, nn.Parameter], compensation: float) -> None:
        self._kind, self._parameters, self._compensation = kind, parameters, compensation
        self.last: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}

    @property
    def needs_weights(self) -> bool:
        """Whether every step's weights have to be kept with its gradient."""
        return self._kind == "compensate"

    @property
    def keeps_history(self) -> bool:
        return self._kind in ("extrapolate", "error_feedback")

    @property
    def changes_gradients(self) -> bool:
        return self._kind in ("extrapolate", "compensate")

    @torch.no_grad()
    def gradients(self, found: dict[str, Tensor], computed_at: Mapping[str, Tensor], *, late: bool) -> dict[str, Tensor]:
        """The gradients to apply: `found` (their memory is used) as they came back, `computed_at` their weights."""
        if self._kind == "error_feedback":
            self._before = {name: self._parameters[name].detach().clone() for name in found}
        if self._kind == "compensate" and late:
            for name, g in found.items():
                g.addcmul_(g * g, self._parameters[name] - computed_at[name], value=self._compensation)
        if self._kind != "extrapolate":
            return found
        kept = {name: g.clone() for name, g in found.items()}
        if late:
            for name in found.keys() & self.last.keys():
                found[name].mul_(2.0).sub_(self.last[name])
        self.last = kept  # nothing of a parameter that has no gradient now: next time it would be older than one update
        return found

    @torch.no_grad()
    def finish(self, *, late: bool) -> None:
        """After the optimizer has changed the weights."""
        updates: dict[str, Tensor] = {}
        for name, before in self._before.items():
            parameter = self._parameters[name]
            updates[name] = parameter.detach() - before
            if late and name in self.last:
                parameter.add_(updates[name] - self.last[name])
        if self._kind == "error_feedback":
            self.last = updates
        self._before = {}

    def forget(self) -> None:
        """After a step without an update: the history is no longer that of the last one."""
        self.last = {}
