"""MovieLens 100K and 1M as click-through data: label `like` = rating of 4 or 5; the history is all earlier events.

- ml-100k (`ml-100k.inter`, `.user`, `.item`): one request per rating; each user's own first 80 / next 10 / last 10 % by
  time.
- ml-1m (`interactions_all_but_last.csv`, `interactions_last.csv`, `ratings_sample_100k.dat`, `users.dat`,
  `movies.dat`): one request per rating of the sample. The history has all interactions: their order is known, their
  time mostly not. The requests in order of time are split 80 / 10 / 10 %.

The side value `rating` of an event is its rating if that was known before the second of the request, else 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from dist_rec.data.columns import Ints, expand_ranges, list_column
from dist_rec.data.errors import DataError
from dist_rec.data.id_field import IdField
from dist_rec.data.importers.source import (
    Importer,
    ImportSummary,
    Lines,
    dense_ids,
    is_there,
    read_fields,
    write_dataset,
)
from dist_rec.data.owners import CandidateSchema, RequestSchema, SequenceSchema
from dist_rec.data.schema import Schema
from dist_rec.data.writer import SPLIT_ENDS, in_parts, split_in_order

RATINGS = 6  # 0 is "not known", then 1 to 5
LIKE_FROM = 4
UNKNOWN_TIME = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Log:
    """Events, jagged: user after user, oldest first, and properties of users and items; all ids are dense."""

    name: str
    user: Ints  # (N,)
    item: Ints  # (N,)
    rating: Ints  # (N,) 0 if not known
    time: Ints  # (N,) UNKNOWN_TIME if not known
    genres: Ints  # (items,)
    profile: dict[str, Ints]  # field -> (users,)
    timed: bool  # whether every event has a time

    @property
    def starts(self) -> Ints:
        """(users,) index of each user's first event."""
        return np.searchsorted(self.user, np.arange(len(self.profile["age"])))


class MovieLens(Importer):
    """ml-100k or ml-1m, whichever has its files in the folder; `out` defaults to data/<name of the set>."""

    def __call__(self, source: Path, out: Path | None = None, *, force: bool = False) -> ImportSummary:
        if is_there(source, "ml-100k.inter"):
            log = _read_100k(source)
            requests = _split_by_user(log)
        elif is_there(source, "ratings_sample_100k.dat"):
            log = _read_1m(source)
            requests = _split_by_time(log)
        else:
            raise DataError(f"{source}: expected ml-100k.inter or ratings_sample_100k.dat (plain or .xz), got neither")
        out = out or Path("data") / log.name
        splits = {name: _tables(log, events) for name, events in requests.items()}
        rows = write_dataset(source, out, _schema(log), splits, force=force)
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
    return _Log(
        name="ml-100k",
        user=user[order],
        item=item[order],
        rating=rating[order],
        time=time[order],
        genres=_dense_by_owner(movies, movies.column(3), "item_id"),
        profile=_profile(users, {"gender": 2, "age": 1, "occupation": 3, "zip": 4}, "user_id"),
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
    return _Log(
        name="ml-1m",
        user=user,
        item=item,
        rating=rating,
        time=time,
        genres=_dense_by_owner(movies, movies.column(2), "MovieID"),
        profile=_profile(users, {"gender": 1, "age": 2, "occupation": 3, "zip": 4}, "UserID"),
        timed=False,
    )


def _read_interactions(src: Path, part: str, users: Lines, movies: Lines) -> tuple[Ints, Ints]:
    """Dense user and item of every line `user-...,movie-...`."""
    lines = read_fields(src, f"interactions_{part}.csv", ",", 2)
    bare = replace(lines, fields=[[field.partition("-")[0] for field in fields] for fields in lines.fields])
    user = _look_up(bare, 0, "UserID", users)
    return user, _look_up(bare, 1, "MovieID", movies)


def _find_events(lines: Lines, user: Ints, item: Ints, users: Lines, movies: Lines) -> Ints:
    """Index of the interaction that each rating belongs to."""
    rated = _look_up(lines, 0, "UserID", users) * len(movies.fields)
    rated += _look_up(lines, 1, "MovieID", movies)
    pairs = user * len(movies.fields) + item
    order = np.argsort(pairs)
    place = np.minimum(np.searchsorted(pairs[order], rated), len(pairs) - 1)
    if (missing := pairs[order[place]] != rated).any():
        row = int(np.argmax(missing))
        raise lines.error(row, "a user and movie of a line in interactions_*", "::".join(lines.fields[row]))
    return order[place]


def _look_up(lines: Lines, index: int, name: str, owners: Lines) -> Ints:
    """Dense ids of one field: places among the sorted first fields of the lines of `owners`."""
    ids, known = lines.integers(index, name), np.sort(owners.integers(0, name))
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    if (missing := known[place] != ids).any():
        row = int(np.argmax(missing))
        raise lines.error(row, f"the {name} of a line in {owners.path.name}", str(ids[row]))
    return place


def _ratings(lines: Lines) -> Ints:
    rating = lines.integers(2, "rating")
    if (bad := (rating < 1) | (rating >= RATINGS)).any():
        row = int(np.argmax(bad))
        raise lines.error(row, "a rating from 1 to 5", str(rating[row]))
    return rating


def _profile(users: Lines, fields: dict[str, int], id_name: str) -> dict[str, Ints]:
    """Dense ids of the users' properties, user after user; a zip code counts by its first two characters."""
    texts = {name: users.column(index) for name, index in fields.items()}
    texts["zip"] = [text[:2] for text in texts["zip"]]
    return {name: _dense_by_owner(users, column, id_name) for name, column in texts.items()}


def _dense_by_owner(owners: Lines, texts: list[str], id_name: str) -> Ints:
    """Dense ids of one text per line of `owners`, in the order of the owners' own ids."""
    return dense_ids(texts)[1][np.argsort(owners.integers(0, id_name))]


def _split_by_user(log: _Log) -> dict[str, Ints]:
    """Per split, the events that are requests: all, by each user's own order."""
    count = np.bincount(log.user, minlength=len(log.starts))
    share = (np.arange(len(log.user)) - log.starts[log.user] + 0.5) / count[log.user]
    split = np.searchsorted(list(SPLIT_ENDS.values()), share)
    return {name: np.flatnonzero(split == index) for index, name in enumerate(SPLIT_ENDS)}


def _split_by_time(log: _Log) -> dict[str, Ints]:
    """Per split, the events that are requests: those with a rating, by time."""
    rated = np.flatnonzero(log.rating)
    return split_in_order(rated[np.argsort(log.time[rated], kind="stable")])


def _tables(log: _Log, requests: Ints) -> Iterator[pa.Table]:
    lengths = requests - log.starts[log.user[requests]]
    return (_table(log, part) for part in in_parts(requests, lengths))


def _table(log: _Log, requests: Ints) -> pa.Table:
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
        # Ids have groups of their own: the profile of a user, and the genres of an item, are other information.
        feature_groups={
            "user": ["context.user"],
            "profile": [f"context.{name}" for name in profile],
            "item": ["candidate.item"],
            "genres": ["candidate.genres"],
        },
    )
