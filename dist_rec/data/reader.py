"""Streams a split to the ranks and workers of a job, one `PackedBatch` at a time, and can resume at any batch.

How rows reach a batch. A **lane** is one (rank, slot); a rank with W workers has W slots, and slot s of a rank makes its
batches s, s + W, s + 2W, ... of the epoch. Every epoch, row groups in seeded order go one by one to the lane with the fewest
rows. All ranks compute this from the Parquet footers alone, so they agree without communication. A lane reads its row
groups a **window** at a time, permutes the rows of the window, and cuts batches; when its rows are used up it makes empty
batches until the step count of the epoch, which is the same for all ranks, is reached.

Why slots are not workers: a DataLoader takes batches from its workers in turn. If an epoch has a number of steps that W does
not divide, the next epoch starts at another worker. That worker then plays slot 0, so epochs never mix.
"""

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from dist_rec.config import ConfigError
from dist_rec.data.collate import collate
from dist_rec.data.columns import arrow_schema
from dist_rec.data.packed_batch import PackedBatch
from dist_rec.data.schema import Schema
from dist_rec.data.validate import DataError, open_parquet, read_row_group


@dataclass(frozen=True)
class RowGroup:
    path: Path
    index: int
    rows: int


@dataclass(kw_only=True, eq=False)
class RequestReader(IterableDataset):
    """Batches of the requests in some folders, for one rank; `epochs` epochs in a row.

    - `batch_size` requests per rank and step; the last batches of an epoch may hold fewer, or none
    - `shuffle_window` 0 keeps the order of the files; n permutes at least n consecutive rows of a lane (fewer if the lane
      has fewer), which is also what is held in memory
    - the order depends on `seed`, the epoch, `world_size` and the number of workers, and on nothing else

    Raises DataError for a folder or file that cannot be read, and ConfigError for settings that exclude each other.
    """

    folders: list[Path]
    schema: Schema
    batch_size: int
    rank: int = 0
    world_size: int = 1
    epochs: int = 1
    shuffle_window: int = 0
    seed: int = 0
    max_length: int | None = None
    dedup: bool = True

    def __post_init__(self) -> None:
        if self.max_length is not None and self.schema.candidate.seen:
            raise ConfigError(
                f"data.max_length={self.max_length}: expected none for this dataset (candidate.seen is true), since cutting a "
                "history would leave its early candidates without events"
            )
        self.row_groups = [group for folder in self.folders for group in _row_groups(Path(folder), self.schema)]
        self._emitted = 0
        self._resume_at = 0

    @property
    def num_rows(self) -> int:
        """Requests of one epoch, over all ranks."""
        return sum(group.rows for group in self.row_groups)

    def steps_per_epoch(self, workers: int) -> int:
        """Batches that every rank yields in every epoch with this many DataLoader workers (0 counts as 1)."""
        return _Plan(self, max(1, workers)).steps

    def __iter__(self) -> Iterator[PackedBatch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        self._emitted, self._resume_at = self._resume_at, 0
        return self._stream(_Plan(self, workers), worker, start=self._emitted)

    def state_dict(self) -> dict[str, Any]:
        """Batches that this worker has yielded; together with the settings this is the exact position."""
        return {"emitted": self._emitted, "settings": self._settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration goes on behind the last batch of `state`. Raises ConfigError if it belongs to other settings."""
        for name, value in self._settings.items():
            if (was := state["settings"][name]) != value:
                raise ConfigError(f"cannot resume the data stream: it was saved with {name}={was}, now it is {value}")
        self._emitted = self._resume_at = state["emitted"]

    def _stream(self, plan: "_Plan", worker: int, start: int) -> Iterator[PackedBatch]:
        """This worker's batches: steps `worker`, `worker + workers`, ... counted over all epochs."""
        current: tuple[int, int] | None = None
        lane: _Lane | None = None
        for step in range(worker + start * plan.workers, self.epochs * plan.steps, plan.workers):
            epoch, step_in_epoch = divmod(step, plan.steps)
            place = (epoch, step_in_epoch % plan.workers)
            if place != current or lane is None:
                current = place
                lane = _Lane(self, plan.assign(epoch)[plan.lane(self.rank, place[1])], epoch)
            rows = lane.read(first=step_in_epoch // plan.workers * self.batch_size, count=self.batch_size)
            # A rank that has run out of rows makes a batch of none.
            rows = arrow_schema(self.schema).empty_table() if rows is None else rows
            batch = collate(rows, self.schema, self.max_length, dedup=self.dedup)
            self._emitted += 1
            yield PackedBatch.of(batch, self.schema)

    @property
    def _settings(self) -> dict[str, Any]:
        names = ("batch_size", "world_size", "shuffle_window", "seed", "max_length", "num_rows")
        return {name: getattr(self, name) for name in names}


def make_loader(reader: RequestReader, workers: int) -> StatefulDataLoader:
    """Reads in `workers` processes (0: in this one), pins memory if there is a GPU, and can be saved after every batch.

    Each worker computes with one thread. An error in a worker is raised here with its text.
    """
    return StatefulDataLoader(
        reader,
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        snapshot_every_n_steps=1,
        # Its own generator: making a loader must not advance the random state of the training process.
        generator=torch.Generator().manual_seed(reader.seed),
    )


class _Plan:
    """Which lane reads which row groups, and how many steps an epoch has."""

    def __init__(self, reader: RequestReader, workers: int) -> None:
        self.reader = reader
        self.workers = workers

    def lane(self, rank: int, slot: int) -> int:
        """Lanes of slot 0 come first: they get rows first and have the earlier batches."""
        return slot * self.reader.world_size + rank

    def assign(self, epoch: int) -> list[list[RowGroup]]:
        """Row groups of every lane in reading order: each goes to the lane with the fewest rows so far."""
        groups = self.reader.row_groups
        order = range(len(groups))
        if self.reader.shuffle_window:
            order = _generator(self.reader.seed, epoch).permutation(len(groups)).tolist()
        lanes: list[list[RowGroup]] = [[] for _ in range(self.reader.world_size * self.workers)]
        heap = [(0, lane) for lane in range(len(lanes))]
        for index in order:
            rows, lane = heap[0]
            heapq.heapreplace(heap, (rows + groups[index].rows, lane))
            lanes[lane].append(groups[index])
        return lanes

    @cached_property
    def steps(self) -> int:
        """The most that any epoch needs, so that schedules and resuming can count on one number."""
        epochs = self.reader.epochs if self.reader.shuffle_window else 1
        return max(self._steps_of(self.assign(epoch)) for epoch in range(epochs))

    def _steps_of(self, lanes: list[list[RowGroup]]) -> int:
        steps = 0
        for lane, groups in enumerate(lanes):
            batches = -(-sum(group.rows for group in groups) // self.reader.batch_size)
            if batches:
                steps = max(steps, (batches - 1) * self.workers + lane // self.reader.world_size + 1)
        return steps


class _Lane:
    """Rows of one lane in one epoch, in their shuffled order, addressed by position; holds one window at a time."""

    def __init__(self, reader: RequestReader, groups: list[RowGroup], epoch: int) -> None:
        self.reader = reader
        self.epoch = epoch
        self.windows = _windows(groups, reader.shuffle_window)
        self.starts = np.cumsum([0, *(sum(group.rows for group in window) for window in self.windows)])
        self._loaded: tuple[int, pa.Table, np.ndarray] | None = None

    def read(self, *, first: int, count: int) -> pa.Table | None:
        """Rows `first` to `first + count` of the lane, fewer at its end, None behind it."""
        end = min(first + count, int(self.starts[-1]))
        parts: list[pa.Table] = []
        while first < end:
            window = int(np.searchsorted(self.starts, first, side="right")) - 1
            start, stop = int(self.starts[window]), min(end, int(self.starts[window + 1]))
            table, order = self._load(window)
            parts.append(table.take(pa.array(order[first - start : stop - start])))
            first = stop
        return pa.concat_tables(parts) if parts else None

    def _load(self, window: int) -> tuple[pa.Table, np.ndarray]:
        if self._loaded is None or self._loaded[0] != window:
            self._loaded = None  # frees the old window before the new one is read
            table = _read_window(self.windows[window], self.reader.schema)
            order = np.arange(table.num_rows)
            if self.reader.shuffle_window:
                order = _generator(self.reader.seed, self.epoch, window).permutation(table.num_rows)
            self._loaded = (window, table, order)
        return self._loaded[1:]


def _windows(groups: list[RowGroup], rows: int) -> list[list[RowGroup]]:
    """Consecutive row groups gathered until they hold at least `rows` rows."""
    windows: list[list[RowGroup]] = []
    held = rows
    for group in groups:
        if held >= rows:
            windows.append([])
            held = 0
        windows[-1].append(group)
        held += group.rows
    return windows


def _read_window(groups: list[RowGroup], schema: Schema) -> pa.Table:
    tables: list[pa.Table] = []
    for path, members in itertools.groupby(groups, key=lambda group: group.path):
        with open_parquet(path, schema) as file:
            tables += [read_row_group(file, schema, path=path, row_group=group.index) for group in members]
    # One chunk per column: taking rows from many chunks would join them anew for every batch.
    return pa.concat_tables(tables).combine_chunks()


def _row_groups(folder: Path, schema: Schema) -> list[RowGroup]:
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        raise DataError(f"{folder}: expected a folder of Parquet files (a split of the dataset), got {got}")
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        others = len(list(folder.iterdir()))
        raise DataError(f"{folder}: expected a folder with at least one .parquet file, got {others} other files")
    found: list[RowGroup] = []
    for path in paths:
        with open_parquet(path, schema) as file:
            sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
        found += [RowGroup(path, index, rows) for index, rows in enumerate(sizes) if rows]
    return found


def _generator(seed: int, *place: int) -> np.random.Generator:
    return np.random.default_rng([seed % 2**63, *place])
