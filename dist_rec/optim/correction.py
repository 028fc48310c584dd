"""Corrections for a gradient that is applied one step after it was computed. All are off by default.

Notation: g_k is the gradient of step k, computed at the weights W_{k-1}; the update of step k has only g_{k-1}.

- `extrapolate` applies 2 g_{k-1} - g_{k-2}: the straight line through the last two gradients, continued to step k.
- `error_feedback` corrects the update instead of the gradient. Let u(g) be the change of the weights that the optimizer
  computes from g. Step k - 1 applied u(g_{k-2}) because u(g_{k-1}) was not known yet. Step k knows the difference and
  adds it: u(g_{k-1}) + (u(g_{k-1}) - u(g_{k-2})). This equals `extrapolate` for plain SGD, but not for optimizers with
  state.

To add one: its name in `CorrectionKind` (common/choices.py), its maths in `gradients` (before the update) or `finish`
(after it), its history in `last`, which is saved and resumed; `changes_gradients` if the norm for clipping changes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dist_rec.common.choices import CorrectionKind


class Correction:
    """Call `gradients` before each update and `finish` after it.

    Memory: one tensor per parameter, in its shape and dtype, for the history in `last`; nothing for `none`. Synchronous
    updates (`delayed=False`) are recorded too, but not corrected.
    """

    def __init__(self, kind: CorrectionKind, parameters: Mapping[str, nn.Parameter]) -> None:
        self._kind, self._parameters = kind, parameters
        self.last: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}

    @property
    def keeps_history(self) -> bool:
        return self._kind != "none"

    @property
    def changes_gradients(self) -> bool:
        return self._kind == "extrapolate"

    @torch.no_grad()
    def gradients(self, found: dict[str, Tensor], *, delayed: bool) -> dict[str, Tensor]:
        """The gradients to apply, by parameter name. `found` holds the mean gradients and is changed in place."""
        if self._kind == "error_feedback":
            self._before = {name: self._parameters[name].detach().clone() for name in found}
        if self._kind != "extrapolate":
            return found
        kept = {name: g.clone() for name, g in found.items()}
        if delayed:
            for name in found.keys() & self.last.keys():
                found[name].mul_(2.0).sub_(self.last[name])
        self.last = kept  # omits a parameter without a gradient: its history would be older than one update next time
        return found

    @torch.no_grad()
    def finish(self, *, delayed: bool) -> None:
        """Call after the optimizer has changed the weights."""
        updates: dict[str, Tensor] = {}
        for name, before in self._before.items():
            parameter = self._parameters[name]
            updates[name] = parameter.detach() - before
            if delayed and name in self.last:
                parameter.add_(updates[name] - self.last[name])
        if self._kind == "error_feedback":
            self.last = updates
        self._before = {}

    def forget(self) -> None:
        """Call after a step without an update: the history no longer belongs to the previous step."""
        self.last = {}
