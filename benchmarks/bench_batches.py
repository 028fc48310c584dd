"""Batches cut by requests and by events: how equal is the work of the ranks, and what does a step gain?

    python -m benchmarks.bench_batches [spread] [training] [--out benchmarks/results/FILE.md]

`spread`: events per rank and step of 2 and 4 ranks, by the reader's own plan and batches. `training`: two gloo ranks
train the quickstart's LONGER with both kinds in turns. The data are synthetic, with log-normal lengths, in a temporary
folder."""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.batches.spread import EPOCHS, SHUFFLE_WINDOW, lengths_of, spread
from benchmarks.batches.training import train
from dist_rec.common.provenance import provenance_lines
from dist_rec.data.synthetic.history import SynthConfig, synthesize

TITLES = {
    "spread": f"Events per rank and step ({EPOCHS} epochs, shuffle window {SHUFFLE_WINDOW})",
    "training": "Training throughput (two gloo ranks, one thread each, synchronous updates, batches made before)",
}
REQUESTS = {"spread": 12_800, "training": 2_560}  # of all splits; 80 % are in training
SIZES, RANKS = [16, 64, 256], [2, 4]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(TITLES)}; all of them if none is named")
    parser.add_argument("--rounds", type=int, default=10, help="blocks of each kind of batches in training")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(TITLES):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(TITLES)}")
    torch.set_num_threads(1)
    lines = ["# Batches by requests and by events", "", *provenance_lines()]
    run = {"spread": lambda data: spread(data, SIZES, RANKS), "training": lambda data: train(data, options.rounds)}
    for part in options.parts or TITLES:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            config = SynthConfig(requests=REQUESTS[part], candidates=1, mean_length=200, max_length=2000)
            synthesize(data, config)
            lines += ["", f"## {TITLES[part]}", "", _lengths(data), "", *run[part](data)]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


def _lengths(data: Path) -> str:
    lengths = lengths_of(data)
    half, most = np.percentile(lengths, [50, 99])
    return (
        f"{len(lengths):,} requests, log-normal lengths: mean {lengths.mean():.0f}, median {half:.0f}, p99 {most:.0f}, "
        f"longest {lengths.max()}, standard deviation {lengths.std() / lengths.mean():.2f} of the mean."
    )


if __name__ == "__main__":
    main()
