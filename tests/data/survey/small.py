"""Datasets of `make_schema()` with given rows."""

from pathlib import Path
from typing import Any

from dist_rec.data.writer import write_schema, write_split
from tests.data.requests import make_schema, make_table

SCHEMA = make_schema()


def dataset(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    write_schema(folder, SCHEMA)
    for name, rows in splits.items():
        write_split(folder / name, make_table(rows), SCHEMA)
    return folder
