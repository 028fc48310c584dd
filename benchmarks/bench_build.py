"""What `dist-rec data build` takes, and what histories that are stored once save.

    python -m benchmarks.bench_build size [--events 5e6] [--impressions 1e6] [--memory 2GB] [--work DIR] [--out FILE.md]
    python -m benchmarks.bench_build once [--work DIR] [--out FILE.md]

- `size`: time, processor time and peak memory of a build of made logs
- `once`: bytes on disk and time to read of both layouts, at several requests per user

Logs are written below DIR and stay there."""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks.build.logs import LogSize, write_logs
from dist_rec.common.provenance import provenance_lines
from dist_rec.data.build.build import build_dataset, load_build
from dist_rec.data.reader import RequestReader
from dist_rec.data.schema_file import load_schema

TITLES = {"size": "Building a dataset of flat logs", "once": "Histories in copies and stored once"}
REQUESTS_PER_USER = (4, 20, 100)
USERS, EVENTS_PER_USER = 400, 300
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(TITLES))
    parser.add_argument("--events", type=float, default=5e6)
    parser.add_argument("--impressions", type=float, default=1e6)
    parser.add_argument("--kind", choices=["csv", "parquet"], default="csv")
    parser.add_argument("--histories", choices=["copies", "once"], default="copies")
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--work", type=Path, default=Path("data/build_bench"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    page = _once(options.work) if options.what == "once" else _size(options)
    text = "\n".join([f"# {TITLES[options.what]}", "", *provenance_lines(), "", *page]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


def _size(options: argparse.Namespace) -> Iterable[str]:
    """Lines of the page. The build is a process of its own, so that its peak memory is."""
    size = LogSize(int(options.events), int(options.impressions), int(options.events) // 50, options.kind)
    name = f"log_{size.events}_{size.impressions}_{size.kind}"
    file = write_logs(options.work / name, size, histories=options.histories)
    out = options.work / f"{name}_{options.histories}"
    command = [sys.executable, "-m", "dist_rec.cli", "data", "build", str(file), str(out), "--memory", options.memory]
    started = time.perf_counter()
    subprocess.run([*command, "--force"], check=True, stdout=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "100"})
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.perf_counter() - started
    yield (
        "| events | impressions | logs | histories | --memory | wall time | processor time | peak memory | logs | "
        "dataset |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    yield (
        f"| {size.events:,} | {size.impressions:,} | {size.kind} | {options.histories} | {options.memory} | "
        f"{seconds:.0f} s | {used.ru_utime + used.ru_stime:.0f} s | {used.ru_maxrss / 2**20:.2f} GiB | "
        f"{_bytes(file.parent) / 2**20:,.0f} MiB | {_bytes(out) / 2**20:,.0f} MiB |"
    )


def _once(work: Path) -> Iterable[str]:
    """Lines of the page: both layouts in turn, the least of several repeats."""
    yield (
        f"{USERS} users with {EVENTS_PER_USER} events each; requests of five candidates in a shuffled order, batches "
        "of 64, one process. Read: all row groups. Batches: read, gathered and deduplicated. Processor time, the least "
        f"of {REPEATS} turns, per event of all histories."
    )
    yield ""
    yield (
        "| requests per user | events in requests | copies, MiB | once, MiB | read, ns: copies | once | batches, ns: "
        "copies | once | KiB a batch | with share_histories |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for requests in REQUESTS_PER_USER:
        size = LogSize(USERS * EVENTS_PER_USER, USERS * requests * 5, USERS, "parquet")
        places = {kind: work / f"once_{requests}_{kind}" for kind in ("copies", "once")}
        for kind, place in places.items():
            file = write_logs(work / f"once_{requests}", size, histories=kind)
            build_dataset(load_build(file), place, folder=file.parent, force=True)
        times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in places}
        events = 0
        for _ in range(REPEATS):
            for kind, place in places.items():
                *took, events = _reading(place)
                times[kind].append((took[0], took[1]))
        least = {kind: [min(of) / events * 1e9 for of in zip(*took, strict=True)] for kind, took in times.items()}
        sizes = [_bytes(places[kind]) / 2**20 for kind in places]
        yield (
            f"| {requests} | {events:,} | {sizes[0]:.1f} | {sizes[1]:.1f} | {least['copies'][0]:.2f} | "
            f"{least['once'][0]:.2f} | {least['copies'][1]:.1f} | {least['once'][1]:.1f} | "
            f"{_batch_bytes(places['once'], share=False) / 1024:.1f} | "
            f"{_batch_bytes(places['once'], share=True) / 1024:.1f} |"
        )


def _reading(place: Path) -> tuple[float, float, int]:
    """Seconds of this process to read all row groups of train, and to make batches of them; events in these."""
    schema = load_schema(place)
    reader = RequestReader(folders=[place / "train"], schema=schema, batch_size=64, shuffle_window=8192)
    started = time.process_time()
    reader.rows.read(reader.row_groups, schema)
    read = time.process_time() - started
    started = time.process_time()
    events = sum(batch.num_events for batch in reader)
    return read, time.process_time() - started, events


def _batch_bytes(place: Path, *, share: bool) -> float:
    """Mean bytes of a batch to the device."""
    reader = RequestReader(
        folders=[place / "train"],
        schema=load_schema(place),
        batch_size=64,
        shuffle_window=8192,
        share_histories=share,
    )
    sizes = [batch.nbytes for batch in reader]
    return sum(sizes) / len(sizes)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
