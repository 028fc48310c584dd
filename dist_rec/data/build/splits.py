"""Requests, their split, and their users with the moment until which training knows what they did."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, replace
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dist_rec.data.build.config import BuildConfig
from dist_rec.data.build.database import Database, literal, order_by, quoted
from dist_rec.data.build.roles import CANDIDATES, PLACED, USERS
from dist_rec.data.build.split_config import SplitConfig
from dist_rec.data.errors import DataError

SPLITS = ("train", "valid", "test")
EVER, NEVER = 2**62, -(2**62)
DAY, MICROSECONDS = 86_400, 1_000_000
MOST_FOLDERS = 10_000
WHAT = "splitting the requests"
CHUNKED, REQUESTS, DIVIDED = '"all chunked"', '"all requests"', '"all divided"'


@dataclass(frozen=True)
class Times:
    """Microseconds since 1970: the first and the last request, and where valid and test start, by time; or the starts
    of windows with requests, by windows. `folders`: of the splits, and `fitted` those that ids and numbers are fitted
    on."""

    first: int
    last: int
    valid: int | None = None
    test: int | None = None
    windows: tuple[int, ...] = ()
    folders: tuple[str, ...] = SPLITS
    fitted: tuple[str, ...] = ("train",)


def make_requests(database: Database, config: BuildConfig) -> Times:
    """Tables PLACED (candidates with request, in order of time, t and split) and USERS (user, user_row, known_until).

    t is the moment of a request, that of its first candidate, or of its last one where candidates see events of their
    own: its history is what was before t, and it is later than all that training knows if t is.

    Raises DataError if there are no requests, none to train on, or more than one folder for one."""
    keys = _chunk(database, config)
    t = "max(time)" if config.requests.visible_events else "min(time)"
    folders = ", min(folder) AS folder, max(folder) AS other" if config.split.by == "column" else ""
    database.run(
        f"CREATE TABLE {REQUESTS} AS SELECT row_number() OVER (ORDER BY t, {keys}) - 1 AS request, * FROM "
        f"(SELECT {keys}, {t} AS t, min(time) AS began{folders} FROM {CHUNKED} GROUP BY {keys})",
        WHAT,
    )
    count, first, last = database.one(f"SELECT count(*), min(t), max(t) FROM {REQUESTS}", WHAT)
    if not count:
        raise DataError("requests: expected at least one row that is left, got none")
    if config.split.by == "column":
        _check_folders(database)
    times = _cuts(database, config.split, Times(first, last), count)
    database.run(_split(config.split, times), WHAT)
    found = dict(database.rows(f"SELECT split, count(*) FROM {DIVIDED} GROUP BY 1", WHAT))
    times = _with_folders(times, config.split, list(found))
    if config.split.by == "windows" and len(times.folders) < 2:
        raise DataError(f"split.every: expected at least two windows of {count} requests, got one; say a shorter one")
    for split in (*times.folders, *times.fitted):
        if not found.get(split):
            spans = f"requests are from {moment(first)} to {moment(last)}"
            raise DataError(f"split: expected requests for {split}, got none of {count}; {spans}")
    same = " AND ".join(f"c.{key} = d.{key}" for key in keys.split(", "))
    database.run(
        f"CREATE TABLE {PLACED} AS SELECT d.request, d.split, d.t, c.* FROM {CHUNKED} c JOIN {DIVIDED} d ON {same}",
        WHAT,
    )
    fitted = f"split IN ({', '.join(map(literal, times.fitted))})"
    until_held_out = f"coalesce(min(began) FILTER (NOT {fitted}), {EVER})"
    known = {
        "time": str(times.valid),
        "windows": str(times.windows[1] if len(times.windows) > 1 else EVER),
        "last": until_held_out,
    }.get(config.split.by, f"CASE WHEN bool_or({fitted}) THEN {until_held_out} ELSE {NEVER} END")
    database.run(
        f"CREATE TABLE {USERS} AS SELECT user, row_number() OVER (ORDER BY user) - 1 AS user_row, {known} AS "
        f"known_until FROM {DIVIDED} GROUP BY user",
        WHAT,
    )
    return times


def _chunk(database: Database, config: BuildConfig) -> str:
    """The view CHUNKED of candidates, and the columns that rows of one request have in common."""
    pages = [f'"page {place}"' for place in range(len(config.requests.page))]
    keys = ["user", *(pages or ([] if config.requests.visible_events else ["time"]))]
    most = config.requests.most
    number = f"row_number() OVER (PARTITION BY {', '.join(keys)} ORDER BY {order_by(len(config.requests.order))}) - 1"
    chunk = "0" if most is None else f"({number}) // {most}"
    database.run(f"CREATE VIEW {CHUNKED} AS SELECT *, {chunk} AS chunk FROM {quoted(CANDIDATES)} o", WHAT)
    return ", ".join([*keys, "chunk"])


def _check_folders(database: Database) -> None:
    """Raises DataError for a request with two folders, for too many of them, and for names that a disk may not tell
    apart."""
    torn = database.rows(
        f"SELECT user, began, folder, other FROM {REQUESTS} WHERE folder != other ORDER BY request LIMIT 1", WHAT
    )
    if torn:
        user, began, *both = torn[0]
        raise DataError(
            f"split.column: expected one folder for all rows of a request, got {both[0]} and {both[1]} in that of user "
            f"{user} at {moment(began)}"
        )
    count, names = database.one(f"SELECT count(DISTINCT folder), count(DISTINCT lower(folder)) FROM {REQUESTS}", WHAT)
    if count > MOST_FOLDERS:
        raise DataError(f"split.column: expected at most {MOST_FOLDERS} folders, got {count}")
    if names < count:
        raise DataError(
            "split.column: expected names of folders that differ in more than capitals, got some that do not"
        )


def _with_folders(times: Times, split: SplitConfig, found: list[str]) -> Times:
    """What the splits are called. Those of a column are in the order of SPLITS, then by name."""
    if split.by == "windows":
        starts = tuple(start for start in times.windows if _name(start, split) in found)
        return replace(times, windows=starts, folders=tuple(sorted(found)), fitted=(min(found),))
    if split.by == "column":
        others = sorted(set(found) - set(SPLITS))
        return replace(times, folders=(*(name for name in SPLITS if name in found), *others), fitted=tuple(split.train))
    return times


def moment(microseconds: int) -> str:
    """A time for people, in UTC."""
    try:
        return f"{datetime.datetime.fromtimestamp(microseconds / 1e6, datetime.timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{microseconds / 1e6:.0f} seconds after 1970"


def microseconds(text: str, zone: str, where: str) -> int:
    """Of a date or time in ISO 8601. Raises DataError for another text, and for an unknown zone."""
    try:
        found = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise DataError(
            f"{where}: expected a date or time such as 2024-05-01 or 2024-05-01T12:00, got {text!r}"
        ) from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=zone_of(zone))
    since = found - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return since // datetime.timedelta(microseconds=1)


def zone_of(name: str) -> ZoneInfo:
    """Raises DataError for an unknown zone."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise DataError(f"split.zone: expected a zone such as Europe/Berlin, got {name!r}") from None


def _cuts(database: Database, split: SplitConfig, times: Times, count: int) -> Times:
    if split.by == "windows":
        windows = tuple(_windows(split, times))
        if len(windows) > MOST_FOLDERS:
            spans = f"requests are from {moment(times.first)} to {moment(times.last)}"
            raise DataError(f"split.every: expected at most {MOST_FOLDERS} windows, got {len(windows)}; {spans}")
        return replace(times, windows=windows)
    if split.by != "time":
        return times
    if isinstance(split.valid, str) and isinstance(split.test, str):
        valid, test = (microseconds(text, split.zone, "split") for text in (split.valid, split.test))
        if valid >= test:
            raise DataError(f"split: expected valid before test, got {split.valid} and {split.test}")
        return Times(times.first, times.last, valid, test)
    assert isinstance(split.valid, float) and isinstance(split.test, float), "checked with the build file"
    places = [round(count * (1 - split.valid - split.test)), round(count * (1 - split.test))]
    found = [database.one(f"SELECT t FROM {REQUESTS} WHERE request = {min(p, count - 1)}", WHAT)[0] for p in places]
    return Times(times.first, times.last, *found)


def _windows(split: SplitConfig, times: Times) -> Iterator[int]:
    """Starts of all windows. Those of whole days start at midnight of the zone, whatever its clocks do; others are
    counted from 1970."""
    assert split.every is not None, "checked with the build file"
    first = split.first or split.every
    if split.every % DAY or first % DAY:
        start = times.first - times.first % (split.every * MICROSECONDS)
        yield start
        yield from range(start + first * MICROSECONDS, times.last + 1, split.every * MICROSECONDS)
        return
    zone = zone_of(split.zone)
    day = datetime.datetime.fromtimestamp(times.first // MICROSECONDS, zone).date()
    step = first
    while (start := microseconds(day.isoformat(), split.zone, "split")) <= times.last:
        yield start
        day, step = day + datetime.timedelta(seconds=step), split.every


def _name(start: int, split: SplitConfig) -> str:
    """Of the folder of a window; names are in order of time."""
    assert split.every is not None, "checked with the build file"
    if split.every % DAY or (split.first or 0) % DAY:
        at = datetime.datetime.fromtimestamp(start // MICROSECONDS, datetime.timezone.utc)
        return f"{at:%Y-%m-%dT%H%M%SZ}"
    return f"{datetime.datetime.fromtimestamp(start // MICROSECONDS, zone_of(split.zone)):%Y-%m-%d}"


def _split(split: SplitConfig, times: Times) -> str:
    if split.by == "windows":
        rows = ", ".join(f"({start}, {literal(_name(start, split))})" for start in times.windows)
        joined = f"ASOF JOIN (VALUES {rows}) AS w(start, split) ON r.t >= w.start"
        return f"CREATE TABLE {DIVIDED} AS SELECT r.*, w.split FROM {REQUESTS} r {joined}"
    if split.by == "column":
        how = "folder"
    elif split.by == "time":
        how = f"CASE WHEN t < {times.valid} THEN 'train' WHEN t < {times.test} THEN 'valid' ELSE 'test' END"
    elif split.by == "user":
        assert isinstance(split.valid, float) and isinstance(split.test, float), "checked with the build file"
        place = f"md5_number_lower(user::VARCHAR || ' {split.seed}') / 18446744073709551616.0"
        how = (
            f"CASE WHEN {place} < {split.test!r} THEN 'test' WHEN {place} < {split.test + split.valid!r} THEN 'valid' "
            "ELSE 'train' END"
        )
    else:
        newer = "row_number() OVER (PARTITION BY user ORDER BY request DESC)"
        how = (
            f"CASE WHEN count(*) OVER (PARTITION BY user) < 3 THEN 'train' WHEN {newer} = 1 THEN 'test' "
            f"WHEN {newer} = 2 THEN 'valid' ELSE 'train' END"
        )
    return f"CREATE TABLE {DIVIDED} AS SELECT *, {how} AS split FROM {REQUESTS}"
