"""Streams a split to the ranks and workers of a job, one `HostBatch` at a time, and can resume at any batch.

plan.py assigns rows to steps, lane.py reads them. A lane without more rows makes empty batches.

A run that goes on with another number of ranks or workers keeps its plan: of R planned ranks and W that are there, rank
w reads what the planned ranks from w R / W to (w + 1) R / W would read, and of a lane that lies partly in there its
share of the rows of each batch."""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from dist_rec.common.strict import ConfigError
from dist_rec.data.attribute_store import AttributeStore
from dist_rec.data.collate import Collator
from dist_rec.data.columns import Ints
from dist_rec.data.files import RowGroup, warn_once
from dist_rec.data.filter.event_filter import EventFilter
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.lane import Lane
from dist_rec.data.loader import ReaderLoader, failures_as_values
from dist_rec.data.plan import EventPlan, RowPlan, Steps
from dist_rec.data.position import DataPosition
from dist_rec.data.recut import recut
from dist_rec.data.row_reader import PARQUET, RowReader
from dist_rec.data.schema import Schema
from dist_rec.data.shares import joined, shares
from dist_rec.data.stages import StagedPlan
from dist_rec.data.targets import Targets

MAY_CHANGE = ("world_size", "batch_size", "batch_events")  # of a run that goes on
MUCH_EMPTY = 0.25  # share of empty batches that is worth a warning


@dataclass(kw_only=True, eq=False)
class RequestReader(IterableDataset):
    """Batches of the requests in some folders, for one rank; `epochs` epochs in a row.

    - `batch_size` requests per rank and step; the last batches of an epoch may hold fewer, or none. Or `batch_events`:
      about so many events per rank and step, and in every step about as many on every rank, see `EventPlan`
    - `rows` lists and reads the row groups of the folders
    - `shuffle_window` 0 keeps the order of the files; n permutes at least n consecutive rows of a lane (fewer if the
      lane has fewer), which are in memory together
    - `hash_ngrams`: whether ids of n-grams are made here, and not on the device
    - `share_histories`: requests of a user that are in one window follow each other, so that most of them are in one
      batch, whose distinct ids they share
    - `one_by_one`: all epochs of the first folder, then all of the second, and so on, as of the days of a log
    - `event_filter` filters the batches from its first step on
    - `targets` what is known of labels, by default that they are final; with `one_by_one` perhaps for each folder
    - `attributes` those of the dataset, see `open_attributes`; a schema that declares some needs them
    - `skip_unreadable` leaves row groups out that cannot be read, and counts their requests (`HostBatch.lost`)
    - `position` where an earlier run was: the next iteration starts there, in the order that was planned then
    - the order depends only on `seed`, the epoch, `world_size` and the number of workers

    Raises DataError for a folder or file that cannot be read, and ConfigError for settings that exclude each other,
    that `rows` cannot serve or that are not those of `position`.
    """

    folders: list[Path]
    schema: Schema
    batch_size: int | None = None
    batch_events: int | None = None
    rank: int = 0
    world_size: int = 1
    epochs: int = 1
    shuffle_window: int = 0
    seed: int = 0
    max_length: int | None = None
    dedup: bool = True
    rows: RowReader = PARQUET
    hash_ngrams: bool = True
    share_histories: bool = False
    one_by_one: bool = False
    event_filter: EventFilter | None = None
    targets: Targets | Sequence[Targets] | None = None
    attributes: AttributeStore | None = None
    skip_unreadable: bool = False
    position: DataPosition | None = None

    def __post_init__(self) -> None:
        if self.schema.attributes and self.attributes is None:
            raise ConfigError(
                f"schema {self.schema.name}: declares attributes of {', '.join(self.schema.attributes)}; expected a "
                "reader with attributes=open_attributes(FOLDER, schema)"
            )
        check_max_length(self.schema, self.max_length)
        of_folders = [[self._cut(of) for of in self.rows.row_groups(Path(at), self.schema)] for at in self.folders]
        self.row_groups = list(itertools.chain.from_iterable(of_folders))
        self._stages = of_folders if self.one_by_one else [self.row_groups]
        if isinstance(self.targets, Sequence) and not (self.one_by_one and len(self.targets) == len(self.folders)):
            raise ConfigError(
                f"targets: expected one for each of {len(self.folders)} folders that are read one by one, got "
                f"{len(self.targets)}, one_by_one={self.one_by_one}"
            )
        self._check_batches()
        self._check_position()
        self._plans: dict[int, Steps] = {}  # by number of workers; worker processes get them with the reader
        self._emitted = 0
        self._resume_at = 0
        self._refused: ConfigError | None = None

    @property
    def num_rows(self) -> int:
        """Requests of one epoch, over all ranks."""
        return sum(group.rows for group in self.row_groups)

    @property
    def events_per_batch(self) -> float | None:
        """Of all sequences on average, at most; None if the reader does not know the events of its row groups."""
        if self.batch_size is None:
            return self.batch_events
        events = [group.events for group in self.row_groups if group.events is not None]
        known = len(events) == len(self.row_groups)
        return min(self.batch_size, self.num_rows) * sum(events) / self.num_rows if known else None

    def steps_per_epoch(self, workers: int) -> int:
        """Batches that every rank yields in every epoch with this many DataLoader workers (0 counts as 1)."""
        return self.plan(workers).steps

    def plan(self, workers: int) -> Steps:
        """The rows of every step of the run with this many DataLoader workers (0 counts as 1). One that goes on from a
        position has the order that was planned for its workers."""
        workers = max(1, workers) if self.position is None else self.position.workers
        if workers not in self._plans:
            legs = [] if self.position is None else list(self.position.legs)
            sizes = [*((leg.batch_size, leg.batch_events) for leg in legs), (self.batch_size, self.batch_events)]
            plan, *later = [self._plan(workers, *size) for size in sizes]
            for leg, after in zip(legs, later, strict=True):
                plan = recut(plan, leg.end, after)
            self._plans[workers] = plan
        return self._plans[workers]

    def _plan(self, workers: int, batch_size: int | None, batch_events: int | None) -> Steps:
        kind, most = (RowPlan, batch_size) if batch_events is None else (EventPlan, batch_events)
        assert most is not None, "checked at the start"
        plans = [
            kind(
                groups,
                world_size=self.planned_ranks,
                workers=workers,
                most=most,
                epochs=self.epochs,
                seed=self.seed if self.shuffle_window else None,
            )
            for groups in self._stages
        ]
        return StagedPlan(plans) if self.one_by_one else plans[0]

    @property
    def planned_ranks(self) -> int:
        """What the order of the data was planned for."""
        return self.world_size if self.position is None else self.position.ranks

    def position_at(self, step: int, workers: int) -> DataPosition:
        """After this many steps of the run, with this many DataLoader workers (0 counts as 1)."""
        return DataPosition(
            step=step,
            ranks=self.planned_ranks,
            workers=self.plan(workers).workers,
            legs=() if self.position is None else self.position.legs,
            settings=self._settings,
        )

    def rows_at(self, step: int, workers: int) -> list[tuple[RowGroup, int]]:
        """The row group of every request that this rank has at a step of the run, and its number there. Reads them."""
        plan = self.plan(workers)
        number, step_in_epoch = plan.locate(step)
        epoch, found = plan.epoch(number), list[tuple[RowGroup, int]]()
        for share in shares(self.planned_ranks, self.world_size, self.rank):
            lane = self._lane(epoch.lanes[int(epoch.slot[step_in_epoch]) * self.planned_ranks + share.rank], number)
            places = lane.places(epoch.batch(step_in_epoch))
            found += [places[row] for row in share.of(np.arange(len(places)))]
        return found

    def __iter__(self) -> Iterator[Any]:
        """`HostBatch`es; in a worker process a `Failure` at the end after a ConfigError or DataError."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        self._emitted, self._resume_at = self._resume_at, 0
        first = 0 if self.position is None else self.position.step
        stream = self._stream(self.plan(workers), first + worker + self._emitted * workers, workers)
        return stream if info is None else failures_as_values(stream)

    def state_dict(self) -> dict[str, Any]:
        """Batches that this worker has yielded; together with the settings this is the exact position."""
        return {"emitted": self._emitted, "settings": self._settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration starts after the last batch of `state`.

        Raises ConfigError if `state` has other settings; in a worker process the iteration raises it."""
        for name, value in self._settings.items():
            # What older checkpoints do not say was off.
            if (was := state["settings"].get(name, False if isinstance(value, bool) else None)) != value:
                error = ConfigError(f"cannot resume the data stream: it was saved with {name}={was}, now it is {value}")
                if get_worker_info() is None:
                    raise error
                self._refused = error
        self._emitted = self._resume_at = state["emitted"]

    def _stream(self, plan: Steps, first: int, workers: int) -> Iterator[HostBatch]:
        """This worker's batches: steps `first`, `first + workers`, ... counted over all epochs."""
        if self._refused is not None:
            raise self._refused
        lanes: dict[tuple[int, int, int], Lane] = {}
        for step in range(first, plan.total, workers):
            number, step_in_epoch = plan.locate(step)
            epoch = plan.epoch(number)
            slot, found = int(epoch.slot[step_in_epoch]), []
            for share in shares(self.planned_ranks, self.world_size, self.rank):
                place = (number, slot, share.rank)
                if place not in lanes:
                    lanes = {of: lane for of, lane in lanes.items() if of[0] == number}
                    lanes[place] = self._lane(epoch.lanes[slot * self.planned_ranks + share.rank], number)
                if (read := lanes[place].read(epoch.batch(step_in_epoch))) is not None:
                    found.append((read[0], share.of(read[1])))
            stage = bisect.bisect_right(plan.ends, step)
            batch = self._collated(joined(found), step, stage)
            if lost := sum(lane.lost for lane in lanes.values()):
                batch = replace(batch, lost=lost)
                for lane in lanes.values():
                    lane.lost = 0
            self._emitted += 1
            yield batch

    def collator(self, step: int = 0, stage: int = 0) -> Collator:
        """What makes the batch of this step of the run; `stage`: the folder that is read then, with `one_by_one`."""
        acting = self.event_filter if self.event_filter is not None and self.event_filter.acts(step) else None
        return Collator(
            schema=self.schema,
            max_length=self.max_length,
            dedup=self.dedup,
            event_filter=acting,
            hash_ngrams=self.hash_ngrams,
            targets=self.targets[stage] if isinstance(self.targets, Sequence) else self.targets,
            attributes=self.attributes,
        )

    def _collated(self, found: tuple[pa.Table, Ints] | None, step: int, stage: int) -> HostBatch:
        batch = self.collator(step, stage)
        return batch.empty() if found is None else batch(*found)

    def _lane(self, groups: list[RowGroup], epoch: int) -> Lane:
        place = (self.seed, epoch)
        return Lane(
            self.rows,
            self.schema,
            groups,
            window=self.shuffle_window,
            place=place,
            max_length=self.max_length,
            share_histories=self.share_histories,
            skip_unreadable=self.skip_unreadable,
        )

    def _cut(self, group: RowGroup) -> RowGroup:
        """With no more events than `max_length` leaves at most, and no fewer than rows: a row without events counts as
        one, or a group whose events were guessed as none would belong to no batch."""
        if group.events is None:
            return group
        most = group.events
        if self.max_length is not None:
            most = min(most, group.rows * len(self.schema.sequences) * self.max_length)
        return replace(group, events=max(most, group.rows))

    def _check_batches(self) -> None:
        if (self.batch_size is None) == (self.batch_events is None):
            got = "neither" if self.batch_size is None else f"{self.batch_size} and {self.batch_events}"
            raise ConfigError(f"expected either data.batch_size or data.batch_events, got {got}")
        for group in self.row_groups if self.batch_events is not None else []:
            if group.events is None:
                raise ConfigError(
                    f"data.batch_events={self.batch_events}: expected a reader that says the events of its row groups, "
                    f"got none of {group.path}, row group {group.index}; expected RowGroup(..., events=...) from "
                    "data.reader, or data.batch_size"
                )

    def _check_position(self) -> None:
        """Raises ConfigError unless the run that goes on reads the same requests in the same order."""
        settings = {} if self.position is None else self.position.settings
        for name, now in self._settings.items():
            was = settings.get(name, now)
            if was != now and name == "num_rows":
                raise ConfigError(
                    f"{', '.join(map(str, self.folders))}: expected {was} requests, as when the run was saved, got "
                    f"{now}; is a data file missing, or was one added?"
                )
            if was != now and name not in MAY_CHANGE:
                raise ConfigError(f"cannot resume the data stream: it was saved with {name}={was}, now it is {now}")

    @property
    def _settings(self) -> dict[str, Any]:
        names = ("batch_size", "batch_events", "world_size", "shuffle_window", "seed", "max_length", "num_rows")
        names += ("share_histories", "one_by_one")
        return {name: getattr(self, name) for name in names}


def check_max_length(schema: Schema, max_length: int | None) -> None:
    """Raises ConfigError for a `max_length` of a dataset whose histories may not be cut."""
    if max_length is not None and schema.candidate.visible_events:
        raise ConfigError(
            f"data.max_length={max_length}: expected none for this dataset (candidate.visible_events is true), since "
            "cutting a history would leave its early candidates without events"
        )


def make_loader(reader: RequestReader, workers: int) -> StatefulDataLoader:
    """Reads in `workers` processes (0: in this one), pins memory if there is a GPU, and can be saved after every batch.

    Each worker computes with one thread. Errors of a worker are raised here as without workers. Rank 0 warns once if
    there are too few row groups for ranks and workers."""
    if reader.rank == 0:
        _warn_of_few_row_groups(reader, max(1, workers))
    return ReaderLoader(
        reader,
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        snapshot_every_n_steps=1,
        # Its own generator: making a loader must not advance the random state of the training process.
        generator=torch.Generator().manual_seed(reader.seed),
    )


def _warn_of_few_row_groups(reader: RequestReader, workers: int) -> None:
    groups, ranks = len(reader.row_groups), reader.world_size
    costs = []
    if (empty := reader.plan(workers).empty_share) > MUCH_EMPTY:
        costs.append(f"{empty:.0%} of the room in the batches of the ranks stays empty")
    if workers > 1 and groups < ranks * workers:
        costs.append("several workers read the same row group")
    if costs:
        folders = ", ".join(str(folder) for folder in reader.folders)
        advice = f", or set data.workers={max(1, groups // ranks)}" if workers > 1 else ""
        warn_once(
            f"{folders}: {groups} row groups for {ranks} ranks x {workers} workers: {' and '.join(costs)}; write "
            f"smaller row groups (row_group_size=256){advice}"
        )
