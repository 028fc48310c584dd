"""Steps of the real product at given shapes, and their processor time.

Data are made in memory; one rank, one thread. Legend: B requests, L events of each, C candidates.
"""

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from dist_rec.config import Config
from dist_rec.cost.requests import Described, Requests, described
from dist_rec.cost.stages import StepCount, count_on_cpu
from dist_rec.cost.steps import TrainingSteps
from dist_rec.data.schema import Schema
from dist_rec.training.ranks import Ranks

SCHEMA = Schema.model_validate(
    {
        "name": "cost",
        "tables": {"item": 200_000, "category": 500, "user": 20_000},
        "request": {"grouping_key": "user", "time": "time"},
        "context": ["user"],
        "sequences": [{"name": "history", "ids": ["item", "category"], "side": {"action": 4}, "time": True}],
        "candidate": {"ids": ["item", "category"], "labels": ["click"]},
    }
)


@dataclass(frozen=True)
class Cell:
    """One shape: `merge` above 1 is with InnerTrans; `duplicates` is a share of the tokens of a batch."""

    length: int = 400
    width: int = 32
    merge: int = 1
    candidates: int = 4
    requests: int = 32
    duplicates: float = 0.75
    k: int = 16

    def config(self) -> Config:
        """LONGER as in the quickstart, with AdamW."""
        longer = {"merge": self.merge, "inner_trans": self.merge > 1, "k": self.k, "heads": 4}
        model = {"tokens": {"width": self.width, "hidden": 2 * self.width}, "longer": longer, "head": {"hidden": [128]}}
        data = {"path": "nowhere", "batch_size": self.requests, "workers": 0}
        return Config.model_validate({"data": data, "model": model})

    def of_requests(self) -> Requests:
        shape = Described(length=self.length, candidates=self.candidates, duplicates=self.duplicates)
        return described(SCHEMA, self.requests, None, shape)

    @property
    def events(self) -> int:
        return self.requests * self.length


class Running:
    """A cell whose pipeline is full and stays so."""

    def __init__(self, cell: Cell, ranks: Ranks) -> None:
        self.cell = cell
        self._steps = TrainingSteps.of(cell.config(), SCHEMA, ranks)
        self._running: Iterator[None] = self._steps.run(repeat(cell.of_requests().batch(SCHEMA)))
        for _ in range(3):
            next(self._running)

    def block_s(self, seconds: float) -> float:
        """Processor seconds of a step, over steps of about so many seconds, at least one."""
        started, steps = time.process_time(), 0
        while not steps or time.process_time() - started < seconds:
            next(self._running)
            steps += 1
        return (time.process_time() - started) / steps


def measure(cells: list[Cell], ranks: Ranks, *, blocks: int, block_s: float) -> dict[Cell, float]:
    """Median processor seconds of a step of every cell, over blocks in turns."""
    running = [Running(cell, ranks) for cell in cells]
    # The collector would look through the modules of all cells in the steps of each.
    gc.collect()
    gc.freeze()
    try:
        found = [[each.block_s(block_s) for each in running] for _ in range(blocks)]
    finally:
        gc.unfreeze()
    return dict(zip(cells, np.median(found, axis=0).tolist(), strict=True))


def count(cell: Cell, ranks: Ranks) -> StepCount:
    """From steps of a few of its requests."""
    return count_on_cpu(cell.config(), SCHEMA, cell.of_requests(), ranks)


# A step in which nothing costs much but being launched.
SMALL = Cell(length=8, width=8, requests=2, candidates=1, k=4)


def launch_s(small_s: float, ranks: Ranks) -> float:
    """Seconds of an operator that does next to nothing, with its share of Python, autograd and TorchRec, from the
    seconds of a step of `SMALL`."""
    return small_s / len(count(SMALL, ranks).operators)
