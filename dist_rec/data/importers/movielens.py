"""MovieLens 100K and 1M as click-through data: label `like` = rating of 4 or 5; the history is all that the user did
strictly before the second of the request.

- ml-100k (`ml-100k.inter`, `.user`, `.item`): one request per rating; each user's own first 80 / next 10 / last 10 % by
  time.
- ml-1m (`interactions_all_but_last.csv`, `interactions_last.csv`, `ratings_sample_100k.dat`, `users.dat`,
  `movies.dat`): one request per rating of the sample. The history has all interactions: their order is known, their
  time mostly not, so that one without a rating counts as of the second of the last rating before it (ml_1m.yaml). The
  requests in order of time are split 80 / 10 / 10 %, those of one second together.

The side value `rating` of an event is its rating, or 0 where the sample does not have it. Ratings of the second of the
request, a page of them is sent at once, are not in its history.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from dist_rec.data.columns import Ints
from dist_rec.data.errors import DataError
from dist_rec.data.importers.built import Parsed, ParsedImporter
from dist_rec.data.importers.source import Lines, is_there, read_fields

MOST_STARS = 5


class MovieLens(ParsedImporter):
    """ml-100k or ml-1m, whichever has its files in the folder; `out` defaults to data/<name of the set>."""

    def parsed(self, source: Path) -> Parsed:
        if is_there(source, "ml-100k.inter"):
            return _read_100k(source)
        if is_there(source, "ratings_sample_100k.dat"):
            return _read_1m(source)
        raise DataError(f"{source}: expected ml-100k.inter or ratings_sample_100k.dat (plain or .xz), got neither")


def _read_100k(src: Path) -> Parsed:
    lines = read_fields(src, "ml-100k.inter", "\t", 4, header=True)
    users = read_fields(src, "ml-100k.user", "\t", 5, header=True)
    movies = read_fields(src, "ml-100k.item", "\t", 4, header=True)
    ratings = {
        "user": _known(lines, 0, "user_id", users),
        "movie": _known(lines, 1, "item_id", movies),
        "rating": _ratings(lines),
        "time": lines.integers(3, "timestamp"),
        "place": np.arange(len(lines.fields)),
    }
    tables = {
        "ratings": pa.table(ratings),
        "users": _users(users, "user_id", {"gender": 2, "age": 1, "occupation": 3, "zip": 4}),
        "movies": pa.table({"movie": movies.integers(0, "item_id"), "genres": movies.column(3)}),
    }
    return Parsed("ml_100k.yaml", tables)


def _read_1m(src: Path) -> Parsed:
    users = read_fields(src, "users.dat", "::", 5)
    movies = read_fields(src, "movies.dat", "::", 3, encoding="iso-8859-1")
    parts = [_read_interactions(src, name, users, movies) for name in ("all_but_last", "last")]
    user, movie = (np.concatenate(columns) for columns in zip(*parts))
    lines = read_fields(src, "ratings_sample_100k.dat", "::", 4)
    event = _find_events(lines, user, movie, users, movies)
    rated = np.zeros(len(user), bool)
    rated[event] = True
    rating, time = np.zeros((2, len(user)), np.int64)
    rating[event], time[event] = _ratings(lines), lines.integers(3, "Timestamp")
    interactions = {
        "user": user,
        "movie": movie,
        "rating": pa.array(rating, mask=~rated),
        "time": pa.array(time, mask=~rated),
        "place": np.arange(len(user)),  # of one user in order of time
    }
    tables = {
        "interactions": pa.table(interactions),
        "users": _users(users, "UserID", {"gender": 1, "age": 2, "occupation": 3, "zip": 4}),
        "movies": pa.table({"movie": movies.integers(0, "MovieID"), "genres": movies.column(2)}),
    }
    return Parsed("ml_1m.yaml", tables)


def _read_interactions(src: Path, part: str, users: Lines, movies: Lines) -> tuple[Ints, Ints]:
    """User and movie of every line `user-...,movie-...`."""
    lines = read_fields(src, f"interactions_{part}.csv", ",", 2)
    bare = replace(lines, fields=[[field.partition("-")[0] for field in fields] for fields in lines.fields])
    return _known(bare, 0, "UserID", users), _known(bare, 1, "MovieID", movies)


def _find_events(lines: Lines, user: Ints, movie: Ints, users: Lines, movies: Lines) -> Ints:
    """Index of the interaction that each rating belongs to."""
    most = int(movies.integers(0, "MovieID").max()) + 1
    rated = _known(lines, 0, "UserID", users) * most + _known(lines, 1, "MovieID", movies)
    pairs = user * most + movie
    order = np.argsort(pairs)
    place = np.minimum(np.searchsorted(pairs[order], rated), len(pairs) - 1)
    if (missing := pairs[order[place]] != rated).any():
        row = int(np.argmax(missing))
        raise lines.error(row, "a user and movie of a line in interactions_*", "::".join(lines.fields[row]))
    return order[place]


def _known(lines: Lines, index: int, name: str, owners: Lines) -> Ints:
    """The ids of one field, each of which is the first field of a line of `owners`."""
    ids = lines.integers(index, name)
    if (missing := ~np.isin(ids, owners.integers(0, name))).any():
        row = int(np.argmax(missing))
        raise lines.error(row, f"the {name} of a line in {owners.path.name}", str(ids[row]))
    return ids


def _ratings(lines: Lines) -> Ints:
    rating = lines.integers(2, "rating")
    if (bad := (rating < 1) | (rating > MOST_STARS)).any():
        row = int(np.argmax(bad))
        raise lines.error(row, f"a rating from 1 to {MOST_STARS}", str(rating[row]))
    return rating


def _users(users: Lines, id_name: str, fields: dict[str, int]) -> pa.Table:
    """The users' properties as texts; a zip code counts by its first two characters."""
    texts = {name: users.column(index) for name, index in fields.items()}
    texts["zip"] = [text[:2] for text in texts["zip"]]
    return pa.table({"user": users.integers(0, id_name)} | texts)
