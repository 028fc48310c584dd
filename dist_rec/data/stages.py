"""The plans of folders that are read one after the other, such as the days of a log, as one plan of a run."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from dist_rec.data.plan import Epoch, Steps


class StagedPlan:
    """All epochs of the first plan, then all of the second, and so on. Steps, epochs and orders as in `Plan`."""

    def __init__(self, plans: Sequence[Steps]) -> None:
        self.plans = list(plans)
        self.workers = plans[0].workers

    @property
    def ends(self) -> list[int]:
        """Steps of the run that are done when a stage is."""
        return self._ends

    @cached_property
    def _ends(self) -> list[int]:
        return np.cumsum([plan.total for plan in self.plans]).tolist()

    @property
    def total(self) -> int:
        return self.ends[-1]

    @property
    def epochs(self) -> int:
        """Of all stages."""
        return self._before(len(self.plans))

    @property
    def steps(self) -> int:
        """Of an epoch of all stages."""
        return sum(plan.steps for plan in self.plans)

    @property
    def empty_share(self) -> float:
        """The mean over the steps, see `Plan`."""
        return sum(plan.empty_share * plan.steps for plan in self.plans) / self.steps

    def stage_of(self, step: int) -> int:
        """The stage that a step of the run lies in."""
        return int(np.searchsorted(self.ends, step, side="right"))

    def start_of(self, stage: int) -> int:
        """Its first step."""
        return self.ends[stage - 1] if stage else 0

    def epoch_end(self, step: int) -> int:
        """The first end of an epoch of some stage after this many steps of the run."""
        stage = self.stage_of(step)
        return self.start_of(stage) + self.plans[stage].epoch_end(step - self.start_of(stage))

    def locate(self, step: int) -> tuple[int, int]:
        """The number of the epoch that a step of the run lies in, and its place there."""
        stage = self.stage_of(step)
        number, place = self.plans[stage].locate(step - self.start_of(stage))
        return self._before(stage) + number, place

    def epoch(self, epoch: int) -> Epoch:
        stage = 0
        while epoch >= self.plans[stage].epochs:
            epoch -= self.plans[stage].epochs
            stage += 1
        return self.plans[stage].epoch(epoch)

    def _before(self, stage: int) -> int:
        return sum(plan.epochs for plan in self.plans[:stage])
