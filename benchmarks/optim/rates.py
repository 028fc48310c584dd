"""At which learning rate does only the delayed update diverge? Quickstart, constant rate, no clipping."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from benchmarks.optim.harmless import DATA
from dist_rec.config import load_config
from dist_rec.training.loop import train_one
from dist_rec.training.ranks import Ranks, start_ranks
from dist_rec.training.run_log import RunLog

STEPS, LAST = 240, 80
RATES = {
    "sgd": [0.05 * 2**i for i in range(8)],  # momentum 0.9, so that a step is ten times the rate
    "adamw": [0.003 * 2**i for i in range(7)],
}
WAYS = {
    "sync": ["optim.dense_update=sync"],
    "delayed": ["optim.dense_update=delayed"],
    "delayed, extrapolated": ["optim.dense_update=delayed", "optim.correction=extrapolate"],
}


def rates() -> list[str]:
    """Tables of the mean training loss over the last steps, by optimizer, way and rate."""
    lines = []
    data = DATA["quickstart"]
    base = load_config(Path(data.recipe), list(data.changes))
    with TemporaryDirectory() as out, start_ranks(base.parallel) as ranks:
        for optimizer, values in RATES.items():
            header = " | ".join(f"{value:.3g}" for value in values)
            lines += ["", f"| {optimizer}, rate | {header} |", "| --- " * (len(values) + 1) + "|"]
            for way, changes in WAYS.items():
                losses = [
                    _loss(optimizer, value, changes, ranks, Path(out) / f"{optimizer}-{way}-{value}")
                    for value in values
                ]
                lines.append(f"| {way} | {' | '.join(f'{loss:.3f}' for loss in losses)} |")
                print(lines[-1], flush=True)
    return lines


def _loss(optimizer: str, rate: float, changes: list[str], ranks: Ranks, folder: Path) -> float:
    data = DATA["quickstart"]
    fixed = [*data.changes, "data.test=[]", f"data.batch_size={data.batch}", "data.workers=1", f"run.max_steps={STEPS}"]
    fixed += ["optim.warmup_sync_steps=0", "optim.clip_norm=null", "optim.decay=none", "optim.warmup_steps=20"]
    fixed += [
        "optim.momentum=0.9",
        "optim.weight_decay=0",
        "checkpoint.at_end=false",
        "run.log_every=10",
        "run.eval_every=100000",
    ]
    config = load_config(Path(data.recipe), [*fixed, f"optim.optimizer={optimizer}", f"optim.lr={rate}", *changes])
    with RunLog(folder, is_main=True, console=Console(quiet=True)) as log:
        train_one(config, ranks, log)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["event"] == "train" and row["step"] > STEPS - LAST]
    return float("inf") if any(loss is None for loss in losses) else sum(losses) / len(losses)
