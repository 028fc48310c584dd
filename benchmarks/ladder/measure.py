"""Two gloo ranks train every row in turns, block by block, and time each block. `measure` starts them; torchrun runs
this file on each.

A block is one pass over the same requests. Batches are made before, since their making is timed apart. Rows whose block
takes much longer than that of others take part in some of the rounds only.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.ladder.cell import RANKS, Cell, read_requests, write_data
from benchmarks.ladder.jobs import Job, Start
from benchmarks.ladder.memory import growth
from benchmarks.ladder.rows import ROWS
from dist_rec.config import ParallelConfig
from dist_rec.training.ranks import Ranks, start_ranks

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = "sync"  # dist_rec's model, whose logits every row must have
TOLERANCE, HALF_TOLERANCE = 3e-6, 0.05  # of the largest logit, in fp32 and bf16
MOST_TIMES = 4.0  # a block that takes so many times the median row's is measured in fewer rounds
FEWEST_ROUNDS = 2


def measure(cell: Cell, rows: list[str], rounds: int) -> dict[str, Any]:
    """What each row took. Raises CalledProcessError if a rank fails, such as by a row with other logits."""
    cell.check()
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "found.json"
        write_data(cell, data)
        spec = json.dumps({"cell": asdict(cell), "rows": rows, "rounds": rounds, "data": str(data), "out": str(out)})
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS), "--standalone"]
        subprocess.run([*command, "-m", "benchmarks.ladder.measure", spec], cwd=ROOT, check=True)
        return json.loads(out.read_text())


def main(spec: dict[str, Any]) -> None:
    """On every rank."""
    cell, data = Cell(**spec["cell"]), Path(spec["data"])
    with start_ranks(ParallelConfig(backend="gloo")) as ranks:
        requests, schema = read_requests(cell, data, "train", RANKS * cell.requests)
        mine = requests.take(np.arange(ranks.rank, requests.num_rows, RANKS))
        start = Start.of(cell, data, ranks, schema, mine)
        jobs = {name: Job(ROWS[name], start) for name in spec["rows"]}
        errors = check_logits(jobs, start)
        rows = Rounds(jobs, ranks).run(spec["rounds"])
        for name, job in jobs.items():
            peak = growth(lambda job=job: [*job.train(job.batches[:1])])
            nbytes, collate, most = ranks.total(job.nbytes, job.collate_ms, peak or 0.0)
            rows[name] |= {
                "name": job.row.name,
                "bytes": nbytes / RANKS,
                "collate_ms": collate / RANKS,
                "peak": None if peak is None else most / RANKS,
                "error": errors[name],
            }
        (events,) = ranks.total(start.lengths.sum())
        if ranks.is_main:
            found = {"samples": RANKS * cell.requests * cell.candidates, "events": events, "rows": rows}
            Path(spec["out"]).write_text(json.dumps(found))


def check_logits(jobs: dict[str, Job], start: Start) -> dict[str, float]:
    """Row -> how far its logits are from dist_rec's before training, relative to the largest.

    Raises ValueError for one that is farther than rounding explains. Comm: the all-to-alls of one batch per row."""
    first = [np.arange(start.cell.batch)]
    reference = jobs[REFERENCE] if REFERENCE in jobs else Job(ROWS[REFERENCE], start)
    expected = reference.logits(reference.collated(first)[0])
    found = {name: _distance(job.logits(job.collated(first)[0]), expected) for name, job in jobs.items()}
    for name, distance in found.items():
        half = any("bf16" in setting for setting in jobs[name].row.recipe)
        if not distance <= (limit := HALF_TOLERANCE if half else TOLERANCE):
            raise ValueError(
                f"row {name} ({jobs[name].row.name}): expected the logits of dist_rec's model within {limit:.0e} of "
                f"the largest, got {distance:.1e}: it is another model, and its times say nothing"
            )
    return found


def _distance(logits: Tensor, expected: Tensor) -> float:
    return float((logits - expected).abs().max() / expected.abs().max())


class Rounds:
    """Blocks of all rows in turns."""

    def __init__(self, jobs: dict[str, Job], ranks: Ranks) -> None:
        self.jobs, self.ranks = jobs, ranks

    def run(self, rounds: int) -> dict[str, dict[str, Any]]:
        """Row -> milliseconds per step of each of its rounds: `processor` (mean of the ranks), `wall`; `rounds` are
        their numbers. The first block of a row warms up."""
        warm = {name: self._block(job)["wall"] for name, job in self.jobs.items()}
        # Rank 0 decides for all: the order of collectives must be the same.
        every = self._every(warm, rounds)
        found: dict[str, dict[str, Any]] = {name: {"rounds": [], "processor": [], "wall": []} for name in self.jobs}
        for number in range(rounds):
            started = time.perf_counter()
            order = [*self.jobs][:: 1 if number % 2 else -1]
            for name in (name for name in order if number % every[name] == 0):
                for key, value in ({"rounds": number} | self._block(self.jobs[name])).items():
                    found[name][key].append(value)
            if self.ranks.is_main:
                print(
                    f"round {number + 1}/{rounds}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True
                )
        return found

    def _every(self, warm: dict[str, float], rounds: int) -> dict[str, int]:
        most = max(1, (rounds - 1) // (FEWEST_ROUNDS - 1) if rounds > 1 else 1)
        usual = float(np.median([*warm.values()])) * MOST_TIMES
        return {name: int(np.clip(np.ceil(took / usual), 1, most)) for name, took in warm.items()}

    def _block(self, job: Job) -> dict[str, float]:
        """Milliseconds per step, the same numbers on every rank."""
        self.ranks.barrier()
        wall, processor = time.perf_counter(), time.process_time()
        for _ in job.train(job.batches):
            pass
        processor = time.process_time() - processor
        self.ranks.barrier()
        wall = time.perf_counter() - wall
        (both,), (slowest,) = self.ranks.total(processor), self.ranks.largest(wall)
        steps = len(job.batches)
        return {"processor": 1e3 * both / RANKS / steps, "wall": 1e3 * slowest / steps}


if __name__ == "__main__":
    import logging
    import warnings

    logging.disable()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    main(json.loads(sys.argv[1]))
