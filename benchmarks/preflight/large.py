"""A made-up set of tables of 2 TB: ids of a large shop, rows of 128 numbers. No data; requests are declared."""

from pathlib import Path

from dist_rec.config import Config
from dist_rec.data.schema import Schema
from dist_rec.data.writer import write_schema

GPUS = (8, 64, 512)
REQUESTS = ("length=1000", "spread=0.8", "candidates=8", "duplicates=0.6")
SCHEMA = Schema.model_validate(
    {
        "name": "two_terabytes",
        "tables": {
            "item": 2_000_000_000,
            "user": 1_000_000_000,
            "seller": 500_000_000,
            "query": 400_000_000,
            "category": 50_000,
            "city": 100_000,
        },
        "request": {"grouping_key": "user", "time": "time"},
        "context": ["user", "city"],
        "sequences": [
            {"name": "history", "ids": ["item", "seller", "category"], "side": {"action": 4}, "time": True},
            {"name": "search", "ids": ["query", "item"], "time": True},
        ],
        "candidate": {"ids": ["item", "seller", "category"], "labels": ["click", "buy"]},
    }
)


def large_config(folder: Path) -> tuple[Config, tuple[str, ...]]:
    """A LONGER of width 256 on these tables, whose schema is written to the folder, and its requests."""
    write_schema(folder, SCHEMA)
    model = {"tokens": {"width": 256, "hidden": 512}, "longer": {"merge": 4, "k": 128, "heads": 8}}
    data = {"path": str(folder), "batch_size": 256}
    tree = {"data": data, "embedding": {"dim": 128}, "model": {**model, "head": {"hidden": [1024, 512]}}}
    return Config.model_validate(tree), REQUESTS
