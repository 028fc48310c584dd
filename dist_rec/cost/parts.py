"""What each part of dist_rec wins: a step with all parts against a step without one of them, at equal candidates."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dist_rec.config import Config
from dist_rec.cost.network import Cluster
from dist_rec.cost.plan import Step, StepTime, step_time
from dist_rec.cost.requests import Requests
from dist_rec.cost.stages import StepCount
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema

# Counts the operators of a step of these requests; `half`: what is `auto` in the recipe is bf16.
Counter = Callable[[Requests, HostBatch, bool], StepCount]


@dataclass(frozen=True)
class Without:
    """A step without one part. `late` is whether its dense update is delayed."""

    part: str
    instead: str
    step: Step
    late: bool = True


@dataclass(frozen=True)
class Parts:
    """A step with all parts that the recipe uses, and the same step without each of them."""

    config: Config
    workers: int
    step: Step
    without: tuple[Without, ...]

    @property
    def delayed(self) -> bool:
        return self.config.optim.dense_update == "delayed"

    def time(self, cluster: Cluster) -> StepTime:
        """Of the recipe as it is."""
        return step_time(self.step, cluster, self.config, workers=self.workers, delayed=self.delayed)

    def gain(self, of: Without, cluster: Cluster) -> float:
        """How much longer a step takes without a part, as a share of the step with it."""
        with_it, without = (
            step_time(step, cluster, self.config, workers=self.workers, delayed=late).step_s
            for step, late in ((self.step, of.late or self.delayed or of.part == LATE), (of.step, of.late and self.delayed))
        )
        return without / with_it - 1
