"""Events per second of one core from rows in memory to batches: what a reader worker does after Parquet and validation.

This checkout and another one take turns, each in a process of its own: `collate_speed` asks both for a block of batches
at a time. The file also runs as that process, with the other checkout's package, so it uses only what both have."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks.dedup.streams import LENGTH, REQUESTS, event_ids, fields_of, share
from benchmarks.dedup.wire import stream_schema, stream_table
from dist_rec.common.strict import Strict
from dist_rec.data.files import RowGroup
from dist_rec.data.reader import RequestReader
from dist_rec.data.row_reader import RowReader
from dist_rec.data.schema import Schema

ROOT = Path(__file__).resolve().parents[2]
BATCH = REQUESTS // 2  # requests
BLOCK = 4  # batches
WINDOW = 4  # times REQUESTS, which are permuted together
STREAMS = [("zipf", 0.75, 2), ("zipf", 0.75, 4), ("zipf", 0.9, 4), ("uniform", 0.75, 4)]


def collate_speed(rounds: int, before: Path | None) -> list[str]:
    """One line per stream: M events/s of this checkout, and with `before` of the checkout there."""
    folders = {"now": ROOT} | ({} if before is None else {"before": before})
    lines = [
        f"| stream | fields | duplicates | {' | '.join(f'{name}, p20 / p50 / p80' for name in folders)} |"
        + (" now / before |" if before else ""),
        "|---" * (3 + len(folders) + (before is not None)) + "|",
    ]
    for shape, duplicates, fields in STREAMS:
        with tempfile.TemporaryDirectory() as place:
            processes = {
                name: _start(folder, Path(place) / name, shape, duplicates, fields) for name, folder in folders.items()
            }
            rates: dict[str, list[float]] = {name: [] for name in folders}
            for _ in range(rounds):
                for name, process in processes.items():
                    rates[name].append(BLOCK * BATCH * LENGTH / _ask(process) / 1e6)
            for process in processes.values():
                process.communicate("")
        cells = [" / ".join(f"{rate:.1f}" for rate in np.percentile(of, [20, 50, 80])) for of in rates.values()]
        if before is not None:
            cells.append(f"{np.median(np.array(rates['now']) / rates['before']):.2f}")
        found = share(event_ids(duplicates, shape))
        lines.append(f"| {shape} | {fields} | {found:.0%} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def _start(checkout: Path, place: Path, shape: str, duplicates: float, fields: int) -> "subprocess.Popen[str]":
    """In an empty folder with nothing but the checkout's package: the benchmarks are those of this checkout."""
    place.mkdir()
    (place / "dist_rec").symlink_to(checkout.resolve() / "dist_rec")
    command = [sys.executable, "-m", "benchmarks.dedup.collating", shape, str(duplicates), str(fields)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(place), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=place, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def _ask(process: "subprocess.Popen[str]") -> float:
    """Processor seconds of one block."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("block\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


class Memory(RowReader):
    """One row group, which is in memory already."""

    table: pa.Table

    def row_groups(self, folder: Path, schema: Schema) -> list[RowGroup]:
        return [RowGroup(folder, 0, self.table.num_rows)]

    def read(self, groups: Sequence[RowGroup], schema: Schema) -> pa.Table:
        return self.table


def main(shape: str, duplicates: float, fields: int) -> None:
    """Makes a block for every line that comes and answers with its processor time."""
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    schema, rows = stream_schema(fields), Memory(Strict())
    table = stream_table(fields_of(event_ids(duplicates, shape), fields), schema)
    rows.table = pa.concat_tables([table] * WINDOW).combine_chunks()
    reader = RequestReader(
        folders=[Path("memory")], schema=schema, batch_size=BATCH, epochs=10**6, shuffle_window=1, rows=rows
    )
    batches = iter(reader)
    list(islice(batches, BLOCK))
    for _ in sys.stdin:
        started = time.thread_time()
        for _ in islice(batches, BLOCK):
            pass
        print(json.dumps(time.thread_time() - started), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
