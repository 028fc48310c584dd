"""One training split in several forms: the same labels with the same histories, shared by more or fewer of them.

Legend: c candidates of a request.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bench_candidates import split_candidates
from dist_rec.data.columns import arrow_schema
from dist_rec.data.importers.built import BuiltOptions
from dist_rec.data.importers.movielens import MovieLens
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema
from dist_rec.data.synthetic.history import SynthConfig, synthesize
from dist_rec.data.writer import SPLIT_ENDS, write_schema, write_split

EVERY_REQUEST = 2**31 - 1  # a shuffle window over the whole split
MIXED_REQUESTS = 512
USERS_PER_FILE = 16


@dataclass(frozen=True)
class Form:
    """How a training split is cut and ordered.

    - `candidates`: labels of one request; a batch has as many requests as make its labels
    - `folder`: the split's sub-folder
    - `window`: `data.shuffle_window`. A user is one row group of a split in the order of users, so that a window of 1
      shuffles users and keeps the requests of each side by side
    """

    candidates: int
    folder: str
    window: int


def forms(levels: tuple[int, ...]) -> dict[str, Form]:
    """Form by name, from the least shared to the most; `levels` are the candidates of a request, ascending."""
    most = levels[-1]
    found = {_name(c): Form(c, _folder(c), EVERY_REQUEST) for c in levels}
    found[f"users, mixed in windows of {MIXED_REQUESTS}"] = Form(most, "users", MIXED_REQUESTS)
    found["whole users"] = Form(most, "users", 1)
    return found


def _name(candidates: int) -> str:
    return "apart" if candidates == 1 else f"requests of {candidates}"


def _folder(candidates: int) -> str:
    return f"candidates-{candidates}"


def make_synthetic(out: Path, config: SynthConfig, levels: tuple[int, ...], labels: int) -> None:
    """A dataset folder with valid, test, and train in the forms of `levels`, the last of which are the candidates of
    `config`. Train is cut to whole batches of `labels` labels, so that every form has the same steps."""
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder) / "data", config)
        schema, tables = _read(Path(folder) / "data")
    _write(out, schema, tables, levels, labels)


def make_ml100k(out: Path, source: Path, levels: tuple[int, ...], labels: int) -> None:
    """As `make_synthetic`, of MovieLens 100k: each user's ratings of a split in order of time, `levels[-1]` in a
    request, whose history ends before the first of them. In train a user's last ratings, too few for a request, are
    left out; valid and test keep them."""
    with tempfile.TemporaryDirectory() as folder:
        MovieLens(BuiltOptions())(source, Path(folder) / "data")
        schema, tables = _read(Path(folder) / "data")
    # Users side by side, each in order of time, as the rows are.
    tables = {
        name: table.take(np.argsort(table.column("user").to_numpy(), kind="stable")) for name, table in tables.items()
    }
    joined = {name: in_requests(table, levels[-1], keep_rest=name != "train") for name, table in tables.items()}
    _write(out, schema, joined, levels, labels)


def in_requests(table: pa.Table, candidates: int, *, keep_rest: bool) -> pa.Table:
    """Rows of one candidate each, joined: `candidates` consecutive rows of a user are one request with the context and
    the histories of the first. `keep_rest`: whether a user's last rows, too few for a request, are one too."""
    user = table.column("user").to_numpy()
    first = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    place = np.arange(len(user)) - np.repeat(first, np.diff(np.r_[first, len(user)]))  # among the user's rows
    starts = np.flatnonzero(place % candidates == 0)
    lengths = np.diff(np.r_[starts, len(user)])
    kept = np.flatnonzero(keep_rest | (lengths == candidates))
    of_request = np.repeat(np.isin(np.arange(len(starts)), kept), lengths)
    joined = table.take(pa.array(starts[kept]))
    offsets = pa.array(np.r_[0, np.cumsum(lengths[kept])], pa.int32())
    for name in table.column_names:
        if name.startswith("candidate."):
            values = table.column(name).combine_chunks().flatten().filter(pa.array(of_request))
            lists = pa.ListArray.from_arrays(offsets, values)
            joined = joined.set_column(joined.column_names.index(name), name, lists)
    return joined


def fewer_candidates(table: pa.Table, candidates: int, of: int) -> pa.Table:
    """Requests of `of` candidates each as requests of `candidates` each, a divisor of it, with the same history."""
    return in_requests(split_candidates(table, of), candidates, keep_rest=False)


def _read(folder: Path) -> tuple[Schema, dict[str, pa.Table]]:
    schema = load_schema(folder)
    return schema, {split: pq.read_table(folder / split).combine_chunks() for split in SPLIT_ENDS}


def _write(out: Path, schema: Schema, tables: dict[str, pa.Table], levels: tuple[int, ...], labels: int) -> None:
    write_schema(out, schema)
    for split in ("valid", "test"):
        write_split(out / split, tables[split], schema)
    train, most = tables["train"], levels[-1]
    if not (steps := train.num_rows * most // labels):
        raise ValueError(f"expected at least one batch of {labels} labels in train, got {train.num_rows} requests")
    train = train.slice(0, steps * labels // most)
    for candidates in levels:
        write_split(out / _folder(candidates), fewer_candidates(train, candidates, most), schema)
    _write_users(out / "users", train, schema)


def _write_users(folder: Path, train: pa.Table, schema: Schema) -> None:
    """A row group per user, users in order of their ids; the reader shuffles row groups."""
    rows = arrow_schema(schema)
    user = train.column("user").to_numpy()
    users = np.unique(user)
    folder.mkdir()
    # Small files: for every row group a reader parses the footer of the whole file.
    for number, of_file in enumerate(np.split(users, range(USERS_PER_FILE, len(users), USERS_PER_FILE))):
        with pq.ParquetWriter(folder / f"part-{number:05d}.parquet", rows) as writer:
            for one in of_file:
                writer.write_table(train.take(pa.array(np.flatnonzero(user == one))).select(rows.names).cast(rows))
