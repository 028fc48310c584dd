"""Does sharing a history cost quality? The same labels apart, in requests, and as whole users side by side.

    python -m benchmarks.bench_sharing --table FILE.csv [--out benchmarks/results/FILE.md]

Trains what the table lacks, then prints the page. Two processes share the work with a table each, `--part 0/2` and
`--part 1/2`; a third call with both tables makes the page. ml-100k is read from DIST_REC_DATA (benchmarks/compare)."""

import argparse
from pathlib import Path

import torch

from benchmarks.compare.study import ROOT
from benchmarks.sharing.report import page
from benchmarks.sharing.study import DATA, cells, read, run_study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, nargs="+", required=True, help="rows are appended to the first one")
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", help="i/n: trains every n-th run from the i-th, and makes no page")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    first, count = (int(number) for number in (options.part or "0/1").split("/"))
    run_study(options.table, cells(options.data, options.seeds), (first, count), ROOT)
    if options.part:
        return
    text = "\n".join(page([row for table in options.table for row in read(table)])) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
