"""Ranks train every row in turns, block by block, and time each block: one per GPU under NCCL, without a GPU two under
gloo. `measure` starts them; torchrun runs this file on each.

A block is one pass over the requests. On a GPU its batches are drawn anew from them: in training no two batches have
the same number of events, and for a shape that they have not seen a GPU's libraries look for a kernel. Batches are made
before, since their making is timed apart. Rows whose block takes much longer than that of others take part in some of
the rounds only.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import dist_rec
from benchmarks.ladder.cell import RANKS, Cell, read_requests, write_data
from benchmarks.ladder.jobs import Job, Start
from benchmarks.ladder.memory import growth
from benchmarks.ladder.quality import auc_after
from benchmarks.ladder.rows import ROWS
from dist_rec.config import ParallelConfig
from dist_rec.training.ranks import Ranks, start_ranks

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = "sync"  # dist_rec's model, whose logits every row must have
TOLERANCE, HALF_TOLERANCE = 3e-6, 0.05  # of the norm of all logits, in fp32 and bf16
MOST_TIMES = 4.0  # a block that takes so many times the median row's is measured in fewer rounds
FEWEST_ROUNDS = 2
POLL_S = 0.01
ON_GPU = torch.cuda.is_available()


@dataclass(frozen=True)
class Turns:
    """Two process sets, `me` 0 and 1, that run their blocks in turns: a file counts the blocks of both."""

    file: Path
    me: int

    def wait(self) -> None:
        """Until it is this set's turn; on rank 0."""
        while int(self.file.read_text() or 0) % 2 != self.me:
            time.sleep(POLL_S)

    def done(self) -> None:
        count = int(self.file.read_text()) + 1
        made = self.file.with_suffix(f".{self.me}")
        made.write_text(str(count))
        made.replace(self.file)


def measure(cell: Cell, rows: list[str], rounds: int) -> dict[str, Any]:
    """What each row took. Raises RuntimeError if a rank fails, such as by a row with other logits; it says why."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "found.json"
        write_data(cell, data)
        job = start_job(cell, rows, rounds, data, out)
        if job.wait():
            raise RuntimeError(f"{cell.name}: a rank failed, and says above why")
        return json.loads(out.read_text())


def start_job(
    cell: Cell, rows: list[str], rounds: int, data: Path, out: Path, turns: Turns | None = None, root: Path = ROOT
) -> "subprocess.Popen[bytes]":
    """The ranks of one process set, with the dist_rec of `root`; rank 0 writes what `main` found to `out`."""
    spec = {"cell": asdict(cell), "rows": rows, "rounds": rounds, "data": str(data), "out": str(out)}
    if turns is not None:
        spec["turns"] = {"file": str(turns.file), "me": turns.me}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS), "--standalone"]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, "-m", "benchmarks.ladder.measure", json.dumps(spec)], cwd=root, env=environment)


def main(spec: dict[str, Any]) -> None:
    """On every rank."""
    cell, data = Cell(**spec["cell"]), Path(spec["data"])
    assert Path.cwd() in Path(dist_rec.__file__).parents, f"expected the dist_rec of {Path.cwd()}"
    turns = Turns(Path(spec["turns"]["file"]), spec["turns"]["me"]) if "turns" in spec else None
    with start_ranks(ParallelConfig(backend="nccl" if ON_GPU else "gloo")) as ranks:
        requests, schema = read_requests(cell, data, "train", RANKS * cell.most_requests)
        mine = requests.take(np.arange(ranks.rank, requests.num_rows, RANKS))
        whole = Start.of(cell, data, ranks, schema, mine)
        start = replace(whole, requests=mine.slice(0, cell.requests).combine_chunks())
        quality = {name: auc_after(ROWS[name], whole) for name in spec["rows"]} if cell.auc_steps else {}
        jobs = {name: Job(ROWS[name], start) for name in spec["rows"]}
        errors = check_logits(jobs, start)
        found = Rounds(jobs, ranks, turns).run(spec["rounds"])
        for name, job in jobs.items():
            found[name] |= {"name": job.row.name, "error": errors[name], "auc": quality.get(name)}
            found[name] |= _sizes(job, ranks)
        (events,) = ranks.total(start.lengths.sum())
        if ranks.is_main:
            samples = RANKS * cell.requests * cell.candidates
            clock = "wall" if ON_GPU else "processor"
            whole_block = {"clock": clock, "samples": samples, "events": events, "rows": found}
            Path(spec["out"]).write_text(json.dumps(whole_block))


def _sizes(job: Job, ranks: Ranks) -> dict[str, Any]:
    """Of a batch and a step on one rank, in the mean: `bytes`, `collate_ms`, and `peak` bytes or None."""
    peak = growth(lambda: [*job.train(job.batches[:1])])
    nbytes, collate_ms, most = (of / RANKS for of in ranks.total(job.nbytes, job.collate_ms, peak or 0.0))
    return {"bytes": nbytes, "collate_ms": collate_ms, "peak": None if peak is None else most}


def check_logits(jobs: dict[str, Job], start: Start) -> dict[str, float]:
    """Row -> how far its logits are from dist_rec's before training, on the rank where they are farthest.

    Raises ValueError, on every rank, for a row that is farther than rounding explains. Comm: the all-to-alls of one
    batch per row, and one host all-reduce."""
    first = [np.arange(start.cell.batch)]
    reference = jobs[REFERENCE] if REFERENCE in jobs else Job(ROWS[REFERENCE], start)
    expected, _ = reference.predict(reference.collated(first)[0])
    here = [_distance(job.predict(job.collated(first)[0])[0], expected) for job in jobs.values()]
    found = dict(zip(jobs, start.ranks.largest(*here)))
    for name, distance in found.items():
        half = ON_GPU or any("bf16" in setting for setting in (*jobs[name].row.recipe, *start.cell.settings))
        if not distance <= (limit := HALF_TOLERANCE if half else TOLERANCE):
            raise ValueError(
                f"row {name} ({jobs[name].row.name}): expected the logits of dist_rec's model within {limit:.0e}, got "
                f"{distance:.1e}: it is another model, and its times say nothing"
            )
    return found


def _distance(logits: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to the norm."""
    return float((logits - expected).norm() / expected.norm())


class Rounds:
    """Blocks of all rows in turns."""

    def __init__(self, jobs: dict[str, Job], ranks: Ranks, turns: Turns | None = None) -> None:
        self.jobs, self.ranks, self.turns = jobs, ranks, turns

    def run(self, rounds: int) -> dict[str, dict[str, Any]]:
        """Row -> milliseconds per step of each of its rounds: `processor` (mean of the ranks), `wall`; `rounds` are
        their numbers. The first block of a row warms up."""
        warm = {name: self._block(job, rounds)["wall"] for name, job in self.jobs.items()}
        every = self._every(warm, rounds)
        found: dict[str, dict[str, Any]] = {name: {"rounds": [], "processor": [], "wall": []} for name in self.jobs}
        for number in range(rounds):
            started = time.perf_counter()
            order = [*self.jobs][:: 1 if number % 2 else -1]
            for name in (name for name in order if number % every[name] == 0):
                for key, value in ({"rounds": number} | self._block(self.jobs[name], number)).items():
                    found[name][key].append(value)
            if self.ranks.is_main:
                print(
                    f"round {number + 1}/{rounds}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True
                )
        return found

    def _every(self, warm: dict[str, float], rounds: int) -> dict[str, int]:
        if self.turns is not None:  # both sets take the same turns
            return dict.fromkeys(warm, 1)
        most = max(1, (rounds - 1) // (FEWEST_ROUNDS - 1))
        usual = float(np.median([*warm.values()])) * MOST_TIMES
        return {name: int(np.clip(np.ceil(took / usual), 1, most)) for name, took in warm.items()}

    def _block(self, job: Job, number: int) -> dict[str, float]:
        """Milliseconds per step, the same numbers on every rank, so that all decide alike on them."""
        if ON_GPU:
            job.draw(number)
        if self.turns is not None and self.ranks.is_main:
            self.turns.wait()
        self._meet()
        wall, processor = time.perf_counter(), time.process_time()
        for _ in job.train(job.batches):
            pass
        processor = time.process_time() - processor
        self._meet()
        wall = time.perf_counter() - wall
        (both,), (slowest,) = self.ranks.total(processor), self.ranks.largest(wall)
        if self.turns is not None and self.ranks.is_main:
            self.turns.done()
        steps = len(job.batches)
        return {"processor": 1e3 * both / RANKS / steps, "wall": 1e3 * slowest / steps}

    def _meet(self) -> None:
        if ON_GPU:
            torch.cuda.synchronize()
        self.ranks.barrier()


if __name__ == "__main__":
    logging.disable()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    main(json.loads(sys.argv[1]))
