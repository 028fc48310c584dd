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
from dist_rec.data.schema_file import load_schema
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
RANKS, REQUESTS = 2, 32
KINDS = ("requests", "events")
PARTS = (20, 50, 80)  # percentiles


def train(data: Path, rounds: int) -> list[str]:
    """One line per kind of batches, and below them the ratios of the pairs of blocks."""
    blocks = _blocks(data, rounds)
    of_kind = {kind: [block for block in blocks if block["kind"] == kind] for kind in KINDS}
    lines = [
        "| batches by | steps of a block | K events/s, p20 / p50 / p80 of the blocks | blocks "
        "| processor s of both ranks | of the slower rank of every step |",
        "|---" * 6 + "|",
    ]
    for kind, mine in of_kind.items():
        rate = " / ".join(f"{x:.1f}" for x in np.percentile([of["events"] / of["wall"] / 1e3 for of in mine], PARTS))
        both, slower = (float(np.median([of[name] for of in mine])) for name in ("processor", "slower"))
        lines.append(f"| {kind} | {mine[0]['steps']} | {rate} | {len(mine)} | {both:.2f} | {slower:.2f} |")
    lines += ["", "By requests / by events, p20 / p50 / p80 of the pairs of blocks:", ""]
    for name, said in (
        ("wall", "wall time"),
        ("slower", "processor time of the slower rank of every step, which is the wall time where each has its cores"),
        ("processor", "processor time of both ranks"),
        ("largest", "events of the larger rank of every step"),
    ):
        ratios = [by_requests[name] / by_events[name] for by_requests, by_events in zip(*of_kind.values(), strict=True)]
        lines.append(f"- {said}: {' / '.join(f'{ratio:.3f}' for ratio in np.percentile(ratios, PARTS))}")
    return lines


def _blocks(data: Path, rounds: int) -> list[dict[str, Any]]:
    """Every timed block in order: kind, steps, events and processor seconds of both ranks, wall seconds, and added up
    over the steps the events of the larger rank and the processor seconds of the slower one."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "blocks.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS), "--standalone"]
        command += ["-m", "benchmarks.batches.training", str(data), str(rounds), str(out)]
        subprocess.run(command, cwd=ROOT, check=True)
        return json.loads(out.read_text())


def main(data: Path, rounds: int, out: Path) -> None:
    """On every rank."""
    config = load_config(
        RECIPE,
        [
            f"data.path={data}",
            "optim.dense_update=sync",
            "optim.optimizer=adamw",
            "model.longer.merge=4",
            "model.longer.inner_trans=true",
        ],
    )
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
                started = time.perf_counter()
                clock = [time.process_time()]
                for _ in run_through(pipeline, CountedBatches(iter(batches[kind]), ranks)):  # pyright: ignore[reportArgumentType]
                    clock.append(time.process_time())
                ranks.barrier()
                wall = time.perf_counter() - started
                if number < 0:  # the first of each kind warms up
                    continue
                seconds, held = np.diff(clock), [batch.num_events for batch in batches[kind]]
                events, processor = ranks.total(sum(held), seconds.sum())
                slower, largest = (sum(ranks.largest(*of_steps)) for of_steps in (seconds, held))
                names = ("kind", "steps", "events", "wall", "processor", "slower", "largest")
                found.append(dict(zip(names, (kind, len(held), events, wall, processor, slower, largest))))
        if ranks.is_main:
            out.write_text(json.dumps(found))


def _epoch(data: Path, ranks: Ranks, kind: str) -> list[Any]:
    reader = make_reader(data, load_schema(data), ranks.rank, ranks.world_size, REQUESTS, by_events=kind == "events")
    return list(islice(reader, reader.steps_per_epoch(0)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
