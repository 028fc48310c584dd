import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_rec.data.attribute_store import open_attributes, write_attributes
from dist_rec.data.errors import DataError
from dist_rec.data.event_store import check_store, folder_of, open_store, place_of, whole, with_place
from dist_rec.data.fit import fit_dataset
from dist_rec.data.reader import RequestReader
from dist_rec.data.row_reader import PARQUET
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema
from dist_rec.data.writer import write_schema, write_split
from tests.data.build.small import START, build, config
from tests.data.kind_rows import attribute_arrays, kind_rows, kinds_schema, write_kinds
from tests.data.requests import make_table

EVENTS = [
    {"user": n % 3, "item": n * n % 7, "time": START - 90 + n // 2, "kind": "ab"[n % 2], "order": n} for n in range(80)
]
SHOWN = [
    {"user": n % 4, "item": n % 5, "time": START + n % 30, "page": n, "place": n % 3, "click": int(n % 4 == 0)}
    for n in range(120)
]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same requests with copies of their events, and with events stored once. One user has no event."""
    folder = tmp_path_factory.mktemp("both")
    return tuple(build(folder / kind, config(histories=kind), EVENTS, SHOWN) for kind in ("copies", "once"))  # pyright: ignore[reportReturnType]


def batches(out: Path, **settings: Any) -> list[Any]:
    schema = load_schema(out)
    said = {"batch_size": 8, "shuffle_window": 64, "seed": 3} | settings
    return list(RequestReader(folders=[out / "train"], schema=schema, **said))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_length": 5},
        {"shuffle_window": 0, "epochs": 2},
        {"batch_size": None, "batch_events": 60},
        {"rank": 1, "world_size": 2},
        {"dedup": False},
    ],
)
def test_batches_are_the_same_to_the_bit(both: tuple[Path, Path], settings: dict[str, Any]) -> None:
    copies, once = (batches(out, **settings) for out in both)
    assert len(copies) == len(once) > 0
    for one, other in zip(copies, once, strict=True):
        assert one.tensors.keys() == other.tensors.keys() and one.num_unique == other.num_unique
        for name, tensor in one.tensors.items():
            assert tensor.equal(other.tensors[name]), name


@pytest.mark.parametrize("kind", ["hashed", "dynamic"])
def test_ids_without_a_range_may_be_stored_once(mine: tuple[Path, Schema], both: tuple[Path, Path], kind: Any) -> None:
    out, _ = mine
    for path in (out / "sequences").glob("*/item.npy"):
        np.save(path, np.load(path).astype(np.int64) - 2**62)
    schema = load_schema(out, ids={"item": (5, kind)})
    check_store(out, schema)
    with pytest.raises(DataError, match="expected an id from 0"):
        check_store(out, load_schema(out))
    reader = RequestReader(folders=[out / "train"], schema=schema, batch_size=200)
    found = {id_ for batch in reader for key in batch.num_unique if "item" in key for id_ in batch.ids_of(key).tolist()}
    assert max(found) < 5 if kind == "hashed" else min(found) < -(2**61)


def test_files_hold_two_numbers_in_the_place_of_a_history(both: tuple[Path, Path]) -> None:
    table = pq.read_table(both[1] / "train")
    assert [name for name in table.column_names if name.startswith("history")] == ["history.user", "history.events"]
    assert load_schema(both[1]).sequences[0].once and not load_schema(both[0]).sequences[0].once


def test_whole_rows_are_the_copies(both: tuple[Path, Path]) -> None:
    schema = load_schema(both[1])
    groups = PARQUET.row_groups(both[1] / "train", schema)
    found = whole(PARQUET.read(groups, schema), schema)
    wanted = PARQUET.read(PARQUET.row_groups(both[0] / "train", load_schema(both[0])), load_schema(both[0]))
    for name in wanted.column_names:
        assert found.column(name).to_pylist() == wanted.column(name).to_pylist(), name
    assert set(found.column_names) == set(wanted.column_names)


def test_a_table_knows_its_place_through_what_a_lane_does_with_it() -> None:
    table = with_place(pa.table({"x": [1, 2, 3]}), Path("/a"))
    assert place_of(table.take(pa.array([0, 2]))) == place_of(table.slice(1).combine_chunks()) == Path("/a")
    assert place_of(pa.concat_tables([table, table]).combine_chunks()) == Path("/a") and place_of(pa.table({})) is None


@pytest.fixture
def mine(both: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Schema]:
    """A copy to damage."""
    shutil.copytree(both[1], tmp_path / "mine")
    return tmp_path / "mine", load_schema(tmp_path / "mine")


def change(path: Path, place: int, value: int) -> None:
    array = np.load(path)
    array[place] = value
    np.save(path, array)


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("item", 5, 99, r"item\.npy, user 0, event 5: expected an id from 0 to 5, got 99"),
        ("kind", 30, -1, r"kind\.npy, user 1, event 3: expected an id from 0 to 1, got -1"),
        ("time", 28, 5, r"time\.npy, user 1, event 1: expected a time of at least \d+, oldest first, got 5"),
        ("offsets", 0, 3, r"offsets\.npy: expected numbers that start at 0 and do not fall"),
        ("offsets", -1, 99, r"item\.npy: expected 99 events, as offsets\.npy ends, got 80"),
    ],
)
def test_damaged_stores(mine: tuple[Path, Schema], name: str, place: int, value: int, message: str) -> None:
    out, schema = mine
    change(out / "sequences" / "history" / f"{name}.npy", place, value)
    with pytest.raises(DataError, match=message):
        PARQUET.row_groups(out / "train", schema)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"history: expected item\.npy, got kind, time"),
        (lambda path: path.write_bytes(b""), r"item\.npy: expected an array of numpy, got"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), r"item\.npy: expected an array of numpy, got"),
        (lambda path: np.save(path, np.zeros((40, 2))), r"expected numbers in one row, got float64 of the shape"),
        (
            lambda path: np.save(path, np.array([None]), allow_pickle=True),
            r"item\.npy: expected an array of numpy, got",
        ),
    ],
    ids=["missing", "empty", "truncated", "of fractions", "with a pickle"],
)
def test_files_that_are_none(mine: tuple[Path, Schema], damage: Any, message: str) -> None:
    out, schema = mine
    damage(out / "sequences" / "history" / "item.npy")
    with pytest.raises(DataError, match=message):
        check_store(out, schema)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("user", 9, r"row 0, field history\.user: expected a user from 0 to 3, as in .*, got 9"),
        ("events", 99, r"row 0, field history\.events: expected a number of events from 0 to \d+, which its user has"),
        ("events", -1, r"row 0, field history\.events: expected a number of events from 0"),
    ],
)
def test_requests_that_do_not_fit(mine: tuple[Path, Schema], field: str, value: int, message: str) -> None:
    out, schema = mine
    (path,) = sorted((out / "train").glob("*.parquet"))
    table = pq.read_table(path)
    place = table.column_names.index(f"history.{field}")
    values = [value, *table.column(place).to_pylist()[1:]]
    pq.write_table(table.set_column(place, f"history.{field}", pa.array(values)), path)
    with pytest.raises(DataError, match=message):
        PARQUET.read(PARQUET.row_groups(out / "train", schema), schema)


def test_an_event_after_its_request_is_named(mine: tuple[Path, Schema]) -> None:
    out, schema = mine
    store = open_store(out, "history")
    change(out / "sequences" / "history" / "time.npy", int(store.offsets[1]) - 1, START + 99)
    with pytest.raises(DataError, match=r"history\.events: expected events that are not after the request's \d+, got"):
        PARQUET.read(PARQUET.row_groups(out / "train", schema), schema)


def test_a_split_without_its_events(both: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a folder sequences/history beside the split, since"):
        folder_of(tmp_path / "train", load_schema(both[1]))


def once_of_kinds(folder: Path, count: int) -> Path:
    """The requests of `write_kinds`, each with a user of its own whose events are stored once."""
    schema, rows = kinds_schema(), kind_rows(count)
    history = schema.sequences[0].model_copy(update={"once": True})
    once = schema.model_copy(update={"sequences": [history, *schema.sequences[1:]]})
    write_schema(folder, once)
    for table, arrays in attribute_arrays().items():
        write_attributes(folder, once, table, arrays)
    store = folder / "sequences" / "history"
    store.mkdir(parents=True)
    for name in ("item", "kind", "action", "time", *history.numbers):
        kind = np.float32 if name in history.numbers else np.int64
        np.save(store / f"{name}.npy", np.array([v for row in rows for v in row[f"history.{name}"]], dtype=kind))
    lengths = [len(row["history.item"]) for row in rows]
    np.save(store / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
    known = [row | {"history.user": n, "history.events": lengths[n]} for n, row in enumerate(rows)]
    write_split(folder / "train", make_table(known, once), once, rows_per_group=8)
    return folder


def test_numbers_are_stored_once_too(tmp_path: Path) -> None:
    copies, once = write_kinds(tmp_path / "copies", {"train": 40}), once_of_kinds(tmp_path / "once", 40)
    found = [batches(of, max_length=3, attributes=open_attributes(of, load_schema(of))) for of in (copies, once)]
    for one, other in zip(*found, strict=True):
        assert one.tensors.keys() == other.tensors.keys()
        assert all(of.nan_to_num(-9).equal(other.tensors[name].nan_to_num(-9)) for name, of in one.tensors.items())
    fitted = [fit_dataset(of) for of in (copies, once)]
    assert fitted[0] == fitted[1] and load_schema(once).sequences[0].once


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(7), r"price\.npy: expected float32 in one row, got float64"),
        (np.full(7, np.inf, np.float32), r"price\.npy, user \d+, event 0: expected a finite number, or NaN where"),
    ],
)
def test_numbers_that_cannot_be(tmp_path: Path, values: np.ndarray, message: str) -> None:
    out = once_of_kinds(tmp_path / "once", 8)
    path = out / "sequences" / "history" / "price.npy"
    np.save(path, np.resize(values, len(np.load(path))))
    with pytest.raises(DataError, match=message):
        check_store(out, load_schema(out))


def test_requests_of_a_user_share_a_batch(both: tuple[Path, Path]) -> None:
    """Every request once, and fewer users in each batch."""
    apart, beside = (batches(both[1], share_histories=share) for share in (False, True))

    def users(of: list[Any]) -> list[int]:
        return [len(set(batch.tensors["grouping_key"].tolist())) for batch in of]

    assert sum(users(beside)) < sum(users(apart))
    assert sum(batch.num_events for batch in beside) == sum(batch.num_events for batch in apart)
