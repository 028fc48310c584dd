"""Small data with a domain that a probe can find, for the tests of the probe."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dist_rec.data.columns import list_column, ragged_values
from dist_rec.data.schema_file import load_schema
from dist_rec.data.synthetic.history import SynthConfig, synthesize
from dist_rec.probe.states import StatesConfig

FAST = StatesConfig(width=16, layers=1, steps=60, batch_requests=16)
DOMAIN = (6, 7)


def make_data(folder: Path) -> Path:
    """600 requests; a column `history.is_forget` beside those of the schema says which events are of the domain."""
    synthesize(
        folder, SynthConfig(requests=600, max_length=40, mean_length=15, items=80, categories=8, forget_share=0.2)
    )
    for path in folder.rglob("*.parquet"):
        table = pq.read_table(path)
        category = ragged_values(table, "history.category")
        marks = list_column(category.lengths, np.isin(category.values, DOMAIN).astype(np.int8))
        pq.write_table(table.append_column("history.is_forget", marks), path, row_group_size=64)
    return folder


def read(folder: Path, split: str = "test") -> pa.Table:
    schema = load_schema(folder)
    assert schema.sequences[0].name == "history"
    return pq.read_table(folder / split).combine_chunks()
