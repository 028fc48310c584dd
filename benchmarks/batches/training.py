"""Two gloo ranks train the same model with batches by requests and by events, in turns, and time each block.

`train` starts the ranks; torchrun runs this file on each. Batches are made before, so that their input is not timed. A
block is one epoch: both kinds have the same events in it."""

import json
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.batches.spread import make_reader
from dist_rec.config import load_config
from dist_rec.data.schema import load_schema
from dist_rec.training.pipeline import (
    CountedBatches,
    make_optimizer,
    make_pipeline,
    plan_model,
    run_through,
    shard_model,
)
from dist_rec.training.ranks import Ranks, start_ranks

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "launch" / "recipes" / "quickstart.yaml"
RANKS, REQUESTS = 2, 16
KINDS = ("requests", "events")


def train(data: Path, rounds: int) -> list[str]:
    """One line per kind of batches: events per second, and processor time per event of both ranks."""
    lines = [
        "| batches by | steps of a block | K events/s, p20 / p50 / p80 of the blocks | blocks "
        "| processor time per K events, ms | throughput by events / by requests, p20 / p50 / p80 of the pairs |",
        "|---" * 6 + "|",
    ]
    blocks = _blocks(data, rounds)
    rates = {kind: np.array([of["events"] / of["wall"] for of in blocks if of["kind"] == kind]) for kind in KINDS}
    pairs = rates["events"] / rates["requests"]
    for kind in KINDS:
        mine = [of for of in blocks if of["kind"] == kind]
        rate = " / ".join(f"{value / 1e3:.1f}" for value in np.percentile(rates[kind], [20, 50, 80]))
        processor = np.median([1e6 * of["processor"] / of["events"] for of in mine])
        ratio = " / ".join(f"{value:.3f}" for value in np.percentile(pairs, [20, 50, 80])) if kind == "events" else ""
        lines.append(f"| {kind} | {mine[0]['steps']} | {rate} | {len(mine)} | {processor:.1f} | {ratio} |")
    largest = {kind: next(of["largest"] for of in blocks if of["kind"] == kind) for kind in KINDS}
    lines += ["", f"By the sum of the largest ranks' events: {largest['requests'] / largest['events']:.3f}."]
    return lines


def _blocks(data: Path, rounds: int) -> list[dict[str, Any]]:
    """Every timed block in order: kind, steps, events and processor seconds of both ranks, wall seconds, and the events
    of the largest rank of every step, added up."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "blocks.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS), "--standalone"]
        command += ["-m", "benchmarks.batches.training", str(data), str(rounds), str(out)]
        subprocess.run(command, cwd=ROOT, check=True)
        return json.loads(out.read_text())


def main(data: Path, rounds: int, out: Path) -> None:
    """On every rank."""
    config = load_config(RECIPE, [f"data.path={data}", "optim.dense_update=sync"])
    schema = load_schema(data)
    with start_ranks(config.parallel) as ranks:
        batches = {kind: _epoch(data, ranks, kind) for kind in KINDS}
        model, plan = plan_model(schema, config, ranks)
        dmp = shard_model(model, plan, config, ranks)
        optimizer = make_optimizer(dmp, config.optim, 10**6, ranks)
        pipeline = make_pipeline(dmp, optimizer, config.embedding, ranks.device)
        found = []
        for number in range(-1, rounds):
            for kind in KINDS if number % 2 else KINDS[::-1]:
                ranks.barrier()
                wall, processor = time.perf_counter(), time.process_time()
                steps = sum(1 for _ in run_through(pipeline, CountedBatches(iter(batches[kind]), ranks)))  # pyright: ignore[reportArgumentType]
                processor = time.process_time() - processor
                ranks.barrier()
                wall = time.perf_counter() - wall
                of_steps = [batch.num_events for batch in batches[kind]]
                largest = sum(ranks.largest(*of_steps))
                events, processor = ranks.total(sum(of_steps), processor)
                if number >= 0:  # the first of each kind warms up
                    found.append(
                        {
                            "kind": kind,
                            "steps": steps,
                            "events": events,
                            "wall": wall,
                            "processor": processor,
                            "largest": largest,
                        }
                    )
        if ranks.is_main:
            out.write_text(json.dumps(found))


def _epoch(data: Path, ranks: Ranks, kind: str) -> list[Any]:
    reader = make_reader(data, load_schema(data), ranks.rank, ranks.world_size, REQUESTS, by_events=kind == "events")
    return list(islice(reader, reader.steps_per_epoch(0)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
