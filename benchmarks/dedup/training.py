"""A training run with dedup and without: the same losses, and the time of a step, in turns.

Sums are the same up to their order, so losses differ by rounding, which training then amplifies. How fast it does is
shown by a control: the run with dedup again, with another summation order in the matrix products alone
(MKL_CBWR=COMPATIBLE)."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

RECIPE = "launch/recipes/quickstart.yaml"
ROOT = Path(__file__).resolve().parents[2]


def _run(dedup: bool, folder: Path, steps: int, **environment: str) -> tuple[list[float], list[float]]:
    """Losses and milliseconds per step of every logged window, of two gloo ranks."""
    sets = [
        f"data.dedup={str(dedup).lower()}",
        f"run.max_steps={steps}",
        f"run.out={folder}",
        "data.test=[]",
        "data.valid=[]",
    ]
    sets += ["checkpoint.at_end=false", "optim.dense_update=sync"]
    options = [part for text in sets for part in ("--set", text)]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "dist_rec.cli", "train", RECIPE, *options]
    subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment
    )
    (log,) = folder.rglob("metrics.jsonl")
    windows = [row for row in map(json.loads, log.read_text().splitlines()) if row["event"] == "train"]
    return [row["loss"] for row in windows], [1e3 * row["seconds"] / row["steps"] for row in windows]


def step_time(rounds: int, steps: int) -> list[str]:
    """Step time over the windows of `rounds` runs of each kind but their first, and how far the losses are apart."""
    times: dict[bool, list[float]] = {True: [], False: []}
    losses: dict[bool, list[float]] = {}
    for _ in range(rounds):
        for dedup in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                losses[dedup], seconds = _run(dedup, Path(folder), steps)
                times[dedup] += seconds[1:]
    with tempfile.TemporaryDirectory() as folder:
        control, _ = _run(True, Path(folder), steps, MKL_CBWR="COMPATIBLE")
    lines = ["| dedup | ms per step p20/p50/p80 | windows |", "|---|---|---|"]
    for dedup, name in ((True, "on"), (False, "off")):
        p20, p50, p80 = np.percentile(times[dedup], [20, 50, 80])
        lines.append(f"| {name} | {p20:.1f} / {p50:.1f} / {p80:.1f} | {len(times[dedup])} |")
    ratio = np.median(times[True]) / np.median(times[False])
    lines += [
        "",
        f"on / off {ratio:.3f}",
        "",
        "| steps | mean loss | dedup off differs by | other rounding differs by |",
    ]
    lines.append("|---|---|---|---|")
    for window, loss in enumerate(losses[True]):
        apart = [abs(loss - other[window]) for other in (losses[False], control)]
        end = min((window + 1) * 20, steps)
        lines.append(f"| {window * 20 + 1} to {end} | {loss:.4f} | {apart[0]:.1e} | {apart[1]:.1e} |")
    return lines
