"""MovieLens 100K and 1M as click-through data: label `like` = rating of 4 or 5; the history is all that the user did
before.

- ml-100k (`ml-100k.inter`, `.user`, `.item`): one request per rating; each user's own first 80 / next 10 / last 10 % by
  time.
- ml-1m (`interactions_all_but_last.csv`, `interactions_last.csv`, `ratings_sample_100k.dat`, `users.dat`,
  `movies.dat`): one request per rating of the sample; history of all interactions, whose order is known but mostly not
  their time; the requests in order of time are split 80 / 10 / 10 %.

The side value `rating` of an event is its rating if that was known before the second of the request, else 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.data.columns import expand_ranges, list_column
from dist_rec.data.errors import DataError
from dist_rec.data.importers.source import Importer, ImportSummary, Lines, check_apart, dense_ids, is_there, read_fields
from dist_rec.data.schema import CandidateSchema, IdField, RequestSchema, Schema, SequenceSchema
from dist_rec.data.writer import staged, write_schema, write_split

RATINGS = 6  # 0 is "not known", then 1 to 5
LIKE_FROM = 4
EVENTS_PER_TABLE = 2_000_000
UNKNOWN_TIME = np.iinfo(np.int64).max
SPLIT_ENDS = {"train": 0.8, "valid": 0.9, "test": 1.0}


@dataclass(frozen=True)
class _Log:
    """Events packed user after user, oldest first, and what is known of users and items; all ids are dense."""

    name: str
    user: NDArray[np.int64]  # (N,)
    item: NDArray[np.int64]  # (N,)
    rating: NDArray[np.int64]  # (N,) 0 if not known
    time: NDArray[np.int64]  # (N,) UNKNOWN_TIME if not known
    genres: NDArray[np.int64]  # (items,)
    profile: dict[str, NDArray[np.int64]]  # field -> (users,)
    timed: bool  # whether every event has a time

    @property
    def starts(self) -> NDArray[np.int64]:
        """(users,) index of each user's first event."""
        return np.searchsorted(self.user, np.arange(len(self.profile["age"])))


class MovieLens(Importer):
    """ml-100k or ml-1m, whichever has its files in the folder. `out` is data/<name of the set> by default."""

    def __call__(self, source: Path, out: Path | None = None, *, force: bool = False) -> ImportSummary:
        """Raises DataError for missing files and malformed lines, and if the folder cannot be written, or replaced (see
        `staged`); nothing is written then."""
        if is_there(source, "ml-100k.inter"):
            log = _read_100k(source)
            requests = _split_by_user(log)
        elif is_there(source, "ratings_sample_100k.dat"):
            log = _read_1m(source)
            requests = _split_by_time(log)
        else:
            raise DataError(f"{source}: expected ml-100k.inter or ratings_sample_100k.dat (plain or .xz), got neither")
        schema, out = _schema(log), out or Path("data") / log.name
        check_apart(source, out)
        with staged(out, force=force) as folder:
            write_schema(folder, schema)
            rows = {name: write_split(folder / name, _tables(log, events), schema) for name, events in requests.items()}
        return ImportSummary(log.name, out, rows=rows, candidates=rows, dropped={})


def _read_100k(src: Path) -> _Log:
    lines = read_fields(src, "ml-100k.inter", "\t", 4, header=True)
    users = read_fields(src, "ml-100k.user", "\t", 5, header=True)
    movies = read_fields(src, "ml-100k.item", "\t", 4, header=True)
    user = _look_up(lines, 0, "user_id", users)
    item = _look_up(lines, 1, "item_id", movies)
    time = lines.integers(3, "timestamp")
    rating = _ratings(lines)
    order = np.lexsort((time, user))
    user_order, item_order = np.argsort(users.integers(0, "user_id")), np.argsort(movies.integers(0, "item_id"))
    return _Log(
        name="ml-100k",
        user=user[order],
        item=item[order],
        rating=rating[order],
        time=time[order],
        genres=dense_ids(movies.column(3))[1][item_order],
        profile={
            name: values[user_order] for name, values in _profile(users, gender=2, age=1, occupation=3, zip=4).items()
        },
        timed=True,
    )


def _read_1m(src: Path) -> _Log:
    users = read_fields(src, "users.dat", "::", 5)
    movies = read_fields(src, "movies.dat", "::", 3, encoding="iso-8859-1")
    parts = [_read_interactions(src, name, users, movies) for name in ("all_but_last", "last")]
    user, item = (np.concatenate(columns) for columns in zip(*parts))
    order = np.argsort(user, kind="stable")
    user, item = user[order], item[order]
    lines = read_fields(src, "ratings_sample_100k.dat", "::", 4)
    event = _find_events(lines, user, item, users, movies)
    rating = np.zeros(len(user), dtype=np.int64)
    rating[event] = _ratings(lines)
    time = np.full(len(user), UNKNOWN_TIME)
    time[event] = lines.integers(3, "Timestamp")
    user_order, item_order = np.argsort(users.integers(0, "UserID")), np.argsort(movies.integers(0, "MovieID"))
    return _Log(
        name="ml-1m",
        user=user,
        item=item,
        rating=rating,
        time=time,
        genres=dense_ids(movies.column(2))[1][item_order],
        profile={
            name: values[user_order] for name, values in _profile(users, gender=1, age=2, occupation=3, zip=4).items()
        },
        timed=False,
    )


def _read_interactions(
    src: Path, part: str, users: Lines, movies: Lines
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Dense user and item of every line `user-...,movie-...`."""
    lines = read_fields(src, f"interactions_{part}.csv", ",", 2)
    bare = Lines(
        lines.path, lines.first_line, [[field.partition("-")[0] for field in fields] for fields in lines.fields]
    )
    user = _look_up(bare, 0, "UserID", users)
    return user, _look_up(bare, 1, "MovieID", movies)


def _find_events(
    lines: Lines, user: NDArray[np.int64], item: NDArray[np.int64], users: Lines, movies: Lines
) -> NDArray[np.int64]:
    """Index of the interaction that each rating belongs to."""
    rated = _look_up(lines, 0, "UserID", users) * len(movies.fields)
    rated += _look_up(lines, 1, "MovieID", movies)
    pairs = user * len(movies.fields) + item
    order = np.argsort(pairs)
    place = np.minimum(np.searchsorted(pairs[order], rated), len(pairs) - 1)
    if (missing := pairs[order[place]] != rated).any():
        row = int(np.argmax(missing))
        raise lines.error(row, "a user and movie that stand in interactions_*", "::".join(lines.fields[row]))
    return order[place]


def _look_up(lines: Lines, index: int, name: str, owners: Lines) -> NDArray[np.int64]:
    """Dense ids of one field: places among the sorted ids that stand first in the lines of `owners`."""
    ids, known = lines.integers(index, name), np.sort(owners.integers(0, name))
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    if (missing := known[place] != ids).any():
        row = int(np.argmax(missing))
        raise lines.error(row, f"the {name} of a line in {owners.path.name}", str(ids[row]))
    return place


def _ratings(lines: Lines) -> NDArray[np.int64]:
    rating = lines.integers(2, "rating")
    if (bad := (rating < 1) | (rating >= RATINGS)).any():
        row = int(np.argmax(bad))
        raise lines.error(row, "a rating from 1 to 5", str(rating[row]))
    return rating


def _profile(users: Lines, **fields: int) -> dict[str, NDArray[np.int64]]:
    """Dense ids of the users' properties, in the order of their file; of the zip code, the first two characters."""
    texts = {name: users.column(index) for name, index in fields.items()}
    texts["zip"] = [text[:2] for text in texts["zip"]]
    return {name: dense_ids(column)[1] for name, column in texts.items()}


def _split_by_user(log: _Log) -> dict[str, NDArray[np.int64]]:
    """Per split, the events that are requests: all, by each user's own order."""
    count = np.bincount(log.user, minlength=len(log.starts))
    share = (np.arange(len(log.user)) - log.starts[log.user] + 0.5) / count[log.user]
    split = np.searchsorted(list(SPLIT_ENDS.values()), share)
    return {name: np.flatnonzero(split == index) for index, name in enumerate(SPLIT_ENDS)}


def _split_by_time(log: _Log) -> dict[str, NDArray[np.int64]]:
    """Per split, the events that are requests: those with a rating, by time."""
    rated = np.flatnonzero(log.rating)
    rated = rated[np.argsort(log.time[rated], kind="stable")]
    ends = [round(share * len(rated)) for share in SPLIT_ENDS.values()]
    return dict(zip(SPLIT_ENDS, np.split(rated, ends[:-1])))


def _tables(log: _Log, requests: NDArray[np.int64]) -> Iterator[pa.Table]:
    lengths = requests - log.starts[log.user[requests]]
    chunk = np.cumsum(lengths) // EVENTS_PER_TABLE
    for part in np.split(requests, np.flatnonzero(np.diff(chunk)) + 1):
        yield _table(log, part)


def _table(log: _Log, requests: NDArray[np.int64]) -> pa.Table:
    user, item, time = log.user[requests], log.item[requests], log.time[requests]
    starts = log.starts[user]
    row, events = expand_ranges(starts, requests - starts)
    history = {
        "item": log.item[events],
        "genres": log.genres[log.item[events]],
        # Ratings of the same second are not known yet: a page of ratings is sent at once.
        "rating": np.where(log.time[events] < time[row], log.rating[events], 0),
    }
    if log.timed:
        history["time"] = log.time[events]
    one = np.ones(len(requests), dtype=np.int64)
    return pa.table(
        {"user": user, "time": time}
        | {name: values[user] for name, values in log.profile.items()}
        | {f"history.{name}": list_column(requests - starts, values) for name, values in history.items()}
        | {"candidate.item": list_column(one, item), "candidate.genres": list_column(one, log.genres[item])}
        | {"candidate.like": list_column(one, (log.rating[requests] >= LIKE_FROM).astype(np.int8))}
    )


def _schema(log: _Log) -> Schema:
    token = [IdField(name="item", table="item"), IdField(name="genres", table="genres")]
    profile = {name: int(values.max()) + 1 for name, values in log.profile.items()}
    tables = {"item": len(log.genres), "genres": int(log.genres.max()) + 1, "user": len(log.starts), **profile}
    return Schema(
        name=log.name,
        tables=tables,
        request=RequestSchema(grouping_key="user", time="time"),
        context=[IdField(name=name, table=name) for name in ("user", *profile)],
        sequences=[SequenceSchema(name="history", ids=token, side={"rating": RATINGS}, time=log.timed)],
        candidate=CandidateSchema(ids=token, labels=["like"], visible_events=False, oracle=False),
        # The id alone, since what it says of a user is not what the profile says; the item from its genres likewise.
        feature_groups={
            "user": ["context.user"],
            "profile": [f"context.{name}" for name in profile],
            "item": ["candidate.item"],
            "genres": ["candidate.genres"],
        },
    )
