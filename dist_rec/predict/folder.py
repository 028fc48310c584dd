"""The folder of a prediction: parts that are whole or not there, and what a killed process left.

A part is written under a hidden name, flushed to the disk and renamed; then its record, with size and SHA-256, goes to
`.progress`. Only a part whose bytes are those of its record counts."""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist
from pydantic import ValidationError

from dist_rec.common.made import real
from dist_rec.common.stored_file import StoredFile
from dist_rec.data.columns import ragged_values
from dist_rec.data.errors import DataError, reading
from dist_rec.data.writer import staged_file
from dist_rec.predict.columns import PROBABILITY
from dist_rec.predict.job import MANIFEST, Job, Part, Prediction, to_disk
from dist_rec.training.together import from_all

PROGRESS, LOCK = ".progress", "lock"
BYTES_AT_ONCE = 16 << 20  # of a row group of the result, before it is compressed


def check_out(out: Path, data: Path) -> Prediction | None:
    """The prediction that was begun in a folder, None for one that is new or empty; `data` are the requests.

    Raises DataError if anything else is there, or if the next reader of the requests would read the prediction."""
    if real(data) in (real(out), *real(out).parents):
        raise DataError(
            f"{out}: expected a place outside of the requests (--out), got one inside {data}, which is read with all "
            "its sub-folders; name another folder"
        )
    with reading(out):
        if not out.exists():
            return None
        if not out.is_dir():
            raise DataError(f"{out}: expected a folder for the prediction (--out), got a file")
        found = Prediction.read(out)
        others = [path.name for path in sorted(out.iterdir()) if path.name != PROGRESS]
        if found is None and others:
            raise DataError(
                f"{out}: expected a new or empty folder, or one of a prediction that was begun (--out), got one with "
                f"{others[0]}; name another folder"
            )
        return found


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Gives an OSError the folder that could not be written. It stays one: a full disk may have room the next time."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, f"the prediction cannot be written: {os.strerror(error.errno)}", str(out)) from error


def part_name(part: int) -> str:
    return f"part-{part:05d}.parquet"


@contextmanager
def locked(out: Path, group: dist.ProcessGroup | None = None) -> Iterator[None]:
    """Makes the folder; rank 0 sees to it that no other job writes there. The system gives the lock back if the process
    is killed. Without `group` the process is a job by itself. Comm: one all-gather.

    Raises, on all ranks, DataError if another job does, OSError if it cannot be made."""
    with ExitStack() as stack:
        if group is None:
            stack.enter_context(_locked(out))
        else:
            is_main = dist.get_rank(group) == 0
            from_all(lambda: stack.enter_context(_locked(out)) if is_main else None, group)
        yield


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    with writing(out):
        (out / PROGRESS).mkdir(parents=True, exist_ok=True)
        lock = (out / PROGRESS / LOCK).open("w")
    is_ours = False
    try:
        with lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, no reader process inherits it
            except (BlockingIOError, PermissionError):
                raise DataError(
                    f"{out}: another process writes a prediction there now; wait for it, or end it"
                ) from None
            is_ours = True
            yield
    finally:
        if is_ours:
            # Not while it is open: a network file system would keep it under another name, and the folder with it.
            (out / PROGRESS / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # records for the next time
                (out / PROGRESS).rmdir()


def finished(out: Path, job: Job, count: int, group: dist.ProcessGroup) -> dict[int, Part]:
    """The parts of a job that are there, by number: every rank reads its share, and all get the same. Comm: one
    all-gather.

    Raises DataError for a file that cannot be read."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    whole = Prediction.read(out)
    known = {} if whole is None else {part.name: part for part in whole.parts}
    own = {
        number: part
        for number in range(rank, count, ranks)
        if (part := known.get(part_name(number)) or _record(out, number)) is not None and _is_whole(out, part, job)
    }
    found: list[dict[int, Part]] = [{} for _ in range(ranks)]
    dist.all_gather_object(found, own, group=group)
    return dict(sorted((number, part) for parts in found for number, part in parts.items()))


def _record(out: Path, number: int) -> Part | None:
    path = _record_path(out, part_name(number))
    try:
        return Part.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):  # half a record is none
        return None


def _record_path(out: Path, name: str) -> Path:
    return out / PROGRESS / f"{name}.json"


def _is_whole(out: Path, part: Part, job: Job) -> bool:
    path = out / part.name
    with reading(path):
        there = part.job == job.sha256 and path.is_file() and path.stat().st_size == part.file.size
        return there and StoredFile.of(path) == part.file


class PartWriter:
    """Writes the parts that one rank computes, one after the other. Close it at the end, whatever ends it."""

    def __init__(self, out: Path, job: Job, tasks: list[str]) -> None:
        self.out, self.job = out, job.sha256
        self._columns = [f"{PROBABILITY}.{task}" for task in tasks]
        self.done: dict[int, Part] = {}
        self._number, self._tables = -1, list[pa.Table]()
        self._writer: pq.ParquetWriter | None = None
        self._counts = [0, 0, 0]

    def add(self, number: int, first: int, table: pa.Table, *, is_last: bool) -> None:
        """The next requests of a part, whose number counts from `first` for the part.

        Raises OSError if they cannot be written, on a full disk for example."""
        with writing(self.out):
            if self._number != number:
                self._number, self._counts = number, [0, 0, 0]
            self._count(table)
            self._tables.append(table)
            if is_last or sum(of.nbytes for of in self._tables) >= BYTES_AT_ONCE:
                self._flush()
            if is_last:
                self._finish(first)

    def _count(self, table: pa.Table) -> None:
        probabilities = np.stack([ragged_values(table, name).values for name in self._columns])
        wrong = int((~np.isfinite(probabilities)).any(0).sum())
        more = (table.num_rows, probabilities.shape[1], wrong)
        self._counts = [count + new for count, new in zip(self._counts, more)]

    @property
    def _partial(self) -> Path:
        return self.out / f".{part_name(self._number)}.partial"

    def _flush(self) -> None:
        whole = pa.concat_tables(self._tables).combine_chunks()
        self._tables = []
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._partial, whole.schema, compression="zstd")
        self._writer.write_table(whole, row_group_size=max(whole.num_rows, 1))

    def _finish(self, first: int) -> None:
        assert self._writer is not None, "the last requests were flushed"
        self._writer.close()
        self._writer = None
        name, (requests, candidates, nonfinite) = part_name(self._number), self._counts
        to_disk(self._partial)
        file = StoredFile.of(self._partial)
        self._partial.replace(self.out / name)
        part = Part(
            name=name,
            first=first,
            requests=requests,
            candidates=candidates,
            nonfinite=nonfinite,
            file=file,
            job=self.job,
        )
        with staged_file(_record_path(self.out, name)) as temporary:
            temporary.write_text(part.model_dump_json() + "\n")
            to_disk(temporary)
        self.done[self._number] = part

    def close(self) -> None:
        """Removes what was written of a part that did not end."""
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError:  # what a full disk says at the end once more
                pass
            self._writer = None
        if self._number >= 0:
            self._partial.unlink(missing_ok=True)


def complete(out: Path, job: Job, parts: Iterable[Part]) -> Prediction:
    """Writes the manifest of a whole prediction and removes what was there to go on; one process calls it. Raises
    OSError."""
    whole = Prediction.of(job, tuple(parts))
    with writing(out):
        whole.write(out)
        named = {part.name for part in whole.parts} | {MANIFEST}
        for path in sorted(out.iterdir()):
            if path.name == PROGRESS:
                for record in path.iterdir():
                    if record.name != LOCK:
                        record.unlink()
            elif path.name not in named and path.name.endswith(".partial"):
                path.unlink()
    return whole
