"""What n-grams cost: a training step, its bytes to the device, and a reader worker, with them and without, in turns.

One rank on a CPU, the recipe `quickstart` on synthetic data. A step is timed on batches that are there."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from dist_rec.config import Config, load_config
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.reader import RequestReader
from dist_rec.data.synthetic.history import SynthConfig, synthesize
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training.pipeline import make_optimizer, plan_model, shard_model
from dist_rec.training.ranks import Ranks, start_ranks
from dist_rec.training.splits import dataset_schema, open_split

RECIPE = Path(__file__).parents[2] / "launch" / "recipes" / "quickstart.yaml"
REQUESTS, BATCHES, ROUNDS = 2_000, 12, 7
SPEC = {"orders": [2, 3], "heads": 2, "rows": 200_000}
FORMS: dict[str, dict[str, Any]] = {
    "none": {},
    "history.category": {"ngram": {"history.category": SPEC}},
    "history.item": {"ngram": {"history.item": SPEC}},
    "history.item, hashed after the copy": {"ngram": {"history.item": SPEC}, "hash_ngrams": "device"},
}


@dataclass
class Form:
    """A recipe with its reader, batches and sharded model."""

    reader: RequestReader
    batches: list[HostBatch]
    model: torch.nn.Module
    optimizer: HybridOptimizer

    def read(self) -> None:
        """Reads as many batches as a round has."""
        for _ in islice(self.reader, BATCHES):
            pass

    def steps(self) -> None:
        """A step on every batch, with its copy."""
        for batch in self.batches:
            self.optimizer.zero_grad()
            loss, _ = self.model(batch.to(torch.device("cpu")))
            loss.backward()
            self.optimizer.step()


def page() -> Iterator[str]:
    """Lines of the tables."""
    with TemporaryDirectory() as place:
        data = Path(place) / "data"
        synthesize(data, SynthConfig(requests=REQUESTS))
        configs = {name: _config(data, form) for name, form in FORMS.items()}
        with start_ranks(configs["none"].parallel) as ranks:
            forms = {name: _form(config, ranks) for name, config in configs.items()}
            events = sum(batch.num_events for batch in forms["none"].batches)
            read = _in_turns({name: form.read for name, form in forms.items()})
            step = _in_turns({name: form.steps for name, form in forms.items()})
    yield (
        f"{BATCHES} batches of 32 requests, {events / BATCHES:,.0f} events; {SPEC['rows']:,} rows of each"
        f" of 4 sub-tables. Processor time, p20 / p50 / p80 of {ROUNDS} rounds in turns; ratios round by round."
    )
    yield from (
        "",
        "| n-grams of | ms per step | ratio | M events/s of a reader worker | ratio | KiB to the device | ids / row |",
    )
    yield "|---|---|---|---|---|---|---|"
    for name, form in forms.items():
        rate = events / np.array(read[name]) / 1e6
        sent = sum(batch.nbytes for batch in form.batches) / BATCHES / 1024
        use = [use.dedup_factor for use in form.batches[0].ngram_use.values()]
        yield (
            f"| {name} | {_spread(1e3 * np.array(step[name]) / BATCHES, 1)} "
            f"| {_spread(np.array(step[name]) / np.array(step['none']), 2)} | {_spread(rate, 2)} "
            f"| {_spread(np.array(read['none']) / np.array(read[name]), 2)} | {sent:,.1f} "
            f"| {', '.join(f'{factor:.2f}' for factor in use)} |"
        )


def _config(data: Path, form: dict[str, Any]) -> Config:
    tree: dict[str, Any] = load_config(RECIPE, [f"data.path={data}"]).model_dump()
    tree["data"] |= form
    return Config.model_validate(tree)


def _form(config: Config, ranks: Ranks) -> Form:
    schema = dataset_schema(config)
    reader = open_split(config, schema, ranks, ["train"], train=True)
    model, plan = plan_model(schema, config, ranks)
    dmp = shard_model(model, plan, config, ranks)
    optimizer = make_optimizer(dmp, config.optim, 1_000_000, ranks)
    return Form(reader, list(islice(reader, BATCHES)), dmp, optimizer)


def _in_turns(calls: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Seconds of the processor, of all rounds; every other round in the reverse order."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-1, ROUNDS):
        for name in list(calls)[:: 1 if number % 2 else -1]:
            started = time.process_time()
            calls[name]()
            if number >= 0:  # the first round warms up
                found[name].append(time.process_time() - started)
    return found


def _spread(values: np.ndarray, digits: int) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in np.percentile(values, [20, 50, 80]))
