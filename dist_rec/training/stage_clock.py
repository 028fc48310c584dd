"""Where the host spends the time of a step.

On a GPU the host runs ahead: a stage is then the time to launch it, and to wait where something waits, not what the GPU
takes for it. `run.trace_steps` shows both.
"""

import time
from typing import Any

from torch import nn

from dist_rec.optim.hybrid import HybridOptimizer

FORWARD, BACKWARD, UPDATE, OTHER = "forward", "backward", "update", "other"
STAGES = (FORWARD, BACKWARD, UPDATE, OTHER)


class StageClock:
    """Seconds of this rank by stage, from hooks of the model and the optimizer; evaluations are not counted as stages.

    - `forward` of the model: lookups wait in it for rows of other ranks
    - `backward`, from there to the update: tables are updated in it, and gradients leave for other ranks
    - `update` of the dense weights
    - `other`: the next batch and its way to the device, ids on their way, the loop itself
    """

    def __init__(self, model: nn.Module, optimizer: HybridOptimizer) -> None:
        self.restart()
        model.register_forward_pre_hook(self._before_forward)
        model.register_forward_hook(self._after_forward)
        optimizer.register_step_pre_hook(lambda *_: self._enter(UPDATE))
        optimizer.register_step_post_hook(lambda *_: self._enter(OTHER))

    def restart(self) -> None:
        self._seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._stage, self._since = OTHER, time.perf_counter()

    def read(self) -> list[float]:
        """Seconds since the last restart, in the order of STAGES."""
        self._enter(self._stage)
        return [*self._seconds.values()]

    def _enter(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now

    def _before_forward(self, model: nn.Module, _: Any) -> None:
        if model.training:
            self._enter(FORWARD)

    def _after_forward(self, model: nn.Module, *_: Any) -> None:
        if model.training:
            self._enter(BACKWARD)
