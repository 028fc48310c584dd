from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from dist_rec.config import load_config
from dist_rec.data.build.numbering import hash_of_text
from dist_rec.data.event_store import whole
from dist_rec.data.row_reader import PARQUET
from dist_rec.data.schema_file import load_schema
from dist_rec.door import check_run
from tests.data.build.small import ANCHORS, START, TEST, build, config, write_csv

BRANDS = [
    {"id": 1, "brand": "x", "size": "L"},
    {"id": 2, "brand": "y", "size": "M"},
    {"id": 3, "brand": "x", "size": ""},
]


def event(item: int, at: int = 0, kind: str = "a") -> dict[str, Any]:
    return {"user": 9, "item": item, "time": START + at - 100, "kind": kind, "order": 0}


def numbers(
    folder: Path, rows: list[dict[str, Any]], shown: list[dict[str, Any]] | None = None, **changes: Any
) -> dict[str, Any]:
    """Columns of the test split, the sizes of tables and side values of the schema, and the numbers by table."""
    folder.mkdir()
    write_csv(folder / "items.csv", BRANDS)
    out = build(folder, config(**changes), rows, shown or ANCHORS)
    schema = yaml.safe_load((out / "schema.yaml").read_text())
    sizes = {name: of["rows"] if isinstance(of, dict) else of for name, of in schema["tables"].items()}
    found = {"tables": sizes, "side": schema["sequences"][0].get("side")}
    found |= {path.stem: pq.read_table(path).to_pylist() for path in (out / "_build").glob("*.parquet")}
    return found | pq.read_table(out / "test").to_pydict()


def test_most_frequent_first_after_the_others(tmp_path: Path) -> None:
    found = numbers(tmp_path / "x", [event(5), event(7), event(7), event(5), event(3), event(6, TEST - START + 99)])
    assert found["item"] == [
        {"value": 5, "id": 1, "count": 2},
        {"value": 7, "id": 2, "count": 2},
        {"value": 0, "id": 3, "count": 1},
        {"value": 3, "id": 4, "count": 1},
    ]
    assert found["tables"] == {"item": 5}
    assert found["history.item"] == [[1, 2, 2, 1, 4, 0]], "what came after training is another"


def test_rare_ids_share_rows_by_a_hash(tmp_path: Path) -> None:
    events = [event(item) for item in (7, 7, *range(20, 40))]
    found = numbers(tmp_path / "x", events, tables={"item": {"min_count": 2, "others": 4}})
    assert found["item"] == [{"value": 7, "id": 4, "count": 2}] and found["tables"] == {"item": 5}
    assert set(found["history.item"][0]) == {0, 1, 2, 3, 4}
    again = numbers(tmp_path / "y", events[::-1], tables={"item": {"min_count": 2, "others": 4}})
    assert sorted(again["history.item"][0]) == sorted(found["history.item"][0])


def test_a_range_stays_as_it_is(tmp_path: Path) -> None:
    found = numbers(tmp_path / "x", [event(5), event(0)], tables={"item": {"ids": "range", "rows": 9}})
    assert found["tables"] == {"item": 9} and found["history.item"] == [[5, 0]] and "item" not in found


def test_attributes_of_an_id_are_numbered_too(tmp_path: Path) -> None:
    changes = {
        "sources": {"events": "events.csv", "shown": "shown.csv", "items": "items.csv"},
        "attributes": {"items": {"key": "id", "of": "item"}},
        "events": {
            "ids": {"item": "item", "brand": "items.brand"},
            "side": {"kind": {"column": "kind", "values": ["a", "b"]}, "size": "items.size"},
        },
        "requests": {"ids": {"item": "item", "brand": "items.brand"}},
    }
    events = [event(item) for item in (2, 1, 3, 8, 3)]
    found = numbers(tmp_path / "x", events, **changes)
    assert [(row["value"], row["id"]) for row in found["brand"]] == [("x", 1), ("y", 2)]
    assert found["history.brand"] == [[2, 1, 1, 0, 1]], "an item without a row has another brand"
    assert found["history.size"] == [[2, 1, 0, 0, 0]] and found["side"] == {"kind": 2, "size": 3}
    assert found["candidate.brand"] == [[0]] and found["tables"]["brand"] == 3


def test_values_of_few_are_fitted_on_training(tmp_path: Path) -> None:
    events = [event(1, kind=kind) for kind in "bbcadd"] + [event(1, TEST - START + 99, kind="z")]
    found = numbers(tmp_path / "x", events, events={"side": {"kind": {"column": "kind", "most": 3}}})
    assert found["side"] == {"kind": 4}, "b, d, a and all others"
    assert found["history.kind"] == [[1, 1, 0, 3, 2, 2, 0]]


def test_ids_without_a_range_stay_as_they_are(tmp_path: Path) -> None:
    events = [event(item) for item in (-5, 2**63 + 1, 2**62 + 1)]
    found = numbers(tmp_path / "x", events, tables={"item": {"ids": "hashed", "rows": 50}})
    assert found["tables"] == {"item": 50} and "item" not in found
    assert found["history.item"] == [[-5, 2**63 + 1 - 2**64, 2**62 + 1]]
    schema = load_schema(tmp_path / "x" / "out")
    assert schema.open_ids == {"item": "hashed"}


@pytest.mark.parametrize("histories", ["copies", "once"])
def test_texts_without_a_range_are_hashed(tmp_path: Path, histories: str) -> None:
    events = [{**event(0), "item": item} for item in ("tea", "coffee", "tea")]
    shown = [{**anchor, "item": "tea"} for anchor in ANCHORS]
    tree = {"tables": {"item": {"ids": "dynamic", "rows": 50}}, "histories": histories}
    found = numbers(tmp_path / "x", events, shown, **tree)
    tea, coffee = hash_of_text("tea"), hash_of_text("coffee")
    assert (tea, coffee) == (-8015135494872013382, -282306304800442503)
    assert found["candidate.item"] == [[tea]] and {row["value"]: row["id"] for row in found["item"]} == {
        "tea": tea,
        "coffee": coffee,
    }
    out = tmp_path / "x" / "out"
    schema = load_schema(out)
    table = whole(PARQUET.read(PARQUET.row_groups(out / "test", schema), schema), schema)
    assert table.column("history.item").to_pylist() == [[tea, coffee, tea]]
    check_run(load_config(out / "recipe.yaml"), None)
