"""What is each kind of feature worth: numbers, lists, vectors, the time of day?

    python -m benchmarks.bench_kinds planted --table FILE.csv [--seeds 1 2 ...] [--out FILE.md]
    python -m benchmarks.bench_kinds movielens --table FILE.csv --data DIR [--seeds 1 2 ...] [--out FILE.md]
    python -m benchmarks.bench_kinds movielens-1m --table FILE.csv --data DIR [--seeds 1 2 ...] [--out FILE.md]

- `planted`: generated data, whose best AUC is known with each kind and without it
- `movielens`: ml-100k; DIR has its files `ml-100k.inter`, `.user` and `.item`, plain or as `.xz`
- `movielens-1m`: ml-1m, as `dist-rec data import movielens` reads it

Trains what the table lacks, then prints the page."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.kinds import movielens, planted
from benchmarks.kinds.runs import read
from benchmarks.kinds.world import WorldConfig
from dist_rec.common.provenance import provenance_lines

TITLES = {
    "planted": "Kinds of features on generated data",
    "movielens": "Kinds of features on ml-100k",
    "movielens-1m": "Kinds of features on ml-1m",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(TITLES))
    parser.add_argument("--table", type=Path, required=True, help="rows are appended to it")
    parser.add_argument("--data", type=Path, default=Path("data/ml-100k"))
    parser.add_argument("--requests", type=int, default=WorldConfig.train, help="of training, planted")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "planted":
        world = replace(WorldConfig(), train=options.requests)
        planted.run_planted(options.table, world, options.seeds)
        lines = list(planted.page(read(options.table), world))
    else:
        of_1m = options.what == "movielens-1m"
        movielens.run_movielens(options.table, options.data, options.seeds, of_1m=of_1m)
        lines = list(movielens.page(read(options.table), "ml-1m" if of_1m else "ml-100k"))
    text = "\n".join([f"# {TITLES[options.what]}", "", *provenance_lines(), "", *lines]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
