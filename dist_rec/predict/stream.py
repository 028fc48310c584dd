"""The batches of a prediction on one rank, read as those of an evaluation, each with the keys of its requests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from torch.utils.data import IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from dist_rec.data.host_batch import HostBatch
from dist_rec.data.lane import Lane
from dist_rec.data.loader import ReaderLoader, failures_as_values
from dist_rec.data.reader import RequestReader
from dist_rec.predict.columns import key_columns
from dist_rec.predict.parts import Turn


@dataclass(frozen=True)
class Asked:
    """One step: the batch and the keys of its requests, as the table `key_columns` names."""

    batch: HostBatch
    keys: pa.Table

    def pin_memory(self) -> "Asked":
        return replace(self, batch=self.batch.pin_memory())


class RequestStream(IterableDataset):
    """The requests of some turns, in their order; an empty batch where there is none.

    Holds one row group of the data at a time. Raises DataError for one that cannot be read."""

    def __init__(self, reader: RequestReader, turns: Sequence[Turn | None]) -> None:
        self.reader, self.turns = reader, turns

    def __iter__(self) -> Iterator[Any]:
        """`Asked`; in a worker process a `Failure` at the end after a DataError."""
        return self._steps() if get_worker_info() is None else failures_as_values(self._steps())

    def _steps(self) -> Iterator[Asked]:
        of = self.reader
        lane = Lane(of.rows, of.schema, of.row_groups, window=0, place=(0, 0), max_length=of.max_length)
        collator, names = of.collator(), key_columns(of.schema)
        for turn in self.turns:
            found = None if turn is None else lane.read(turn.rows)
            if found is None:
                empty = collator.empty()
                yield Asked(empty, pa.table({}))
            else:
                table, rows = found
                yield Asked(collator(table, rows), table.select(names).take(pa.array(rows)))


def stream_loader(stream: RequestStream, workers: int) -> StatefulDataLoader:
    """Reads in `workers` processes, 0 or 1: the steps of a rank are in order."""
    import torch

    assert workers <= 1, "several would share the steps"
    return ReaderLoader(stream, batch_size=None, num_workers=workers, pin_memory=torch.cuda.is_available())
