"""A dataset with some of its numbers, attributes and times alone, so that an arm differs from others in these only."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dist_rec.common.choices import Encoding
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema
from dist_rec.data.writer import write_schema

BASE = "ids alone"
CYCLIC = "request.cyclic"

Field = TypeVar("Field")


@dataclass(frozen=True)
class Arm:
    """`kept`: fields of the schema, as candidate.price, history.paid, context.age, attributes.item.year or
    request.cyclic. `numbers`: encodings of some of them, as in a recipe."""

    kept: tuple[str, ...] = ()
    numbers: Mapping[str, Encoding] = field(default_factory=dict)


def write_arm(source: Path, folder: Path, kept: Collection[str]) -> None:
    """A dataset in `folder` whose schema has of numbers, attributes and cyclic times those that are kept. Its rows are
    links to those of `source`: readers pass over columns that a schema does not name.

    Raises ValueError for a field that the schema lacks."""
    write_schema(folder, restricted(load_schema(source), kept))
    for place in sorted(source.iterdir()):
        if place.is_dir() and not place.name.startswith((".", "_")):
            (folder / place.name).symlink_to(place.resolve())


def restricted(schema: Schema, kept: Collection[str]) -> Schema:
    """Raises ValueError for a field that the schema lacks."""
    left = set(kept)

    def of(place: str, fields: Mapping[str, Field]) -> dict[str, Field]:
        found = {name: each for name, each in fields.items() if f"{place}.{name}" in kept}
        left.difference_update(f"{place}.{name}" for name in found)
        return found

    cyclic = schema.request.cyclic and CYCLIC in kept
    left -= {CYCLIC} if cyclic else set()
    request = schema.request.model_copy(update={"numbers": of("context", schema.request.numbers), "cyclic": cyclic})
    sequences = [each.model_copy(update={"numbers": of(each.name, each.numbers)}) for each in schema.sequences]
    candidate = schema.candidate.model_copy(update={"numbers": of("candidate", schema.candidate.numbers)})
    attributes = {table: of(f"attributes.{table}", fields) for table, fields in schema.attributes.items()}
    attributes = {table: fields for table, fields in attributes.items() if fields}
    if left:
        raise ValueError(f"schema {schema.name}: expected numbers, attributes or times of it, got {sorted(left)}")
    changes = {"request": request, "sequences": sequences, "candidate": candidate, "attributes": attributes}
    return schema.model_copy(update=changes)
