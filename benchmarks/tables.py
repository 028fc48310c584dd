"""The table of a study's runs: a CSV that grows by a row with every run, so that a stopped study goes on."""

import csv
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")


def append(table: Path, row: Any) -> None:
    """`row` is a dataclass of plain numbers and words."""
    is_new = not table.exists()
    with table.open("a") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(field.name for field in fields(row))
        writer.writerow(astuple(row))
    print(row, flush=True)


def read_rows(table: Path, kind: type[Row]) -> list[Row]:
    """Empty where there is no table yet."""
    if not table.exists():
        return []
    with table.open() as file:
        kinds: dict[str, Any] = {field.name: field.type for field in fields(kind)}  # pyright: ignore[reportArgumentType]
        return [kind(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(file)]
