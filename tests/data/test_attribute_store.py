import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_rec.common.made import check_replaceable
from dist_rec.common.open_ids import HIDDEN_ID
from dist_rec.data.attribute_store import FOLDER, AttributeStore, open_attributes, write_attributes
from dist_rec.data.errors import DataError
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema
from dist_rec.data.writer import write_schema
from tests.data.kind_rows import attribute_arrays, kinds_schema
from tests.data.open_rows import open_schema
from tests.data.requests import make_schema

SCHEMA, ARRAYS = kinds_schema(), attribute_arrays()
IDS = np.array([3, 49, 0, 3, 50])  # the last is HIDDEN


@pytest.fixture
def store(tmp_path: Path) -> AttributeStore:
    for table, arrays in ARRAYS.items():
        write_attributes(tmp_path, SCHEMA, table, arrays)
    found = open_attributes(tmp_path, SCHEMA)
    assert found is not None
    return found


def test_what_is_written_is_looked_up(store: AttributeStore) -> None:
    store.check()
    item = ARRAYS["item"]
    expected = [*(item["year"][i] for i in IDS[:-1]), np.nan]
    np.testing.assert_array_equal(store.numbers("item", "year", IDS), np.array(expected, np.float32))
    np.testing.assert_array_equal(store.vectors("item", "title", IDS)[:-1], item["title"][IDS[:-1]])
    assert not store.vectors("item", "title", IDS)[-1].any()
    genres = store.lists("item", "genres", IDS)
    assert genres.lengths.tolist() == [*(len(item["genres"][i]) for i in IDS[:-1]), 0]
    assert genres.values.tolist() == [int(of) for i in IDS[:-1] for of in item["genres"][i]]
    none = np.zeros(0, np.int64)
    assert len(store.numbers("item", "year", none)) == len(store.lists("item", "genres", none).lengths) == 0
    assert store.vectors("item", "title", none).shape == (0, 6)


def test_files_of_the_folder(store: AttributeStore) -> None:
    place = store.folder / FOLDER / "item"
    assert sorted(path.name for path in place.iterdir()) == [
        *("genres.offsets.npy", "genres.values.npy", "makers.offsets.npy", "makers.values.npy"),
        *("shelf.npy", "title.npy", "year.npy"),
    ]
    assert [np.load(place / f"{name}.npy").dtype for name in ("year", "title", "genres.offsets")] == [
        *(np.float32, np.float16, np.int64)
    ]


def test_workers_map_the_files_anew(store: AttributeStore) -> None:
    store.check()
    sent = pickle.dumps(store)
    assert len(sent) < 20_000 and b"year.npy" not in sent
    np.testing.assert_array_equal(pickle.loads(sent).numbers("item", "year", IDS), store.numbers("item", "year", IDS))


def test_lists_may_be_all_empty_and_may_be_given_flat(tmp_path: Path) -> None:
    schema = make_schema(attributes={"kind": {"more": {"list": "query"}}})
    write_attributes(tmp_path, schema, "kind", {"more": [[]] * 5})
    found = open_attributes(tmp_path, schema)
    assert found is not None and found.lists("kind", "more", np.arange(5)).lengths.tolist() == [0] * 5
    found.check()
    write_attributes(tmp_path, schema, "kind", {"more": (np.array([0, 2, 2, 2, 2, 3]), np.array([8, 0, 1], np.uint8))})
    found = open_attributes(tmp_path, schema)
    assert found is not None and found.lists("kind", "more", np.array([4, 0])).values.tolist() == [1, 8, 0]


def test_a_schema_without_attributes_has_no_store(tmp_path: Path) -> None:
    assert open_attributes(tmp_path, make_schema()) is None


def test_the_folder_is_still_one_of_ours(tmp_path: Path) -> None:
    write_schema(tmp_path, SCHEMA)
    for table, arrays in ARRAYS.items():
        write_attributes(tmp_path, SCHEMA, table, arrays)
    check_replaceable(tmp_path, "dataset")


LISTS = ARRAYS["item"]["genres"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"year": np.zeros(49)}, r"attribute year of item: expected numbers \(50,\), got float64 \(49,\)"),
        ({"year": np.full(50, "x")}, "attribute year of item: expected numbers"),
        ({"year": np.array([0.0] * 49 + [np.inf])}, "attribute year of item, row 49: expected a finite number"),
        ({"title": np.zeros((50, 5))}, r"attribute title of item: expected numbers \(50, 6\), got float64 \(50, 5\)"),
        ({"title": np.full((50, 6), 1e5)}, "attribute title of item, row 0: expected finite numbers of float16"),
        ({"title": np.full((50, 6), np.nan)}, "row 0: expected finite numbers of float16"),
        ({"genres": LISTS[:-1]}, "attribute genres of item: expected 50 lists of integers, got 49"),
        ({"genres": [[0.5]] * 50}, "expected 50 lists of integers, got 50 of float64"),
        ({"genres": [*LISTS[:-1], [2, 7]]}, "genres of item, row 49: expected ids from 0 to 6, got 7 at entry 1"),
        ({"genres": (np.array([1, *[2] * 50]), np.zeros(2, int))}, "expected offsets from 0 to 2"),
        ({"genres": (np.array([0, 2, 1, *[2] * 48]), np.zeros(2, int))}, "row 1: expected offsets that do not fall"),
        ({"other": np.zeros(50)}, "attributes of item: expected year, shelf, title, genres, makers, as the schema"),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        write_attributes(tmp_path, SCHEMA, "item", {**ARRAYS["item"], **changes})
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.parametrize(
    ("file", "array", "said"),
    [
        ("year", np.zeros(50), r"year.npy: expected float32 \(50\), in the order of C, got float64 \(50,\)"),
        ("year", np.zeros((50, 1), np.float32), r"got float32 \(50, 1\)"),
        ("year", np.zeros(50, ">f4"), r"year.npy: expected float32 \(50\), in the order of C, got >f4 \(50,\)"),
        ("title", np.zeros((6, 50), np.float16).T, r"title.npy: expected float16 \(50, 6\), in the order of C"),
        ("genres.offsets", np.zeros(50, np.int64), r"genres.offsets.npy: expected int64 \(51\)"),
        ("genres.values", np.zeros(5), r"genres.values.npy: expected integer \(any\)"),
    ],
)
def test_files_of_another_form_are_named(store: AttributeStore, file: str, array: Any, said: str) -> None:
    np.save(store.folder / FOLDER / "item" / f"{file}.npy", array)
    with pytest.raises(DataError, match=said):
        open_attributes(store.folder, SCHEMA)


def test_files_that_are_missing_or_no_arrays_are_named(store: AttributeStore) -> None:
    path = store.folder / FOLDER / "user" / "income.npy"
    for content in (b"", b"text", pickle.dumps([1])):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"income.npy: expected a file of numpy with float32"):
            open_attributes(store.folder, SCHEMA)
    np.save(path, np.array([None, {}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"income.npy: expected a file of numpy with float32"):
        open_attributes(store.folder, SCHEMA)
    path.unlink()
    with pytest.raises(DataError, match=r"income.npy: expected a file of float32 \(1000\), got nothing there"):
        open_attributes(store.folder, SCHEMA)


def _changed(store: AttributeStore, file: str, index: Any, value: Any) -> AttributeStore:
    path = store.folder / FOLDER / f"{file}.npy"
    array = np.load(path)
    array[index] = value
    np.save(path, array)
    return AttributeStore(store.folder, store.schema)


@pytest.mark.parametrize(
    ("file", "index", "value", "said"),
    [
        ("user/income", 700, np.inf, "user/income.npy, row 700: expected a finite number"),
        ("item/genres.values", 5, 7, r"genres.values.npy, row \d+: expected ids from 0 to 6, got 7 at entry"),
        ("item/makers.values", 0, -1, r"makers.values.npy, row \d+: expected ids from 0 to 999, got -1 at entry 0"),
        ("item/genres.offsets", -1, 1, r"genres.offsets.npy: expected offsets from 0 to \d+, the number of values"),
        ("item/genres.offsets", 7, 10**6, "genres.offsets.npy, row 7: expected offsets that do not fall, got 1000000"),
    ],
)
def test_values_are_checked_at_the_door(store: AttributeStore, file: str, index: int, value: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        _changed(store, file, index, value).check()


def test_a_vector_that_is_not_finite_is_found_when_it_is_looked_up(store: AttributeStore) -> None:
    changed = _changed(store, "item/title", (3, 2), np.nan)
    changed.vectors("item", "title", np.array([2, 4, 50]))
    with pytest.raises(DataError, match=r"title.npy, row 3: expected finite numbers, got"):
        changed.vectors("item", "title", IDS)


def test_tables_may_be_of_one_id(tmp_path: Path) -> None:
    tree = make_schema().model_dump() | {"tables": {"item": 1, "kind": 1, "user": 1, "query": 1}}
    schema = Schema.model_validate(tree | {"attributes": {"item": {"x": {"number": {}}, "v": {"vector": 1}}}})
    write_attributes(tmp_path, schema, "item", {"x": [7], "v": [[2.0]]})
    found = open_attributes(tmp_path, schema)
    assert found is not None and found.numbers("item", "x", np.array([0, 0, 1]))[:2].tolist() == [7, 7]


RAW = np.array([2**62 + 5, -1, 7, -(2**63) + 1], np.int64)
OPEN = open_schema(
    tables={"item": {"rows": 9, "ids": "dynamic"}, "kind": 5, "user": 1000, "query": 9},
    attributes={"item": {"year": {"number": {}}, "title": {"vector": 2}, "kinds": {"list": "kind"}}},
)
OF_RAW: dict[str, Any] = {
    "year": [1.0, np.nan, 3.0, 4.0],
    "title": np.arange(8.0).reshape(4, 2),
    "kinds": [[4, 4], [], [0], [1, 2, 3]],
}


def test_ids_without_a_range_are_found_among_those_that_were_written(tmp_path: Path) -> None:
    write_attributes(tmp_path, OPEN, "item", OF_RAW, RAW)
    store = open_attributes(tmp_path, OPEN)
    assert store is not None
    store.check()
    asked = np.array([7, 8, HIDDEN_ID, -(2**63) + 1, 2**63 - 1, 2**62 + 5, -1])
    np.testing.assert_array_equal(
        store.numbers("item", "year", asked), np.float32([3, np.nan, np.nan, 4, np.nan, 1, np.nan])
    )
    assert store.vectors("item", "title", asked).tolist() == [[4, 5], [0, 0], [0, 0], [6, 7], [0, 0], [0, 1], [2, 3]]
    kinds = store.lists("item", "kinds", asked)
    assert kinds.lengths.tolist() == [1, 0, 0, 3, 0, 2, 0] and kinds.values.tolist() == [0, 1, 2, 3, 4, 4]


def test_unsigned_ids_are_taken_by_their_bits(tmp_path: Path) -> None:
    write_attributes(tmp_path, OPEN, "item", OF_RAW, RAW.view(np.uint64))
    store = open_attributes(tmp_path, OPEN)
    assert store is not None and store.numbers("item", "year", RAW[[0, 3]]).tolist() == [1, 4]


def test_no_id_may_have_a_row(tmp_path: Path) -> None:
    none = {"year": np.zeros(0), "title": np.zeros((0, 2)), "kinds": []}
    write_attributes(tmp_path, OPEN, "item", none, RAW[:0])
    store = open_attributes(tmp_path, OPEN)
    assert store is not None
    store.check()
    assert np.isnan(store.numbers("item", "year", RAW)).all() and not store.vectors("item", "title", RAW).any()
    assert store.lists("item", "kinds", RAW).lengths.tolist() == [0] * 4


@pytest.mark.parametrize(
    ("schema", "arrays", "ids", "said"),
    [
        (OPEN, OF_RAW, None, "attributes of item: expected ids, one for each row, of a table with ids: dynamic"),
        (SCHEMA, ARRAYS["item"], np.arange(50), "expected no ids, since the rows are those of all ids, .* ids: range"),
        (OPEN, OF_RAW, RAW[[0, 1, 2, 1]], "attributes of item: expected every id once, got -1 2 times"),
        (OPEN, OF_RAW, RAW.astype(float), r"expected ids of integers \(rows,\), got float64 \(4,\)"),
        (OPEN, OF_RAW, RAW[:, None], r"expected ids of integers \(rows,\), got int64 \(4, 1\)"),
        (OPEN, OF_RAW, RAW[:3], r"attribute year of item: expected numbers \(3,\), got float64 \(4,\)"),
    ],
)
def test_ids_that_do_not_fit_write_nothing(tmp_path: Path, schema: Schema, arrays: Any, ids: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        write_attributes(tmp_path, schema, "item", arrays, ids)
    assert not (tmp_path / FOLDER).exists()


def test_ids_are_checked_at_the_door(tmp_path: Path) -> None:
    write_attributes(tmp_path, OPEN, "item", OF_RAW, RAW)
    with pytest.raises(DataError, match=r"ids.npy, row 1: expected ascending ids, got 9 and then 7"):
        _changed(AttributeStore(tmp_path, OPEN), "item/ids", 1, 9).check()
    write_schema(tmp_path, OPEN)
    assert open_attributes(tmp_path, OPEN) is not None
    (tmp_path / FOLDER / "item" / "ids.npy").unlink()
    with pytest.raises(DataError, match=r"ids.npy: expected a file of int64 \(any\), got nothing there"):
        open_attributes(tmp_path, OPEN)


@pytest.mark.parametrize("kind", ["hashed", "dynamic"])
def test_a_recipe_may_take_the_range_of_a_table_away(tmp_path: Path, kind: Any) -> None:
    ranged = make_schema(tables={"item": 4, "kind": 5, "user": 9, "query": 9}, attributes=OPEN.attributes)
    write_schema(tmp_path, ranged)
    write_attributes(tmp_path, ranged, "item", OF_RAW)
    store = open_attributes(tmp_path, load_schema(tmp_path, ids={"item": (3, kind)}))
    assert store is not None
    store.check()
    asked = np.array([3, -1, 0, 4, HIDDEN_ID, 2**62])
    none = [np.nan] * 3
    np.testing.assert_array_equal(store.numbers("item", "year", asked), np.array([4, np.nan, 1, *none], np.float32))
    assert store.vectors("item", "title", asked).tolist() == [[6, 7], [0, 0], [0, 1], *[[0, 0]] * 3]
    assert store.lists("item", "kinds", asked).lengths.tolist() == [3, 0, 2, 0, 0, 0]
    np.save(tmp_path / FOLDER / "item" / "title.npy", np.zeros((5, 2), np.float16))
    with pytest.raises(DataError, match=r"title.npy: expected float16 \(4, 2\)"):
        open_attributes(tmp_path, store.schema)


def test_a_recipe_cannot_give_raw_ids_a_range(tmp_path: Path) -> None:
    write_schema(tmp_path, OPEN)
    write_attributes(tmp_path, OPEN, "item", OF_RAW, RAW)
    schema = load_schema(tmp_path, ids={"item": (4, "range")})
    with pytest.raises(DataError, match=r"ids of item are dynamic in this dataset.*item.ids: hashed or dynamic, got"):
        open_attributes(tmp_path, schema)
