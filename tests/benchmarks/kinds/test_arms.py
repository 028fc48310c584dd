from pathlib import Path

import pytest

from benchmarks.kinds.arms import CYCLIC, restricted, write_arm
from benchmarks.kinds.world import KINDS, WorldConfig, schema_of, write_world
from dist_rec.data.attribute_store import open_attributes
from dist_rec.data.files import row_groups
from dist_rec.data.kinds import named_numbers
from dist_rec.data.schema_file import load_schema

WORLD = WorldConfig(train=60, valid=20, test=30, items=100, new=40)
SCHEMA = schema_of(WORLD)


def test_only_what_is_kept_is_left() -> None:
    price, vector = (restricted(SCHEMA, [KINDS[name]]) for name in ("price", "vector"))
    assert list(named_numbers(price)) == ["candidate.price"] and not price.attributes and not price.request.cyclic
    assert not named_numbers(vector) and list(vector.attributes["item"]) == ["vector"]
    assert restricted(SCHEMA, KINDS.values()) == SCHEMA
    assert restricted(SCHEMA, [CYCLIC]).request.cyclic and SCHEMA.attributes, "the schema itself stays"


@pytest.mark.parametrize("name", ["candidate.paid", "price", "attributes.item.size"])
def test_a_field_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"schema kinds: expected numbers, attributes or times of it, got .'{name}'"):
        restricted(SCHEMA, [name])


def test_an_arm_reads_the_rows_of_its_source(tmp_path: Path) -> None:
    write_world(tmp_path / "world", WORLD)
    write_arm(tmp_path / "world", tmp_path / "arm", [KINDS["tags"], KINDS["price"]])
    schema = load_schema(tmp_path / "arm")
    fitted = schema.candidate.numbers["price"].fitted
    assert fitted == load_schema(tmp_path / "world").candidate.numbers["price"].fitted is not None
    assert sum(group.rows for group in row_groups(tmp_path / "arm" / "train", schema)) == 60
    assert open_attributes(tmp_path / "arm", schema) is not None
