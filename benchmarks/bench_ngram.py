"""Do n-grams over events help, and what do they cost?

    python -m benchmarks.bench_ngram collisions [--out benchmarks/results/FILE.md]

`collisions`: how many n-grams share a row, by hash and number of rows."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from benchmarks.ngram import collisions
from dist_rec.common.provenance import provenance_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(PAGES))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    title, page = PAGES[options.what]
    text = "\n".join([f"# {title}", "", *provenance_lines(), "", *page()]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


PAGES: dict[str, tuple[str, Callable[[], Iterable[str]]]] = {
    "collisions": ("N-grams that share a row", collisions.page),
}


if __name__ == "__main__":
    main()
