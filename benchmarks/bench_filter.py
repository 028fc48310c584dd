"""What filtering events does to what a model knows, and what a purge leaves.

    python -m benchmarks.bench_filter --table FOLDER [--data DIR] [--out benchmarks/results/FILE.md]

Trains what the tables in FOLDER lack, then prints the page and, with `--out`, writes it and a plot beside it. `--only`
runs one part; without `--data`, the folder with the folders ml-100k and statics2011, the public sets are left out."""

import argparse
from pathlib import Path

import torch

from benchmarks.filtering import cost
from benchmarks.filtering.after import run_membership, run_relearning
from benchmarks.filtering.probes import run_probes
from benchmarks.filtering.report import draw, page
from benchmarks.filtering.study import cells, cells_of, run_study
from dist_rec.common.provenance import provenance_lines

PARTS = ("actions", "after", "probes", "public", "cost")
FEWER = 3  # seeds of purges and probes
PUBLIC = 3  # seeds of public data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("build/filter"), help="folder of the tables")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=(*PARTS, "page"), help="page: runs nothing, takes the tables as they are")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only == "cost":
        text = "\n".join(["# What a filter of events costs", "", *provenance_lines(), "", *cost.page()]) + "\n"
        print(text)
        if options.out:
            options.out.write_text(text)
        return
    options.table.mkdir(parents=True, exist_ok=True)
    if options.only in (None, "actions"):
        run_study(options.table / "actions.csv", cells(options.seeds), options.data)
    if options.only in (None, "after"):
        run_membership(options.table / "membership.csv", min(FEWER, options.seeds))
        run_relearning(options.table / "relearning.csv", min(FEWER, options.seeds))
    if options.only in (None, "probes"):
        run_probes(options.table / "probes.csv", min(FEWER, options.seeds))
    if options.data is not None and options.only in (None, "public"):
        todo = [cell for name in ("ml-100k", "statics2011") for cell in cells_of(name, min(PUBLIC, options.seeds))]
        run_study(options.table / "public.csv", todo, options.data)
    if options.only in PARTS:
        return
    plot = options.out.with_suffix(".png") if options.out else None
    text = "\n".join(page(options.table, plot.name if plot else "-")).rstrip() + "\n"
    print(text)
    if options.out and plot:
        options.out.write_text(text)
        draw(options.table).savefig(plot)


if __name__ == "__main__":
    main()
