"""One model in the forms in which people serve it, on the same weights and requests.

- `cached`: candidates against kept states of users
- `whole`: history and candidates at once, the history once per request
- `padded`: the same in plain PyTorch, histories padded to the longest
- `per candidate`: the same, and every candidate a row with a history of its own, as public code serves it
- `no history`: candidates against states without events

Legend: B requests, C candidates, T tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from benchmarks.ladder.cell import Cell, read_requests, write_data
from benchmarks.ladder.plain_batch import PlainBatch, collate_plain
from benchmarks.ladder.plain_ranker import PlainRanker
from dist_rec.data.collate import Collator
from dist_rec.data.columns import CANDIDATE, arrow_schema, ragged_values
from dist_rec.data.schema import Schema
from dist_rec.embedding.tables import table_dims
from dist_rec.models.halves import Halves
from dist_rec.models.ranker import Ranker
from dist_rec.serve.columns import serving_schema
from dist_rec.serve.engine import Engine
from dist_rec.serve.tables import PlainRows, Tables
from dist_rec.serve.user_state import UserState

MOST_EVENTS = 200_000  # of a batch of rows per candidate, which is computed in parts


@dataclass(frozen=True)
class Forms:
    """A cell's model and `requests` (B rows) of one batch."""

    cell: Cell
    schema: Schema
    requests: pa.Table  # with labels, as the plain model's batches have them
    engine: Engine
    plain: PlainRanker
    tables: dict[str, Tensor]
    states: list[UserState] = field(default_factory=list)

    @classmethod
    @torch.no_grad()
    def of(cls, cell: Cell) -> "Forms":
        with TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            write_data(cell, data)
            requests, schema = read_requests(cell, data, "train", cell.batch)
            requests = _of_distinct_users(requests, schema)
            config = cell.recipe(data)
        torch.manual_seed(0)
        dims = table_dims(schema, config.embedding)
        ranker = Ranker(schema, config.model, dims)
        plain = PlainRanker(schema, config, packed=False, factorised=False)
        plain.load_state_dict(ranker.state_dict())
        tables = {name: torch.randn(size, dims[name]) for name, size in schema.tables.items()}
        served = serving_schema(schema)
        collator = Collator(schema=served, max_length=config.data.max_length)
        readers = {name: PlainRows(of) for name, of in tables.items()}
        engine = Engine("v1", collator, Tables(readers, served), Halves(ranker))
        found = cls(cell, schema, requests, engine, plain.eval(), tables)
        found.states.extend(engine.encode(found.asked))
        return found

    @property
    def asked(self) -> pa.Table:
        """The requests as a server gets them."""
        types = arrow_schema(self.engine.schema)
        return self.requests.select(types.names).cast(types)

    @property
    def candidates(self) -> int:
        """C of the batch."""
        name = f"{CANDIDATE}.{self.schema.candidate.ids[0].name}"
        return int(ragged_values(self.requests, name).lengths.sum())

    def calls(self) -> dict[str, Callable[[], Tensor]]:
        """Form -> what gives the logits (C, T) of the batch, from the rows of a table on."""
        asked, engine = self.asked, self.engine
        empty = engine.encode(asked.slice(0, 0)) if asked.num_rows == 0 else self._without_history(asked)
        return {
            "cached": lambda: engine.score(self.states, asked).logits,
            "whole": lambda: engine.score_whole(asked).logits,
            "padded": lambda: self._plain(self.requests, per_candidate=False),
            "per candidate": self._per_candidate,
            "no history": lambda: engine.score(empty, asked).logits,
        }

    def _without_history(self, asked: pa.Table) -> list[UserState]:
        names = {of.name for of in self.schema.sequences}
        for number, name in enumerate(asked.column_names):
            if name.partition(".")[0] in names:
                kind = asked.schema.field(name).type
                asked = asked.set_column(number, name, pa.array([[]] * asked.num_rows, kind))
        return self.engine.encode(asked)

    def _per_candidate(self) -> Tensor:
        """In parts of one request, and of some of its candidates, as far as memory goes."""
        per_part = max(1, MOST_EVENTS // max(int(self.cell.lengths), 1))
        found = []
        for row in range(self.requests.num_rows):
            for at in range(0, self.cell.candidates, per_part):
                found.append(self._plain(self._candidates(row, at, per_part), per_candidate=True))
        return torch.cat(found)

    def _candidates(self, row: int, at: int, count: int) -> pa.Table:
        table = self.requests.slice(row, 1)
        for number, name in enumerate(table.column_names):
            if name.startswith(f"{CANDIDATE}."):
                kind = table.schema.field(name).type
                table = table.set_column(number, name, pa.array([table.column(name)[0].as_py()[at : at + count]], kind))
        return table.combine_chunks()

    @torch.no_grad()
    def _plain(self, table: pa.Table, *, per_candidate: bool) -> Tensor:
        batch = collate_plain(table, self.schema, per_candidate=per_candidate, padded=True, dtype=torch.int64)
        return self.plain(self._looked_up(batch), batch)

    def _looked_up(self, batch: PlainBatch) -> dict[str, Any]:
        """What a collection gives for a plain batch."""
        of_keys = dict(self.schema.layout.tables)
        of_keys |= {f"{CANDIDATE}.{of.name}": of.table for of in self.schema.candidate.ids}
        ids = batch.features
        rows = {key: self.tables[of_keys[key]][ids[key].values()] for key in ids.keys()}  # noqa: SIM118 - no dict
        return {key: SimpleNamespace(values=lambda of=of: of) for key, of in rows.items()}


def _of_distinct_users(requests: pa.Table, schema: Schema) -> pa.Table:
    """A server keeps one state for each user."""
    name = schema.request.grouping_key
    place, kind = requests.schema.get_field_index(name), requests.schema.field(name).type
    return requests.set_column(place, name, pa.array(range(requests.num_rows)).cast(kind))
