"""Dedup on the host: events per second, bytes that cross, and what it does to a step.

    python -m benchmarks.bench_dedup [host] [collate] [bytes] [training] [--out benchmarks/results/FILE.md]

`host`: one core, a batch of 512 x 2000 events, against the libraries that are installed (pandas and polars are not
required: pip install pandas polars). `collate`: from rows in memory to whole batches; with `--before FOLDER`, in turns
with the package of another checkout, whose extension is built. `bytes`: the same batch as it is copied. `training`: the
quickstart with two gloo ranks, with dedup and without in turns; it needs data/quickstart (`make run`)."""

import argparse
from pathlib import Path

from benchmarks.dedup.collating import collate_speed
from benchmarks.dedup.host import host_speed
from benchmarks.dedup.training import step_time
from benchmarks.dedup.wire import bytes_crossed
from dist_rec.common.provenance import provenance_lines

TITLES = {
    "host": "Host dedup, M events/s of one core (batch of 512 x 2000 events; p50)",
    "collate": (
        "From rows to batches, M events/s of one core (256 x 2000 events, an action and a time beside the fields; "
        "processor time of reading threads; without Parquet and validation)"
    ),
    "bytes": (
        "Bytes from host to device (512 requests x 2000 events, 2 dynamic fields: an action and a time; 1 candidate "
        "each)"
    ),
    "training": "The quickstart with dedup and without (two gloo ranks, one thread each, synchronous updates)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(TITLES)}; all of them if none is named")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="a checkout that `collate` is compared with")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3, help="training runs of each kind")
    parser.add_argument("--steps", type=int, default=300, help="of each training run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(TITLES):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(TITLES)}")
    run = {
        "host": lambda: host_speed(options.repeats),
        "collate": lambda: collate_speed(4 * options.repeats, options.before),
        "bytes": bytes_crossed,
        "training": lambda: step_time(options.rounds, options.steps),
    }
    lines = ["# Dedup on the host", "", *provenance_lines()]
    for part in options.parts or TITLES:
        lines += ["", f"## {TITLES[part]}", "", *run[part]()]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
