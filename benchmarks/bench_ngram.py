"""Do n-grams over events help, and what do they cost?

    python -m benchmarks.bench_ngram collisions [--out FILE.md]
    python -m benchmarks.bench_ngram study --table FILE.csv [--out FILE.md]
    python -m benchmarks.bench_ngram real --table FILE.csv [--data DIR] [--sets ml-100k ...] [--out FILE.md]
    python -m benchmarks.bench_ngram cost [--out FILE.md]

- `collisions`: how many n-grams share a row, by hash and number of rows
- `study`: Markov data at equal parameters, by orders, heads, amplification, share of the parameters, and merging
- `real`: public data at equal parameters; DIR has them as `dist-rec data import` writes them, each under its name
- `cost`: a step, its bytes and a reader worker with n-grams and without, side by side

`study` and `real` train what the table lacks, then print the page."""

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks.ngram import collisions, cost, real, study
from dist_rec.common.provenance import provenance_lines

TITLES = {
    "collisions": "N-grams that share a row",
    "study": "N-grams on Markov data",
    "real": "N-grams on public data",
    "cost": "What n-grams cost",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(TITLES))
    parser.add_argument("--table", type=Path, help="rows are appended to it")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--sets", nargs="+", choices=list(real.FIELDS), default=list(real.FIELDS))
    parser.add_argument("--models", nargs="+", choices=real.MODELS, default=list(real.MODELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(study.SEEDS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.what in ("study", "real") and options.table is None:
        parser.error(f"{options.what} needs --table: the CSV that its runs are appended to")
    torch.set_num_threads(1)
    text = "\n".join([f"# {TITLES[options.what]}", "", *provenance_lines(), "", *_page(options)]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


def _page(options: argparse.Namespace) -> Iterable[str]:
    if options.what == "study":
        study.run_study(options.table, options.seeds)
        return study.page(study.read(options.table))
    if options.what == "real":
        real.run_real(options.table, options.data, options.sets, options.models, options.seeds)
        return real.page(real.read(options.table))
    return collisions.page() if options.what == "collisions" else cost.page()


if __name__ == "__main__":
    main()
