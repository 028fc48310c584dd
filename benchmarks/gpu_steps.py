"""Trains a few steps and lists every place where the host waited for the GPU; with --trace a trace besides.

    python -m benchmarks.gpu_steps --update sync --out DIR [--length 2000] [--width 64] [--trace 10]

One NCCL rank, synthetic histories. Prints the time it took and, by file and line, torch's warnings of synchronising
calls (`torch.cuda.set_sync_debug_mode`). Exits with 1 if one came from the models, the kernels or the optimizer.
Without a GPU it trains the same way and watches nothing: a rehearsal.
"""

import argparse
import sys
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import dist_rec
from dist_rec.config import Config
from dist_rec.data.synthetic.history import SynthConfig, synthesize
from dist_rec.training.pipeline import run_through

ROOT = Path(dist_rec.__file__).parent
# Where nothing may wait; logs, evaluation and checkpoints do.
WAITLESS = ("models", "kernels", "optim")


def recipe(options: argparse.Namespace, data: Path) -> Config:
    tree: dict[str, Any] = {
        "data": {"path": str(data), "batch_size": options.batch_size, "valid": [], "test": []},
        "model": {
            "name": "longer",
            "tokens": {"width": options.width, "hidden": 2 * options.width},
            "longer": {"merge": options.merge, "inner_trans": options.merge > 1, "k": 100, "heads": 4},
        },
        "embedding": {"dim": options.width},
        "optim": {"optimizer": "adamw", "dense_update": options.update, "warmup_sync_steps": 5},
        "checkpoint": {"at_end": False},
        "run": {
            "out": str(options.out / "runs"),
            "name": f"{options.update}-{options.width}",
            "epochs": 1000,
            "max_steps": options.steps,
            "log_every": options.steps // 2,
            "trace_steps": options.trace,
        },
    }
    return Config.model_validate(tree)


class Waits:
    """Counts torch's warnings of synchronising calls by the line of this package, or of another, that made them."""

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()
        self.of_a_step: Counter[str] = Counter()  # in a step's models, kernels and optimizer

    def show(self, message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing" not in str(message):
            return
        frames = traceback.extract_stack()[:-1]
        own = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT)]
        last = frames[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        if own:
            called = "" if own[-1] is last else f", by {place}"
            place = f"{Path(own[-1].filename).relative_to(ROOT)}:{own[-1].lineno}{called}"
        self.places[place] += 1
        if place.split("/")[0] in WAITLESS and any(frame.name == run_through.__name__ for frame in own):
            self.of_a_step[place] += 1


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", choices=["sync", "delayed"], default="delayed")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--length", type=int, default=2000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--merge", type=int, default=1)
    parser.add_argument("--trace", type=int, default=0, help="Steps to trace.")
    return parser


def main() -> None:
    options = arguments().parse_args()
    data = options.out / f"data-{options.length}"
    if not (data / "schema.yaml").is_file():
        synthesize(data, SynthConfig(requests=8 * options.batch_size, max_length=options.length))
    waits = Waits()
    with warnings.catch_warnings(), mock.patch.object(warnings, "showwarning", waits.show):
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("warn")
        result = dist_rec.train(recipe(options, data))
    (run,) = result.runs.values()
    print(
        f"{run.steps} steps in {run.seconds:.1f} s, starting included; speed by window: {result.folder}/metrics.jsonl"
    )
    for place, count in waits.places.most_common():
        print(f"{count:6d} waits at {place}")
    if not torch.cuda.is_available():
        print("no GPU here: nothing was watched")
    for place, count in waits.of_a_step.items():
        print(f"{count:6d} of them in steps, at {place}: nothing should wait there")
    sys.exit(bool(waits.of_a_step))


if __name__ == "__main__":
    main()
