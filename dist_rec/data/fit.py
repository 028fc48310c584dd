"""What encodings of numbers need to know of the training split: mean, spread, quantiles, and how many are missing.

Only the training split is read: what is known of validation and test data is known of the future.
"""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray

from dist_rec.common.id_hash import raw_ids
from dist_rec.common.made import is_unchanged, mark
from dist_rec.common.strict import ConfigError, check
from dist_rec.common.yaml_file import read_yaml
from dist_rec.data.attribute_store import AttributeStore, open_attributes
from dist_rec.data.attributes import every_attribute
from dist_rec.data.columns import REQUEST, columns_of, ragged_values, scalar_values
from dist_rec.data.errors import writing
from dist_rec.data.event_store import whole
from dist_rec.data.kinds import numbers_of, numbers_of_tree, owner_word
from dist_rec.data.nested import Nested
from dist_rec.data.numbers import FittedNumber
from dist_rec.data.older_words import with_todays_words
from dist_rec.data.row_reader import PARQUET
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import SCHEMA_FILE, load_schema
from dist_rec.data.sketch import MOST_SAMPLED, NumberSketch
from dist_rec.data.writer import DATASET, staged_file


def fit_dataset(folder: str | Path, train: Sequence[str] = ("train",), *, seed: int = 0) -> dict[str, FittedNumber]:
    """Reads the training split and writes `fitted` of every number into `schema.yaml`, of which all else stays, but for
    comments.

    Args:
        folder: of the dataset.
        train: its sub-folders that are trained on.
        seed: of the sample that quantiles are taken from.

    Returns:
        What was found, by the names of `named_numbers`.

    Raises:
        ConfigError: the schema is wrong, or declares no number.
        DataError: the data cannot be read, or the schema cannot be written.
    """
    path, schema = Path(folder) / SCHEMA_FILE, load_schema(folder)
    folders = [Path(folder) / name for name in train]
    sketches = sketch_numbers(folders, schema, open_attributes(folder, schema), seed=seed)
    if not sketches:
        raise ConfigError(f"{path}: expected a schema with numbers, got none to fit")
    found = {name: sketch.fitted() for name, sketch in sketches.items()}
    tree = read_yaml(path)
    fields = numbers_of_tree(tree)
    for name, of in found.items():
        fields[name]["fitted"] = of.model_dump()
    check(Schema, with_todays_words(tree, str(path)), f"{path} with what was fitted")
    ours = is_unchanged(path)
    with writing(path), staged_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(tree, sort_keys=False))
    if ours:
        with writing(path):
            mark(path.parent, DATASET, [path])
    return found


def sketch_numbers(
    folders: Sequence[Path],
    schema: Schema,
    attributes: AttributeStore | None,
    *,
    most: int = MOST_SAMPLED,
    seed: int = 0,
) -> dict[str, NumberSketch]:
    """Of every number, by the names of `named_numbers`. Of ids every one counts once that occurs.

    Raises DataError for data that cannot be read."""
    declared = {(owner, name): of for owner, numbers in numbers_of(schema).items() for name, of in numbers.items()}
    sketches = {
        f"{owner_word(owner)}.{name}": NumberSketch(of, _seed(seed, owner, name), most)
        for (owner, name), of in declared.items()
    }
    of_ids = [(table, name, of.number) for table, name, of in every_attribute(schema) if of.number is not None]
    occurred = {table: Occurred(schema, table) for table, _, _ in of_ids}
    if not sketches and not of_ids:
        return {}
    for folder in folders:
        for group in PARQUET.row_groups(folder, schema):
            rows = whole(PARQUET.read([group], schema), schema)
            for owner, name in declared:
                column = name if owner == REQUEST else f"{owner}.{name}"
                values = scalar_values(rows, column) if owner == REQUEST else ragged_values(rows, column).values
                sketches[f"{owner_word(owner)}.{name}"].add(values)
            for table, ids in _ids(rows, schema):
                if table in occurred:
                    occurred[table].add(ids)
    for table, name, number in of_ids:
        assert attributes is not None, "the schema declares them"
        sketch = NumberSketch(number, _seed(seed, table, name), most)
        sketch.add(attributes.numbers(table, name, occurred[table].ids))
        sketches[f"attributes.{table}.{name}"] = sketch
    return sketches


class Occurred:
    """The distinct ids of a table that were met."""

    def __init__(self, schema: Schema, table: str) -> None:
        self._open = table in schema.open_ids
        self._met = np.zeros(0 if self._open else schema.tables[table], bool)
        self._raw = np.zeros(0, np.int64)

    def add(self, ids: NDArray) -> None:
        if self._open:
            self._raw = np.union1d(self._raw, raw_ids(ids))
        else:
            self._met[ids] = True

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ascending."""
        return self._raw if self._open else np.flatnonzero(self._met)


def _ids(rows: pa.Table, schema: Schema) -> Iterator[tuple[str, NDArray]]:
    """Table and ids of every column of ids."""
    owners = {of.name: of.ids for of in schema.sequences} | {"candidate": schema.candidate.ids}
    if (feedback := schema.feedback_read) is not None:
        owners["feedback"] = feedback.ids
    tables = {field.name: field.table for field in schema.context}
    tables |= {f"{owner}.{field.name}": field.table for owner, fields in owners.items() for field in fields}
    tables |= {name: of.table for name, of in schema.request.lists.items()}
    tables |= {f"candidate.{name}": of.table for name, of in schema.candidate.lists.items()}
    for column in columns_of(schema.with_copies()):
        if column.name in tables:
            yield tables[column.name], _values(rows, column.name, is_list=column.is_list, nested=column.nested)


def _values(rows: pa.Table, name: str, *, is_list: bool, nested: bool) -> NDArray:
    if nested:
        column = Nested.of(rows, name)
        return column.of_candidates(column.of_rows(np.arange(len(column.rows) - 1))).values
    return ragged_values(rows, name).values if is_list else scalar_values(rows, name)


def _seed(seed: int, owner: str, name: str) -> int:
    """Of each number its own, whatever other numbers there are."""
    return seed + zlib.crc32(f"{owner}.{name}".encode())
