"""Forms of one recipe side by side: a reader worker and a training step of each, in turns, in processor time.

One rank on a CPU. A step is timed on batches that are there."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dist_rec.config import Config, load_config
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.reader import RequestReader
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training.pipeline import make_optimizer, plan_model, shard_model, teach_by_version
from dist_rec.training.ranks import Ranks
from dist_rec.training.splits import dataset_schema, open_split

RECIPE = Path(__file__).parents[1] / "launch" / "recipes" / "quickstart.yaml"


@dataclass
class Form:
    """A recipe with its reader, batches and sharded model."""

    reader: RequestReader
    batches: list[HostBatch]
    model: torch.nn.Module
    optimizer: HybridOptimizer

    @classmethod
    def of(cls, config: Config, ranks: Ranks, count: int) -> "Form":
        schema = dataset_schema(config)
        reader = open_split(config, schema, ranks, ["train"], train=True)
        model, plan = plan_model(schema, config, ranks)
        dmp = shard_model(model, plan, config, ranks)
        optimizer = make_optimizer(dmp, config.optim, 1_000_000, ranks)
        teach_by_version(model, optimizer)
        return cls(reader, list(islice(reader, count)), dmp, optimizer)

    def read(self) -> None:
        """Reads as many batches as there are."""
        for _ in islice(self.reader, len(self.batches)):
            pass

    def steps(self) -> None:
        """A step on every batch, with its copy."""
        for batch in self.batches:
            self.optimizer.zero_grad()
            loss, _ = self.model(batch.to(torch.device("cpu")))
            loss.backward()
            self.optimizer.step()


def quickstart(data: Path, changes: dict[str, Any]) -> Config:
    """The recipe `quickstart` on other data, with changes of its section `data`."""
    tree: dict[str, Any] = load_config(RECIPE, [f"data.path={data}"]).model_dump()
    tree["data"] |= changes
    return Config.model_validate(tree)


def in_turns(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of the processor, of all rounds; every other round in the reverse order."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-1, rounds):
        for name in list(calls)[:: 1 if number % 2 else -1]:
            started = time.process_time()
            calls[name]()
            if number >= 0:  # the first round warms up
                found[name].append(time.process_time() - started)
    return found


def spread(values: np.ndarray, digits: int) -> str:
    """p20 / p50 / p80"""
    return " / ".join(f"{value:.{digits}f}" for value in np.percentile(values, [20, 50, 80]))
