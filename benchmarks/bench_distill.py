"""Does a teacher that has seen feedback help, and what does it cost?

    python -m benchmarks.bench_distill study --table FILE.csv --worlds DIR [--seeds 1 2 ...] [--out FILE.md]
    python -m benchmarks.bench_distill real --table FILE.csv --data DIR [--seeds 1 2 ...] [--out FILE.md]
    python -m benchmarks.bench_distill cost [--out FILE.md]

- `study`: generated data, arms against budgets of labels; DIR keeps the data of every seed
- `real`: statics2011 and ml-1m; DIR has them as `dist-rec data import` writes them, each under its name
- `cost`: a step and its memory with a teacher and without, side by side

`study` and `real` train what the table lacks, then print the page."""

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks.distill import cost, real, study
from dist_rec.common.provenance import provenance_lines

TITLES = {
    "study": "Self-distillation on generated data",
    "real": "Self-distillation on public data",
    "cost": "What a teacher costs",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(TITLES))
    parser.add_argument("--table", type=Path, help="rows are appended to it")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--sets", nargs="+", choices=list(real.SETS), default=list(real.SETS))
    parser.add_argument("--worlds", type=Path, default=Path("data/distill"))
    parser.add_argument("--shown", type=float, nargs="+", default=list(study.SHOWN))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(study.SEEDS))
    parser.add_argument("--budgets", type=int, nargs="+", default=list(study.BUDGETS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.what in ("study", "real") and options.table is None:
        parser.error(f"{options.what} needs --table: the CSV that its runs are appended to")
    torch.set_num_threads(1)
    text = "\n".join([f"# {TITLES[options.what]}", "", *provenance_lines(), "", *_page(options)]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)
        if options.what == "study":
            study.draw(study.read(options.table)).savefig(options.out.with_suffix(".png"))


def _page(options: argparse.Namespace) -> Iterable[str]:
    if options.what == "cost":
        return cost.page()
    if options.what == "real":
        real.run_real(options.table, options.data, options.sets, options.seeds)
        return real.page(real.read(options.table))
    plan = [
        study.Cell(shown, labels, seed)
        for shown in options.shown
        for seed in options.seeds
        for labels in options.budgets
    ]
    study.run_study(options.table, options.worlds, plan)
    return study.page(study.read(options.table))


if __name__ == "__main__":
    main()
