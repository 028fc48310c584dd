"""The steps of a run whose batch size changed on the way: no row twice, none left out."""

from functools import cached_property

import numpy as np

from dist_rec.common.strict import ConfigError
from dist_rec.data.plan import Epoch, RowEpoch, RowPlan, Steps, in_turn
from dist_rec.data.stages import StagedPlan


class RecutPlan:
    """A plan up to step `at`; then what is left of that epoch in batches of the plan `after`, from the same lanes; then
    the later epochs as `after` has them. Both plans are of the same rows, ranks, workers and seed. Steps before `at`
    are not asked for any more.

    Raises ConfigError in the middle of an epoch whose batches were cut by events, which have no places in a lane."""

    def __init__(self, before: Steps, at: int, after: Steps) -> None:
        self.after, self.at, self.workers = after, at, after.workers
        self._number, done = before.locate(at) if at < before.total else (before.epochs, 0)
        self._rest: RowEpoch | None = None
        epoch = before.epoch(self._number) if at < before.total else None
        if done or (isinstance(epoch, RowEpoch) and epoch.begin.any()):  # its first steps may lie before `before`
            if not isinstance(epoch, RowEpoch) or not isinstance(after, RowPlan):
                raise ConfigError(
                    f"data.batch_events: batches by events cannot be cut anew after step {at}, in the middle of an "
                    f"epoch; expected the same value as before, or a checkpoint of an epoch's end"
                )
            self._rest = _rest(epoch, done, after)

    @property
    def epochs(self) -> int:
        """Of the run."""
        return self.after.epochs

    @cached_property
    def _rest_end(self) -> int:
        return self.at + (0 if self._rest is None else len(self._rest.slot))

    @property
    def _first_after(self) -> int:
        """Number of the first epoch that is as `after` has it."""
        return self._number + (self._rest is not None)

    @property
    def steps(self) -> int:
        """Of the later epochs."""
        return self.after.steps

    @property
    def total(self) -> int:
        return self._rest_end + (self.epochs - self._first_after) * self.after.steps

    @property
    def ends(self) -> list[int]:
        return [self.total]

    @property
    def empty_share(self) -> float:
        return self.after.empty_share

    def epoch_end(self, step: int) -> int:
        if step < self._rest_end:
            return self._rest_end
        return step + self.after.steps - (step - self._rest_end) % self.after.steps

    def locate(self, step: int) -> tuple[int, int]:
        if step < self.at:
            raise IndexError(f"step {step} lies before the batch size changed, at step {self.at}")
        if step < self._rest_end:
            return self._number, step - self.at
        number, place = divmod(step - self._rest_end, self.after.steps)
        return self._first_after + number, place

    def epoch(self, epoch: int) -> Epoch:
        if self._rest is not None and epoch == self._number:
            return self._rest
        return self.after.epoch(epoch)


def recut(before: Steps, at: int, after: Steps) -> Steps:
    """As a `RecutPlan`; of stages, the one that step `at` lies in is cut anew, and later ones are those of `after`."""
    if not isinstance(before, StagedPlan) or not isinstance(after, StagedPlan):
        return RecutPlan(before, at, after)
    stage = min(before.stage_of(at), len(before.plans) - 1)
    anew = RecutPlan(before.plans[stage], at - before.start_of(stage), after.plans[stage])
    return StagedPlan([*before.plans[:stage], anew, *after.plans[stage + 1 :]])


def _rest(epoch: RowEpoch, done: int, after: RowPlan) -> RowEpoch:
    """What the steps of an epoch from number `done` on have, in batches of `after.most` rows."""
    begin = epoch.begin.copy()
    np.maximum.at(begin, epoch.slot[:done], (epoch.first + epoch.count)[:done])
    rows = np.maximum(after.longest(epoch.lanes) - begin, 0)
    turn, slot = in_turn(-(-rows // after.most))
    return RowEpoch(epoch.lanes, slot, begin, begin[slot] + turn * after.most, np.full(len(slot), after.most))
