"""Which weights are tested, and when to stop: the validations so far. Its state is part of a checkpoint."""

import math

from pydantic import BaseModel

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.training.metrics import TaskMetrics


class SelectionState(BaseModel):
    """- `best`: the best score so far, higher is better; -inf before the first validation
    - `since_best`: validations since then
    - `valid`: metrics by task of the weights that would be tested
    """

    best: float
    since_best: int
    valid: dict[str, TaskMetrics]


class Selection:
    """Compares validations by the first task, as `run.select_best` says; without it the last weights are the chosen
    ones."""

    def __init__(self, config: Config) -> None:
        self._by, self._patience = config.run.select_best, config.run.patience
        self.state = SelectionState(best=-math.inf, since_best=0, valid={})

    @property
    def keeps_best(self) -> bool:
        return self._by != "none"

    @property
    def has_best(self) -> bool:
        return self.keeps_best and bool(self.state.valid)

    @property
    def is_exhausted(self) -> bool:
        """Whether as many validations as `run.patience` brought nothing better."""
        return 0 < self._patience <= self.state.since_best

    def is_better(self, metrics: dict[str, TaskMetrics]) -> bool:
        """Notes a validation; whether its weights are now the chosen ones."""
        if not self.keeps_best:
            self.state = self.state.model_copy(update={"valid": metrics})
            return False
        first = next(iter(metrics.values()))
        first = first.strata.get("retain", first)  # what the filter is for
        score = first.auc if self._by == "auc" else -first.logloss
        # The first is chosen even if its score is NaN, as with labels of one class.
        if not self.state.valid or score > self.state.best:
            best = self.state.best if math.isnan(score) else score
            self.state = SelectionState(best=best, since_best=0, valid=metrics)
            return True
        self.state = self.state.model_copy(update={"since_best": self.state.since_best + 1})
        return False


def check_selection(config: Config) -> None:
    """Raises ConfigError if the recipe chooses weights by a validation split that it does not have, or would save while
    gradients are being accumulated."""
    every, per_update = config.checkpoint.every_steps, config.optim.accumulation_steps
    if every % per_update:
        raise ConfigError(f"checkpoint.every_steps={every} must be a multiple of optim.accumulation_steps={per_update}")
    if config.run.select_best != "none" and not config.data.valid:
        raise ConfigError(f"run.select_best={config.run.select_best} needs data.valid, got none")
