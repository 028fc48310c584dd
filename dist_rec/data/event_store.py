"""Events that are stored once for each user, and not in every request.

`sequences/<sequence>/` of a dataset folder has one file for each column, mapped into memory: `<field>.npy` (N,) for
ids and side values, `<number>.npy` (N,) float32 with NaN where it is missing, `time.npy` (N,) int64 seconds, and
`offsets.npy` (U + 1,) int64. The events of user u are those from `offsets[u]` to `offsets[u + 1]`, oldest first. A
request has its user (`<sequence>.user`) and how many of the oldest events it knows (`<sequence>.events`): what came
later is out of its reach.

A table of such requests says in its metadata in which dataset folder the events are.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.data.columns import Ints, list_column, one_array
from dist_rec.data.errors import DataError, one_line, reading
from dist_rec.data.gather import Lists
from dist_rec.data.schema import Schema

STORE_FOLDER = "sequences"
OFFSETS = "offsets"
PLACE = b"dist_rec: folder of the events"


@dataclass(frozen=True)
class EventStore:
    """The events of one sequence: `offsets` (U + 1,) int64, and (N,) each of the `columns`."""

    path: Path
    offsets: Ints
    columns: Mapping[str, NDArray]

    def lists(self, name: str, users: Ints, events: Ints, most: int | None) -> Lists:
        """A column of (B,) users, each of whose oldest `events` (B,) are known; of them the newest `most`."""
        lengths = events if most is None else np.minimum(events, most)
        return Lists(self.columns[name], self.offsets[users] + events - lengths, lengths)


def open_store(folder: Path, sequence: str) -> EventStore:
    """The store of a sequence of a dataset folder, mapped into memory once per process.

    Raises DataError for a file that is missing, no array of numbers, or of another length than the others."""
    path = folder / STORE_FOLDER / sequence
    offsets = path / f"{OFFSETS}.npy"
    with reading(path):
        if not offsets.is_file():
            raise DataError(f"{path}: expected {OFFSETS}.npy, since {sequence} has once: true, got no such file")
        return _open(path, offsets.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _open(path: Path, changed: int) -> EventStore:
    offsets = _mapped(path / f"{OFFSETS}.npy", "iu")
    if not len(offsets) or offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise DataError(f"{path / OFFSETS}.npy: expected numbers that start at 0 and do not fall, got others")
    names = sorted(file.stem for file in path.glob("*.npy"))
    columns = {name: _mapped(path / f"{name}.npy", "iuf") for name in names if name != OFFSETS}
    for name, column in columns.items():
        if len(column) != offsets[-1]:
            raise DataError(
                f"{path / name}.npy: expected {offsets[-1]} events, as {OFFSETS}.npy ends, got {len(column)}"
            )
    return EventStore(path, offsets.astype(np.int64, copy=False), columns)


def _mapped(path: Path, kinds: str) -> NDArray:
    """(N,) numbers of some kinds of numpy. An empty file of an array cannot be mapped, and is read."""
    try:
        with reading(path):
            found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: expected an array of numpy, got: {one_line(error)}") from error
    if found.ndim != 1 or found.dtype.kind not in kinds:
        what = "whole numbers" if kinds == "iu" else "numbers"
        raise DataError(f"{path}: expected {what} in one row, got {found.dtype} of the shape {found.shape}")
    return np.asarray(found)


def check_store(folder: Path, schema: Schema) -> None:
    """Looks at all events. Raises DataError for an id outside its table, a number that is not finite, and times that
    fall."""
    for sequence in schema.sequences:
        if not sequence.once:
            continue
        store = open_store(folder, sequence.name)
        ranged = [field for field in sequence.ids if field.table not in schema.open_ids]
        sizes = {field.name: schema.tables[field.table] for field in ranged} | sequence.side
        whole_numbers = [*(of.name for of in sequence.ids), *sequence.side, *(["time"] if sequence.time else [])]
        for name in [*whole_numbers, *sequence.numbers]:
            if name not in store.columns:
                raise DataError(f"{store.path}: expected {name}.npy, got {', '.join(store.columns) or 'no columns'}")
            kind, found = "whole numbers" if name in whole_numbers else "float32", store.columns[name].dtype
            if found.kind not in "iu" if name in whole_numbers else found != np.float32:
                raise DataError(f"{store.path / name}.npy: expected {kind} in one row, got {found}")
        for name in sequence.numbers:
            if (bad := np.isinf(store.columns[name])).any():
                place = int(np.argmax(bad))
                raise _wrong(
                    store, name, place, "a finite number, or NaN where it is missing", store.columns[name][place]
                )
        for name, size in sizes.items():
            bad = (store.columns[name] < 0) | (store.columns[name] >= size)
            if bad.any():
                place = int(np.argmax(bad))
                raise _wrong(store, name, place, f"an id from 0 to {size - 1}", store.columns[name][place])
        if sequence.time and len(times := store.columns["time"]):
            falls = np.diff(times) < 0
            starts = store.offsets[1:-1]
            falls[starts[(starts > 0) & (starts < len(times))] - 1] = False
            if falls.any():
                place = int(np.argmax(falls)) + 1
                raise _wrong(store, "time", place, f"a time of at least {times[place - 1]}, oldest first", times[place])


def check_known(table: pa.Table, schema: Schema, folder: Path, *, file: str | Path, row_group: int) -> None:
    """Raises DataError for requests whose user, number of events or time do not fit the stores."""
    for sequence in schema.sequences:
        if not sequence.once:
            continue
        store = open_store(folder, sequence.name)
        users, events = (one_array(table, f"{sequence.name}.{name}").to_numpy() for name in ("user", "events"))
        where, count = f"{file}, row group {row_group}", len(store.offsets) - 1
        if (bad := (users < 0) | (users >= count)).any():
            row = int(np.argmax(bad))
            expected = f"a user from 0 to {count - 1}, as in {store.path}"
            raise DataError(f"{where}, row {row}, field {sequence.name}.user: expected {expected}, got {users[row]}")
        most = np.diff(store.offsets)[users]
        if (bad := (events < 0) | (events > most)).any():
            row = int(np.argmax(bad))
            expected = f"a number of events from 0 to {most[row]}, which its user has"
            raise DataError(f"{where}, row {row}, field {sequence.name}.events: expected {expected}, got {events[row]}")
        if sequence.time and schema.request.time is not None and len(store.columns["time"]):
            newest = store.columns["time"][np.maximum(store.offsets[users] + events - 1, 0)]
            now = one_array(table, schema.request.time).to_numpy(zero_copy_only=False)
            if (bad := (events > 0) & (newest > now)).any():
                row = int(np.argmax(bad))
                expected = f"events that are not after the request's {now[row]}"
                raise DataError(
                    f"{where}, row {row}, field {sequence.name}.events: expected {expected}, got one at {newest[row]}"
                )


def with_place(table: pa.Table, folder: Path) -> pa.Table:
    """The table, which knows where the events of its requests are."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), PLACE: str(folder).encode()})


def place_of(table: pa.Table) -> Path | None:
    """The dataset folder of `with_place`."""
    found = (table.schema.metadata or {}).get(PLACE)
    return None if found is None else Path(found.decode())


def whole(table: pa.Table, schema: Schema) -> pa.Table:
    """The same rows with the events in them, as list columns of `schema.with_copies()`."""
    folder = place_of(table)
    for sequence in schema.sequences:
        if not sequence.once or folder is None:
            continue
        users, events = (one_array(table, f"{sequence.name}.{name}").to_numpy() for name in ("user", "events"))
        store = open_store(folder, sequence.name)
        for name in store.columns:
            found = store.lists(name, users.astype(np.int64), events.astype(np.int64), None)
            table = table.append_column(f"{sequence.name}.{name}", list_column(found.lengths, found.values))
        table = table.drop_columns([f"{sequence.name}.user", f"{sequence.name}.events"])
    return table


def folder_of(path: Path, schema: Schema) -> Path:
    """The folder of the dataset that a split or a file of it lies in. Raises DataError if no folder around it has the
    events of this schema."""
    once = [sequence.name for sequence in schema.sequences if sequence.once]
    for parent in path.absolute().parents:
        if all((parent / STORE_FOLDER / name).is_dir() for name in once):
            return parent
    raise DataError(
        f"{path}: expected a folder {STORE_FOLDER}/{once[0]} beside the split, since {once[0]} has once: true, got none"
    )


def _wrong(store: EventStore, name: str, place: int, expected: str, got: object) -> DataError:
    user = int(np.searchsorted(store.offsets, place, side="right")) - 1
    entry = place - store.offsets[user]
    return DataError(f"{store.path / name}.npy, user {user}, event {entry}: expected {expected}, got {got}")
