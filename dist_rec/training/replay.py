"""`dist-rec replay`: one step of a run again, on one rank, and what in it is not finite."""

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from dist_rec.common.strict import ConfigError
from dist_rec.config import load_config
from dist_rec.training.checkpoint import load_position
from dist_rec.training.kept import newest_first
from dist_rec.training.manifest import Manifest
from dist_rec.training.nonfinite import rows_told
from dist_rec.training.pipeline import CountedBatches, make_pipeline, run_through
from dist_rec.training.ranks import Ranks
from dist_rec.training.run_log import RunLog
from dist_rec.training.setup import Run, open_run
from dist_rec.training.splits import reader_workers

MOST_NAMES = 8


def checkpoint_before(folder: Path, step: int) -> Path:
    """The newest checkpoint of a run to go on from that was saved before this step.

    Raises ConfigError if there is none."""
    found = newest_first(folder / "checkpoints")
    before = [path for path in found if Manifest.read(path).step < step]
    if step < 1 or not before:
        there = ", ".join(f"step {Manifest.read(path).step}" for path in found) or "none"
        raise ConfigError(
            f"{folder}: expected a checkpoint of before step {step}, got {there}; checkpoints are made by "
            "checkpoint.every_steps"
        )
    return before[0]


def replay(folder: Path, step: int, ranks: Ranks) -> Iterator[str]:
    """Trains from the checkpoint before to the step, then makes the forward pass of its whole batch, of all ranks that
    the run had; lines about what it has.

    Raises ConfigError for a folder that is no run, or one without a checkpoint before the step."""
    config = load_config(folder / "recipe.yaml")
    checkpoint = checkpoint_before(folder, step)
    with tempfile.TemporaryDirectory() as place:
        run = open_run(config, ranks, RunLog(Path(place), is_main=False), checkpoint)
        if step > run.total_steps:
            raise ConfigError(f"--step {step}: the run has {run.total_steps} steps")
        batches = CountedBatches(run.loader, ranks, config.optim.accumulation_steps)
        pipeline = make_pipeline(run.model, run.optimizer, config.embedding, ranks.device)
        done = run.steps_done
        for _ in run_through(pipeline, islice(batches, step - 1 - done)):
            pass
        yield f"from {checkpoint}, after step {done}: {step - 1 - done} steps trained again on one rank"
        yield from _looked_at(run, batches, step)
    if (planned := load_position(checkpoint).data.ranks) != 1:
        yield f"the run had {planned} ranks: sums are in another order here"


@torch.no_grad()
def _looked_at(run: Run, batches: CountedBatches, step: int) -> Iterator[str]:
    broken = [name for name, of in run.model.named_parameters() if not bool(of.isfinite().all())]
    told = ", ".join(broken[:MOST_NAMES]) + (", ..." if len(broken) > MOST_NAMES else "")
    yield f"weights before step {step}: {f'not finite in {told}' if broken else 'all finite'}"
    batch = next(batches).to(run.ranks.device)
    loss, (_, logits, _) = run.model(batch)
    yield f"step {step}: loss {float(loss):.6g} of {len(logits)} candidates in {len(batch.grouping_key)} requests"
    request = batch.candidates.lengths.request
    places = run.reader.rows_at(step - 1, reader_workers(run.config))
    for place, task in enumerate(run.schema.candidate.labels):
        bad = _requests(logits[:, place], request)
        yield f"{task}: logits of {len(bad)} requests are not finite" + _where(bad, places)
    for at in rows_told(places):
        yield f"{at['file']}, row group {at['row_group']}, rows {', '.join(map(str, at['rows']))}"


def _requests(logits: Tensor, request: Tensor) -> list[int]:
    return request[~logits.isfinite()].unique().tolist()


def _where(bad: list[int], places: list) -> str:
    if not bad:
        return ""
    group, row = places[bad[0]]
    return f"; the first one: {group.path}, row group {group.index}, row {row}"
