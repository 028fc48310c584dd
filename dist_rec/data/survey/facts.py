"""What is counted of one split, in one pass over its rows.

Legend: B requests, C candidates, T tasks.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.common.id_hash import hashed_rows, mixed, raw_ids
from dist_rec.data.columns import CANDIDATE, CONTEXT, Ints
from dist_rec.data.row_reader import PARQUET, RowReader
from dist_rec.data.schema import Schema
from dist_rec.data.some_rows import SomeRows

AGES = 64  # buckets of the seconds from an event to its request, two per doubling
NUMBERS = 514  # buckets of numbers: below zero and above, two per doubling, and one for missing ones


@dataclass(frozen=True)
class SplitFacts:
    """- `time` (B,) int64 seconds, empty where requests have none; `groups` (B,) the grouping key
    - `lengths` sequence -> (B,); `candidates` (B,); `ages` sequence -> (AGES,) events, of sequences with times
    - `counts` "<owner>.<field>" -> (values,) how often each id or side value occurs
    - `numbers` "<owner>.<number>" -> (NUMBERS,) how many values are in each bucket of size, missing ones in the last
    - `ones`, `defined` (B, T) labels of 1 and labels of every request
    - `hashes` (B,) uint64 of all that a request holds: equal requests have equal ones
    - `at_once` requests with an event of their own second
    """

    name: str
    time: Ints
    groups: Ints
    lengths: dict[str, Ints]
    candidates: Ints
    ages: dict[str, Ints]
    counts: dict[str, Ints]
    numbers: dict[str, Ints]
    ones: Ints
    defined: Ints
    hashes: NDArray[np.uint64]
    at_once: int


def facts_of(folder: Path, schema: Schema, reader: RowReader = PARQUET) -> SplitFacts:
    """Raises DataError for a split that cannot be read."""
    counts = {name: np.zeros(size, np.int64) for name, size in _sizes(schema).items()}
    ages = {of.name: np.zeros(AGES, np.int64) for of in schema.sequences if of.time}
    owned = {CONTEXT: schema.request.numbers, CANDIDATE: schema.candidate.numbers}
    owned |= {of.name: of.numbers for of in schema.sequences}
    numbers = {f"{owner}.{name}": np.zeros(NUMBERS, np.int64) for owner, of in owned.items() for name in of}
    parts = [
        _part(reader.read([group], schema), schema, counts, ages, numbers)
        for group in reader.row_groups(folder, schema)
    ]

    def joined(name: str) -> NDArray:
        return np.concatenate([part[name] for part in parts])

    return SplitFacts(
        name=folder.name,
        time=joined("time"),
        groups=joined("groups"),
        lengths={of.name: joined(f"lengths.{of.name}") for of in schema.sequences},
        candidates=joined("candidates"),
        ages=ages,
        counts=counts,
        numbers=numbers,
        ones=joined("ones"),
        defined=joined("defined"),
        hashes=joined("hashes"),
        at_once=int(sum(part["at_once"].sum() for part in parts)),
    )


def _sizes(schema: Schema) -> dict[str, int]:
    sizes = {f"{CONTEXT}.{field.name}": schema.tables[field.table] for field in schema.context}
    for owner, of in [*((of.name, of) for of in schema.sequences), (CANDIDATE, schema.candidate)]:
        sizes |= {f"{owner}.{field.name}": schema.tables[field.table] for field in of.ids}
        sizes |= {f"{owner}.{name}": size for name, size in of.side.items()}
    return sizes


def _part(
    table: pa.Table, schema: Schema, counts: dict[str, Ints], ages: dict[str, Ints], numbers: dict[str, Ints]
) -> dict[str, NDArray]:
    """Facts of some rows; adds to `counts`, `ages` and `numbers`."""
    some = SomeRows(table.combine_chunks(), np.arange(table.num_rows))
    found: dict[str, NDArray] = {"groups": some.scalars(schema.request.grouping_key).astype(np.int64)}
    hashed = _mixed(found["groups"].astype(np.uint64))
    now = None if schema.request.time is None else some.scalars(schema.request.time).astype(np.int64)
    found["time"] = np.zeros(0, np.int64) if now is None else now
    hashed = _mixed(hashed ^ (hashed if now is None else now.astype(np.uint64)))
    at_once = np.zeros(len(some), bool)
    for field in schema.context:
        ids = _places(schema, field.table, some.scalars(field.name))
        counts[f"{CONTEXT}.{field.name}"] += np.bincount(ids, minlength=len(counts[f"{CONTEXT}.{field.name}"]))
        hashed = _mixed(hashed ^ ids.astype(np.uint64))
    for name in schema.request.numbers:
        values = some.scalars(name)
        numbers[f"{CONTEXT}.{name}"] += np.bincount(_buckets(values), minlength=NUMBERS)
        hashed = _mixed(hashed ^ _bits(values).astype(np.uint64))
    for owner, of in [*((of.name, of) for of in schema.sequences), (CANDIDATE, schema.candidate)]:
        lengths = some.lists(f"{owner}.{of.ids[0].name}").lengths
        found["candidates" if owner == CANDIDATE else f"lengths.{owner}"] = lengths
        tables = {field.name: field.table for field in of.ids}
        for name in [*tables, *of.side]:
            values = some.lists(f"{owner}.{name}").values
            values = _places(schema, tables[name], values) if name in tables else values.astype(np.int64)
            counts[f"{owner}.{name}"] += np.bincount(values, minlength=len(counts[f"{owner}.{name}"]))
            hashed = _mixed(hashed ^ _of_lists(values, lengths))
        for name in of.numbers:
            values = some.lists(f"{owner}.{name}").values
            numbers[f"{owner}.{name}"] += np.bincount(_buckets(values), minlength=NUMBERS)
            hashed = _mixed(hashed ^ _of_lists(_bits(values), lengths))
        if owner in ages and now is not None:
            times = some.lists(f"{owner}.time").values.astype(np.int64)
            hashed = _mixed(hashed ^ _of_lists(times, lengths))
            age = np.repeat(now, lengths) - times
            bucket = np.minimum(2 * np.log2(age.clip(min=0) + 1.0), AGES - 1).astype(np.int64)
            ages[owner] += np.bincount(bucket, minlength=AGES)
            row = np.repeat(np.arange(len(some)), lengths)
            at_once |= np.bincount(row, age == 0, len(some)) > 0
    labels = [some.lists(f"{CANDIDATE}.{task}") for task in schema.candidate.labels]
    values = {task: of.values for task, of in zip(schema.candidate.labels, labels, strict=True)}
    row = np.repeat(np.arange(len(some)), found["candidates"])
    ones, defined = [], []
    for task in schema.candidate.labels:
        condition = schema.candidate.given.get(task)
        known = np.ones(len(row), bool) if condition is None else values[condition] == 1
        ones.append(np.bincount(row, known & (values[task] == 1), len(some)).astype(np.int64))
        defined.append(np.bincount(row, known, len(some)).astype(np.int64))
        hashed = _mixed(hashed ^ _of_lists(values[task].astype(np.int64), found["candidates"]))
    found |= {"ones": np.stack(ones, 1), "defined": np.stack(defined, 1), "hashes": hashed, "at_once": at_once}
    return found


def _places(schema: Schema, table: str, values: NDArray) -> Ints:
    """Ids as places in counts: those without a range by the hash of a table as large."""
    if table not in schema.open_ids:
        return values.astype(np.int64)
    return hashed_rows(raw_ids(values), schema.tables[table])


def _bits(values: NDArray) -> Ints:
    """Numbers as whole ones that tell them apart."""
    return values.astype(np.float32).view(np.int32).astype(np.int64)


def _buckets(values: NDArray) -> Ints:
    """Of each number: by its sign and size, from 2^-64 to 2^64."""
    values = values.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.clip(np.nan_to_num(2 * np.log2(np.abs(values)), nan=0.0, neginf=-128.0), -128, 127).astype(np.int64)
    return np.where(
        np.isnan(values), NUMBERS - 1, np.where(values < 0, 127 - size, np.where(values > 0, 385 + size, 256))
    )


def _of_lists(values: Ints, lengths: Ints) -> NDArray[np.uint64]:
    """(B,) a number of each row's values and their order."""
    starts = np.cumsum(lengths) - lengths
    place = np.arange(len(values)) - np.repeat(starts, lengths)
    mixed = _mixed(values.astype(np.uint64) ^ _mixed(place.astype(np.uint64) + np.uint64(1)))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    return sums[starts + lengths] - sums[starts] + lengths.astype(np.uint64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return mixed(values.view(np.int64))


def over_time(facts: SplitFacts, first: int, width: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Starts (n,) of spans of `width` seconds, counted from `first`, from the first to the last request; requests (n,),
    ones and defined labels (n, T) in each."""
    place = (facts.time - first) // width
    low = int(place.min())
    count = int(place.max()) - low + 1

    def summed(of: Iterable[Ints]) -> Ints:
        return np.stack([np.bincount(place - low, column, count) for column in of], 1).astype(np.int64)

    starts = first + width * np.arange(low, low + count)
    return starts, np.bincount(place - low, minlength=count), summed(facts.ones.T), summed(facts.defined.T)
