"""Small requests with chosen lengths, and both forms of a ranker on them."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from benchmarks.bench_candidates import rows_of
from benchmarks.ladder.cell import Cell, read_requests, write_data
from benchmarks.ladder.plain_batch import PlainBatch, collate_plain
from benchmarks.ladder.plain_ranker import PlainRanker
from dist_rec.config import Config
from dist_rec.data.collate import collate
from dist_rec.data.columns import expand_ranges, list_column, ragged_values
from dist_rec.data.schema import Schema
from dist_rec.embedding.tables import table_dims
from dist_rec.models.ranker import Ranker


@cache
def some_requests(model: str, candidates: int, merge: int = 1) -> tuple[pa.Table, Schema, Config]:
    """Eight requests with about 50 events, and the recipe of their cell."""
    cell = Cell(model, "50", candidates, merge, batch=8, steps=1)
    with TemporaryDirectory() as folder:
        write_data(cell, Path(folder) / "data")
        requests, schema = read_requests(cell, Path(folder) / "data", "train", 8)
        return requests, schema, cell.recipe(Path(folder) / "data")


def cut(table: pa.Table, schema: Schema, lengths: list[int]) -> pa.Table:
    """The first requests with the newest events of each sequence: at most so many of each request."""
    table = table.slice(0, len(lengths)).combine_chunks()
    for number, name in enumerate(table.column_names):
        if any(name.startswith(f"{of.name}.") for of in schema.sequences):
            of = ragged_values(table, name)
            keep = np.minimum(of.lengths, lengths)
            _, index = expand_ranges(of.offsets[1:] - keep, keep)
            table = table.set_column(number, name, list_column(keep, of.values[index]))
    return table


class Both:
    """dist_rec's ranker and the plain one with the same weights, which are large enough to make every part tell."""

    def __init__(self, model: str, candidates: int, merge: int = 1, *, packed: bool = True, factorised: bool = False):
        self.requests, self.schema, self.config = some_requests(model, candidates, merge)
        torch.manual_seed(0)
        self.ranker = Ranker(self.schema, self.config.model, table_dims(self.schema, self.config.embedding))
        for parameter in self.ranker.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        self.plain = PlainRanker(self.schema, self.config, packed=packed, factorised=factorised)
        self.plain.load_state_dict(self.ranker.state_dict())
        self.packed, self.factorised = packed, factorised
        dims = table_dims(self.schema, self.config.embedding)
        self.tables = {name: torch.randn(size, dims[name]) for name, size in self.schema.tables.items()}

    def plain_batch(self, table: pa.Table, *, per_candidate: bool = False) -> PlainBatch:
        return collate_plain(table, self.schema, per_candidate=per_candidate, padded=not self.packed, dtype=torch.int64)

    def looked_up(self, batch: PlainBatch) -> dict[str, Any]:
        """What a collection gives for a plain batch."""
        tables = dict(self.schema.layout.tables)
        tables |= {f"candidate.{field.name}": field.table for field in self.schema.candidate.ids}
        rows = {key: self.tables[tables[key]][batch.features[key].values()] for key in batch.features.keys()}  # noqa: SIM118
        return {key: SimpleNamespace(values=lambda of=of: of) for key, of in rows.items()}

    def logits(self, lengths: list[int], *, per_candidate: bool = False) -> tuple[Tensor, Tensor]:
        """Of the plain ranker and of dist_rec's, (C, T) each, for requests with at most so many events."""
        table = cut(self.requests, self.schema, lengths)
        packet = collate(table, self.schema).to(torch.device("cpu"))
        rows = rows_of(packet, self.schema, self.tables)
        expected = self.ranker(rows, packet)
        if self.factorised:
            return self.plain(rows, packet), expected
        batch = self.plain_batch(table, per_candidate=per_candidate)
        return self.plain(self.looked_up(batch), batch), expected
