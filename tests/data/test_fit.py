from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dist_rec.common.made import is_unchanged
from dist_rec.common.strict import ConfigError
from dist_rec.data.attribute_store import write_attributes
from dist_rec.data.errors import DataError
from dist_rec.data.fit import fit_dataset, sketch_numbers
from dist_rec.data.kinds import check_fitted, named_numbers
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema
from dist_rec.data.writer import write_schema, write_split
from tests.data.kind_rows import attribute_arrays, flat, kind_rows, kinds_schema, write_kinds
from tests.data.open_rows import open_rows, open_schema, raw_id
from tests.data.requests import make_dataset, make_table

SIZES = {"train": 40, "valid": 9, "test": 9}


def _unfitted() -> Schema:
    tree = kinds_schema().model_dump()
    for owner in (tree["request"], tree["candidate"], *tree["sequences"]):
        for of in owner["numbers"].values():
            of |= {"fitted": None, "bounds": None}
    for of in (tree["attributes"]["item"]["year"], tree["attributes"]["user"]["income"]):
        of["number"]["fitted"] = None
    return Schema.model_validate(tree)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_kinds(tmp_path / "data", SIZES, _unfitted())


def test_training_data_alone_are_read(data: Path) -> None:
    with pytest.raises(ConfigError, match="not known yet"):
        check_fitted(load_schema(data))
    found = fit_dataset(data)
    schema = load_schema(data)
    check_fitted(schema)
    assert list(found) and found == {n: of.fitted for n, of in named_numbers(schema).items() if n in found}
    assert set(found) == set(named_numbers(schema))
    rows = kind_rows(SIZES["train"], seed=0)
    for name, column in (("history.stay", "history.stay"), ("context.of_stay", "of_stay")):
        values = flat(rows, column)
        known = values[~np.isnan(values)].astype(np.float64)
        assert found[name].mean == pytest.approx(known.mean()) and found[name].std == pytest.approx(known.std())
        assert found[name].bounds[0] == known.min() and found[name].bounds[-1] == known.max()
        assert found[name].missing == pytest.approx(np.isnan(values).mean())
    fields = set(schema.model_dump()) - {"attributes", "request", "sequences", "candidate"}
    assert all(getattr(schema, name) == getattr(_unfitted(), name) for name in fields)


def test_of_ids_those_count_that_occur_in_training(data: Path) -> None:
    found = fit_dataset(data)
    rows = kind_rows(SIZES["train"], seed=0)
    items = {i for row in rows for owner in ("history", "candidate") for i in row[f"{owner}.item"]}
    items |= {i for row in rows for of in row["candidate.related"] for i in of}
    for table, name, ids in (("item", "year", items), ("user", "income", {row["user"] for row in rows})):
        values = attribute_arrays()[table][name][sorted(ids)]
        fitted = found[f"attributes.{table}.{name}"]
        assert fitted.missing == pytest.approx(np.isnan(values).mean())
        assert fitted.bounds[0] == np.nanmin(values) and fitted.bounds[-1] == np.nanmax(values)


def test_the_same_data_give_the_same_schema(data: Path) -> None:
    fit_dataset(data)
    first = (data / "schema.yaml").read_text()
    fit_dataset(data)
    assert (data / "schema.yaml").read_text() == first


def test_everything_else_of_a_schema_stays(data: Path) -> None:
    """As somebody wrote it, older words and short forms too; and whose it is."""
    path = data / "schema.yaml"
    fit_dataset(data)
    assert is_unchanged(path), "still the project's"
    tree: dict[str, Any] = yaml.safe_load((data / "schema.yaml").read_text())
    tree["request"]["group"] = tree["request"].pop("grouping_key")
    tree["context"] = ["user"]
    (data / "schema.yaml").write_text("# mine\n" + yaml.safe_dump(tree, sort_keys=False))
    fit_dataset(data)
    assert yaml.safe_load((data / "schema.yaml").read_text()) == tree
    assert not is_unchanged(path), "still somebody else's"


def test_other_names_of_the_training_split(data: Path) -> None:
    both, alone = fit_dataset(data, ["train", "valid"]), fit_dataset(data, ["valid"])
    assert both["history.stay"] != alone["history.stay"] != fit_dataset(data)["history.stay"]
    with pytest.raises(DataError, match="nowhere: expected a folder of Parquet files"):
        fit_dataset(data, ["nowhere"])


def test_without_numbers_there_is_nothing_to_fit(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", 8)
    with pytest.raises(ConfigError, match=r"schema.yaml: expected a schema with numbers, got none to fit"):
        fit_dataset(data)
    assert sketch_numbers([data / "nowhere"], load_schema(data), None) == {}


def test_wrong_numbers_change_no_schema(data: Path) -> None:
    before = (data / "schema.yaml").read_bytes()
    arrays = attribute_arrays()["user"]
    write_attributes(data, load_schema(data), "user", arrays)
    (data / "attributes" / "user" / "income.npy").unlink()
    with pytest.raises(DataError, match=r"income.npy"):
        fit_dataset(data)
    assert (data / "schema.yaml").read_bytes() == before


def test_values_of_a_schema_that_is_written_are_read_to_the_bit(data: Path, tmp_path: Path) -> None:
    fit_dataset(data)
    schema = load_schema(data)
    write_schema(tmp_path / "again", schema)
    assert load_schema(tmp_path / "again") == schema


@pytest.mark.parametrize("kind", ["hashed", "dynamic"])
def test_of_open_ids_those_count_that_occur(tmp_path: Path, kind: str) -> None:
    schema = open_schema(kind, attributes={"item": {"year": {"number": {"encoding": "value"}}}})
    folder, rows = tmp_path / "data", open_rows(12)
    write_schema(folder, schema)
    write_split(folder / "train", make_table(rows, schema), schema)
    items = sorted({i for row in rows for owner in ("history", "candidate") for i in row[f"{owner}.item"]})
    ids = np.array([raw_id(number) for number in range(1000, 1009)] + items)  # some never occur
    write_attributes(folder, schema, "item", {"year": np.arange(len(ids))}, ids)
    fitted = fit_dataset(folder)["attributes.item.year"]
    assert fitted.mean == pytest.approx(np.arange(9, len(ids)).mean()) and fitted.missing == 0
