"""Numbers, lists and vectors through a build: of events, candidates, requests and ids."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_rec.config import load_config
from dist_rec.data.attribute_store import AttributeStore, open_attributes
from dist_rec.data.build.numbering import hash_of_text
from dist_rec.data.errors import DataError
from dist_rec.data.reader import RequestReader
from dist_rec.data.schema_file import load_schema
from dist_rec.door import check_run
from tests.data.build.small import ANCHORS, START, build, config

ITEMS = [
    {"id": 1, "year": 1999.0, "tags": [5, 7, 5], "title": [0.5, -1.0]},
    {"id": 2, "year": None, "tags": [], "title": None},
    {"id": 3, "year": 2005.0, "tags": [7, 9], "title": [2.0, 0.25]},
    {"id": 8, "year": 1950.0, "tags": [9], "title": [1.0, 1.0]},  # an item that training does not know
]
EVENTS = [
    {"user": 9, "item": 1 + n % 3, "time": START - n, "kind": "a", "order": 0, "price": [1.5, None, "", 400.0][n % 4]}
    for n in range(1, 13)
]
SHOWN = [{**row, "item": 1 + n % 3, "bid": 0.5 * n, "distance": 10.0 + n} for n, row in enumerate(ANCHORS * 3)]


def kinds(
    folder: Path,
    events: list[dict[str, Any]] = EVENTS,
    items: Any = ITEMS,
    shown: list[dict[str, Any]] = SHOWN,
    **changes: Any,
) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(items) if isinstance(items, list) else items, folder / "items.parquet")
    tree = config(
        sources={"events": "events.csv", "shown": "shown.csv", "items": "items.parquet"},
        attributes={
            "items": {
                "key": "id",
                "of": "item",
                "numbers": {"year": "year"},
                "lists": {"tags": {"column": "tags", "table": "tag"}},
                "vectors": {"title": {"column": "title", "dim": 2}},
            }
        },
        events={"numbers": {"price": {"column": "price", "scale": "log"}}},
        requests={
            "numbers": {"bid": {"column": "bid", "encoding": "value"}},
            "context_numbers": {"distance": {"column": "distance", "bounds": [11, 13], "encoding": "buckets"}},
            "cyclic": True,
            "labels": {"click": "click"},
        },
        **changes,
    )
    return build(folder, tree, events, shown)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kinds(tmp_path_factory.mktemp("kinds") / "x")


def assert_items(store: AttributeStore, ids: np.ndarray, tags: dict[Any, int]) -> None:
    """`ids`: one without a row, and those of the items 1 to 3."""
    years = store.numbers("item", "year", ids)
    assert np.isnan(years[[0, 2]]).all() and years[[1, 3]].tolist() == [1999.0, 2005.0]
    assert store.vectors("item", "title", ids).tolist() == [[0, 0], [0.5, -1], [0, 0], [2, 0.25]]
    lists = store.lists("item", "tags", ids)
    assert lists.lengths.tolist() == [0, 3, 0, 2]
    assert lists.values.tolist() == [tags[5], tags[7], tags[5], tags[7], tags[9]]


def test_attributes_are_those_of_the_ids(made: Path) -> None:
    schema = load_schema(made)
    store = open_attributes(made, schema)
    assert store is not None
    numbers = {row["value"]: row["id"] for row in pq.read_table(made / "_build" / "item.parquet").to_pylist()}
    tags = {row["value"]: row["id"] for row in pq.read_table(made / "_build" / "tag.parquet").to_pylist()}
    ids = np.array([0, *(numbers[item] for item in (1, 2, 3))])
    assert_items(store, ids, tags)
    assert 8 not in numbers and schema.tables["tag"] == 4, "tags count as often as the items that have them"


def test_numbers_are_there_and_fitted_on_training(made: Path) -> None:
    schema = load_schema(made)
    assert schema.sequences[0].numbers["price"].fitted is not None and schema.request.cyclic
    fitted = schema.candidate.numbers["bid"].fitted
    bids = [value for row in pq.read_table(made / "train").column("candidate.bid").to_pylist() for value in row]
    assert fitted is not None and fitted.mean == pytest.approx(np.mean(bids))
    prices = pq.read_table(made / "test").column("history.price").to_pylist()[0]
    assert [None if np.isnan(price) else price for price in prices] == [
        event["price"] or None for event in EVENTS[::-1]
    ]
    assert pq.read_table(made / "train").column("distance").to_pylist() == [10.0]
    check_run(load_config(made / "recipe.yaml"), None)


def test_stored_once_they_are_the_same(made: Path, tmp_path: Path) -> None:
    once = kinds(tmp_path / "x", histories="once")
    found = []
    for out in (made, once):
        schema = load_schema(out)
        reader = RequestReader(
            folders=[out / "train"], schema=schema, batch_size=4, attributes=open_attributes(out, schema)
        )
        found.append(list(reader))
    for one, other in zip(*found, strict=True):
        assert one.tensors.keys() == other.tensors.keys()
        for name, tensor in one.tensors.items():
            assert np.array_equal(tensor.numpy(), other.tensors[name].numpy(), equal_nan=tensor.is_floating_point())


@pytest.mark.parametrize("kind", ["hashed", "dynamic"])
@pytest.mark.parametrize("text", [False, True], ids=["numbers", "texts"])
def test_ids_without_a_range_have_their_own(tmp_path: Path, kind: str, text: bool) -> None:
    def named(item: int) -> Any:
        return f"item {item}" if text else -7 * item

    events = [{**event, "item": named(event["item"])} for event in EVENTS]
    shown = [{**row, "item": named(row["item"])} for row in SHOWN]
    items = [{**row, "id": named(row["id"])} for row in ITEMS]
    tables = {"item": {"ids": kind, "rows": 50}}
    out = kinds(tmp_path / "x", events, items, shown, tables=tables)
    schema = load_schema(out)
    store = open_attributes(out, schema)
    assert store is not None
    store.check()
    tags = {row["value"]: row["id"] for row in pq.read_table(out / "_build" / "tag.parquet").to_pylist()}
    ids = np.array([4711, *(hash_of_text(named(item)) if text else named(item) for item in (1, 2, 3))])
    assert_items(store, ids, tags)
    batch = next(iter(RequestReader(folders=[out / "train"], schema=schema, batch_size=4, attributes=store)))
    given = batch.tensors["attribute.history.item.year"]
    assert set(given[~given.isnan()].tolist()) == {1999.0, 2005.0}
    check_run(load_config(out / "recipe.yaml"), None)


def test_lists_in_a_text(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "films.csv").write_text("id,genres\n1,Drama|War\n2,\n3,War\n")
    tree = config(
        sources={"events": "events.csv", "shown": "shown.csv", "films": "films.csv"},
        attributes={
            "films": {
                "key": "id",
                "of": "item",
                "lists": {"genres": {"column": "genres", "table": "genre", "split": "|"}},
            }
        },
    )
    events = [{name: value for name, value in event.items() if name != "price"} for event in EVENTS]
    out = build(folder, tree, events, ANCHORS)
    schema = load_schema(out)
    genres = {row["value"]: row["id"] for row in pq.read_table(out / "_build" / "genre.parquet").to_pylist()}
    numbers = {row["value"]: row["id"] for row in pq.read_table(out / "_build" / "item.parquet").to_pylist()}
    store = open_attributes(out, schema)
    assert store is not None and genres == {"War": 1, "Drama": 2}
    lists = store.lists("item", "genres", np.array([numbers[1], numbers[2], numbers[3]]))
    assert lists.lengths.tolist() == [2, 0, 1] and lists.values.tolist() == [
        genres["Drama"],
        genres["War"],
        genres["War"],
    ]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("title", [[1.0, 2.0], [1.0]], r"row 2, column title .*: expected 2 numbers, each finite in 16 bits, got"),
        ("title", [[1.0, 2.0], [1.0, 1e9]], r"expected 2 numbers, each finite in 16 bits"),
        ("year", [1.0, float("inf")], r"row 2, column year .*: expected a number, finite in 32 bits, got 'inf'"),
        ("tags", [[1], [2.5]], r"column tags .*: expected a list, each entry an id, a whole number of 64 bits"),
        ("tags", ["1|2", "3"], r"attributes\.items\.lists\.tags: expected lists in column 'tags' .*, got VARCHAR; say"),
    ],
)
def test_attributes_that_cannot_be(tmp_path: Path, column: str, values: list[Any], message: str) -> None:
    columns = {"id": [1, 2], "year": [1.0, 2.0], "tags": [[1], [2]], "title": [[1.0, 2.0]] * 2} | {column: values}
    with pytest.raises(DataError, match=message):
        kinds(tmp_path / "x", items=pa.table(columns))
