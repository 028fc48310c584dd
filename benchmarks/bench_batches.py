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
SIZES = {"spread": [16, 64, 256], "training": [16, 64]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(TITLES)}; all of them if none is named")
    parser.add_argument("--requests", type=int, default=12_800, help="of the data; 80 %% of them are in training")
    parser.add_argument("--mean-length", type=int, default=200)
    parser.add_argument("--max-length", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=10, help="blocks of each kind of batches in training")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(TITLES):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(TITLES)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        sizes = {"mean_length": options.mean_length, "max_length": options.max_length}
        synthesize(data, SynthConfig(requests=options.requests, candidates=1, **sizes))
        lengths = lengths_of(data)
        half, most = np.percentile(lengths, [50, 99])
        lines = ["# Batches by requests and by events", "", *provenance_lines()]
        lines.append(
            f"- {len(lengths):,} requests in training, log-normal lengths: mean {lengths.mean():.0f}, "
            f"median {half:.0f}, p99 {most:.0f}, longest {lengths.max()}, "
            f"standard deviation {lengths.std() / lengths.mean():.2f} of the mean"
        )
        run = {
            "spread": lambda: spread(data, SIZES["spread"], [2, 4]),
            "training": lambda: train(data, SIZES["training"], options.rounds),
        }
        for part in options.parts or TITLES:
            lines += ["", f"## {TITLES[part]}", "", *run[part]()]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
