"""The plans of folders that are read one after the other, such as the days of a log, as one plan of a run."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from dist_rec.data.plan import Epoch, Plan


class StagedPlan:
    """All epochs of the first plan, then all of the second, and so on. Steps, epochs and orders as in `Plan`."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.plans = list(plans)
        self.workers = plans[0].workers

    @cached_property
    def ends(self) -> list[int]:
        """Steps of the run that are done when a stage is."""
        return np.cumsum([plan.total for plan in self.plans]).tolist()

    @property
    def total(self) -> int:
        return self.ends[-1]

    @property
    def steps(self) -> int:
        """Of an epoch of all stages."""
        return sum(plan.steps for plan in self.plans)

    @property
    def empty_share(self) -> float:
        """The mean over the steps, see `Plan`."""
        return sum(plan.empty_share * plan.steps for plan in self.plans) / self.steps

    def locate(self, step: int) -> tuple[int, int]:
        """The number of the epoch that a step of the run lies in, and its place there."""
        stage = int(np.searchsorted(self.ends, step, side="right"))
        number, place = self.plans[stage].locate(step - (self.ends[stage - 1] if stage else 0))
        return self._before(stage) + number, place

    def epoch(self, number: int) -> Epoch:
        stage = 0
        while number >= self.plans[stage].epochs:
            number -= self.plans[stage].epochs
            stage += 1
        return self.plans[stage].epoch(number)

    def _before(self, stage: int) -> int:
        return sum(plan.epochs for plan in self.plans[:stage])
