"""The events of all users of one sequence, user after user and oldest first, as one file for each column.

A request then needs nothing but its user and how many of the events came before it: `events_before`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_rec.data.build.config import EventsConfig
from dist_rec.data.build.database import Database, order_by, quoted
from dist_rec.data.build.numbering import Numbers, Owner
from dist_rec.data.build.roles import USERS
from dist_rec.data.build.splits import MICROSECONDS
from dist_rec.data.columns import Ints
from dist_rec.data.event_store import OFFSETS

ROWS_AT_ONCE = 500_000


@dataclass(frozen=True)
class Sorted:
    """N events of the users 0 .. U - 1.

    - `offsets` (U + 1,) int64, `times` (N,) int64 microseconds, a file that is mapped into memory
    - `columns` field -> (N,) int32 ids, int16 side values, and int64 seconds as `time` if it has times, mapped too
    - `unknown` field -> events with an id that training did not know
    """

    offsets: Ints
    times: Ints
    columns: dict[str, NDArray]
    unknown: dict[str, int]


def write_store(
    database: Database,
    folder: Path,
    exact: Path,
    numbers: Numbers,
    owner: Owner,
    config: EventsConfig,
    told: Callable[[int], None],
) -> Sorted:
    """Sorts the events of a sequence and writes them as `data.event_store` reads them, and their times of microseconds
    to the file `exact`. `told` hears how many are written."""
    what = f"sorting the events of {owner.name}"
    joins = f"FROM {owner.relation} {numbers.joins(owner)}"
    count, users = database.one(f"SELECT (SELECT count(*) FROM {owner.relation}), (SELECT count(*) FROM {USERS})", what)
    wide = {name: numbers.is_open(of.table or name) for name, of in owner.ids.items()}
    kinds = {name: np.int64 if wide[name] else np.int32 for name in owner.ids}
    kinds |= {name: np.int16 for name in owner.side}
    kinds |= {name: np.float32 for name in config.numbers}
    kinds |= {"time": np.int64} if config.times else {}
    columns = {name: _new(folder / f"{name}.npy", count, kind) for name, kind in kinds.items()}
    times, user = _new(exact, count, np.int64), np.zeros(users + 1, np.int64)
    ids = [
        f"({numbers.id_of(owner, name)})::{'BIGINT' if wide[name] else 'INTEGER'} AS {quoted(name)}"
        for name in owner.ids
    ]
    side = [f"({numbers.side_of(owner, name)})::SMALLINT AS {quoted(name)}" for name in owner.side]
    numbers_ = [f"coalesce(o.{quoted(f'number {name}')}, 'nan'::FLOAT) AS {quoted(name)}" for name in config.numbers]
    query = (
        f'SELECT u.user_row AS " user", o.time AS " time", {", ".join([*ids, *side, *numbers_])} {joins} ORDER BY '
        f"u.user_row, o.time, {order_by(len(config.order))}"
    )
    done = 0
    for batch in database.stream(query, what, ROWS_AT_ONCE):
        found = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names}
        end = done + batch.num_rows
        times[done:end] = found[" time"]
        found["time"] = found[" time"] // MICROSECONDS
        user[1:] += np.bincount(found[" user"], minlength=users)
        for name, column in columns.items():
            column[done:end] = found[name]
        done = end
        told(done)
    counted = [f"count(*) FILTER ({numbers.unknown(owner, name)})" for name in owner.ids]
    unknown = database.one(f"SELECT {', '.join(counted)} {joins}", what)
    offsets = np.cumsum(user)
    np.save(folder / f"{OFFSETS}.npy", offsets)
    for column in columns.values():
        if isinstance(column, np.memmap):
            column.flush()
    return Sorted(offsets, times, columns, dict(zip(owner.ids, unknown, strict=True)))


def events_before(store: Sorted, users: Ints, moments: Ints) -> Ints:
    """(B,) how many of the events of each of B users are before its moment, in microseconds."""
    low, high = store.offsets[users], store.offsets[users + 1]
    first = low.copy()
    # All binary searches at once: after as many steps as the longest history has bits, low == high everywhere.
    while (open_ := low < high).any():
        middle = (low + high) // 2
        before = np.zeros(len(low), bool)
        before[open_] = store.times[middle[open_]] < moments[open_]
        low = np.where(open_ & before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return low - first


def _new(path: Path, count: int, kind: type) -> NDArray:
    if not count:  # nothing can be mapped
        np.save(path, np.zeros(0, kind))
        return np.zeros(0, kind)
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=(count,))
