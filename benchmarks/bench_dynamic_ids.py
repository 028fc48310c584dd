"""How well does a table learn whose items come and go, by the way it holds their ids?

    python -m benchmarks.bench_dynamic_ids --table FILE.csv [--arms ARM ...] [--seeds 1 2 ...] [--out FILE.md]

A generated stream, scored window by window before it is trained on: dynamic ids and hashed ids in a table of a fifth of
all items, and a full table. Trains what the table lacks, then prints the page."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.dynamic import study
from benchmarks.dynamic.stream import StreamConfig
from dist_rec.common.provenance import provenance_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, help="rows are appended to it")
    parser.add_argument("--arms", nargs="+", choices=list(study.ARMS), default=list(study.DEFAULT))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    stream = StreamConfig()
    for name in ("windows", "requests", "active"):
        parser.add_argument(f"--{name}", type=int, default=getattr(stream, name))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    stream = replace(stream, windows=options.windows, requests=options.requests, active=options.active)
    study.run_study(options.table, stream, options.arms, options.seeds)
    lines = [
        "# Dynamic ids on a stream of items",
        "",
        *provenance_lines(),
        "",
        *study.page(study.read(options.table), stream),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
