"""A dataset whose feedback has a table that nothing else uses, and recipes for it."""

from pathlib import Path
from typing import Any

from dist_rec.config import Config
from dist_rec.data.schema import Schema
from dist_rec.data.writer import write_schema, write_split
from tests.data.feedback_rows import NOW, WINDOW, feedback_rows, feedback_schema
from tests.data.requests import make_table
from tests.training.runs import make_config

SHOWN = 7  # ids of the table of feedback alone


def write_feedback(folder: Path) -> Path:
    tree = feedback_schema().model_dump()
    tree["tables"]["shown"] = SHOWN
    ids = ["item", {"name": "next", "table": "shown"}]
    tree["candidate"]["feedback"] = {"ids": ids, "side": {"dwell": 6}, "time": True, "most": 2, "window": WINDOW}
    schema = Schema.model_validate(tree)
    write_schema(folder, schema)
    for seed, split in enumerate(("train", "valid", "test")):
        rows = [row | {"feedback.next": [q % SHOWN for q in row["feedback.query"]]} for row in feedback_rows(24, seed)]
        write_split(folder / split, make_table(rows, schema), schema, rows_per_group=8, rows_per_file=24)
    return folder


def taught_config(data: Path, out: Path, /, **changes: Any) -> Config:
    """With a teacher that is a copy; `changes` are those of Config, nested as in a recipe."""
    tree: dict[str, Any] = {
        "data": {"observed_at": NOW},
        "distill": {"teacher": "ema"},
        "run": {"max_steps": 3},
        "checkpoint": {"every_steps": 2},
    }
    for name, value in changes.items():
        tree[name] = {**tree.get(name, {}), **value} if isinstance(value, dict) else value
    return make_config(data, out, **tree)
