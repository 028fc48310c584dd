"""Raw ids of the dynamic tables of a model -> rows, before the lookup, and rows that change their id start anew.

A pipeline runs `DynamicTables` ahead (`pipeline_postproc=True`), so a step may take a row away from an id of the step
before, whose backward is still to come. Hence what changed waits until its own forward: `Renewal` resets those rows
just before they are looked up, after the backward of the step before.
"""

from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.common.open_ids import HIDDEN_ID, AdmissionConfig, EvictionConfig
from dist_rec.config import EmbeddingConfig, TableConfig
from dist_rec.data.schema import Schema
from dist_rec.embedding.dynamic_ids import DynamicIds
from dist_rec.embedding.id_exchange import ask_owners
from dist_rec.embedding.rows import RankRows
from dist_rec.embedding.slot_map import Place

Fresh = tuple[Tensor, Tensor]  # slots of this rank (f,), and the ids (f,) that they have from now on


class Renewal(nn.Module):
    """Resets the rows that the next batch gave to other ids: their weights to what a new id starts with, their
    optimizer state to zeros. Called once per training batch, before its lookup."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: deque[dict[str, Fresh]] = deque()
        self.rows: dict[str, RankRows] = {}

    def forward(self) -> None:
        if not self.training:
            return
        for table, (slots, ids) in self.waiting.popleft().items():
            for tensor in (slots, ids) if slots.is_cuda else ():
                tensor.record_stream(torch.cuda.current_stream())  # pyright: ignore[reportArgumentType] - torch's stub
            self.rows[table].reset(slots, ids)


class DynamicTables(nn.Module):
    """Features of unique ids -> the same with rows in the place of the raw ids of dynamic tables.

    In training new ids get rows, and others lose theirs; what changed waits in `renewal`. In evaluation an unknown id
    gets the fallback row, and nothing changes. Ids of these tables are no parameters and no buffers: every rank has its
    own, which nothing may broadcast. `start` makes them.
    """

    def __init__(self, schema: Schema, config: EmbeddingConfig) -> None:
        super().__init__()
        self.held = {name: schema.tables[name] for name, kind in schema.open_ids.items() if kind == "dynamic"}
        self.held = {name: held for name, held in self.held.items() if name in schema.layout.tables.values()}
        self.overrides = {name: config.tables.get(name, TableConfig()) for name in self.held}
        self.keys = {n: [key for key, table in schema.layout.tables.items() if table == n] for n in self.held}
        self.ids: dict[str, DynamicIds] = {}
        self.steps = 0
        # Not as a module: a pipeline puts another one in the place of this.
        self.renewal = (Renewal(),)

    def start(self, rows: dict[str, RankRows], device: torch.device, rank: int, ranks: int) -> None:
        """Empty maps for this rank's part of the tables, whose `rows` they are about.

        Raises ConfigError for a number of ranks that cannot hold whole buckets."""
        for name, held in self.held.items():
            place = Place(held, rank, ranks)
            place.check(name)
            of = self.overrides[name]
            options = of.eviction or EvictionConfig(), of.admission or AdmissionConfig()
            self.ids[name] = DynamicIds(place, *options, device)
        self.renewal[0].rows = rows

    def forward(self, unique: KeyedJaggedTensor) -> KeyedJaggedTensor:
        keys, counts = unique.keys(), unique.length_per_key()
        values = dict(zip(keys, unique.values().split(counts), strict=True))
        fresh: dict[str, Fresh] = {}
        for name, of in self.keys.items():
            found = self._rows_of(name, torch.cat([values[key] for key in of]), fresh)
            values |= zip(of, found.split([len(values[key]) for key in of]), strict=True)
        if self.training:
            self.steps += 1
            self.renewal[0].waiting.append(fresh)
        return KeyedJaggedTensor(
            keys=keys,
            values=torch.cat([values[key] for key in keys]),
            lengths=unique.lengths(),
            stride=unique.stride(),
            length_per_key=counts,
        )

    def _rows_of(self, table: str, raw: Tensor, fresh: dict[str, Fresh]) -> Tensor:
        """(n,) rows of the whole table, of raw ids (n,); in training also notes what became fresh."""
        if table not in self.ids:
            raise RuntimeError(f"table {table}: its ids are not there yet; expected start_dynamic_ids after sharding")
        of = self.ids[table]
        place = of.table.place

        def answer(ids: Tensor) -> Tensor:
            if self.training:
                learned = of.learn(ids, self.steps)
                slots, fresh[table] = learned.slots, (learned.fresh, learned.ids)
            else:
                slots = of.known(ids)
            return torch.where(slots < 0, place.fallback, slots + place.first)

        ids, inverse = torch.unique(raw, return_inverse=True)
        hidden = ids == HIDDEN_ID
        shown = ids[~hidden]
        rows = torch.full_like(ids, place.hidden)
        rows[~hidden] = ask_owners(shown, place.owners(shown), place.ranks, answer)
        return rows[inverse]


def dynamic_tables(modules: Iterable[nn.Module]) -> DynamicTables | None:
    """Those of a model, by its modules; None if it has none."""
    return next((module for module in modules if isinstance(module, DynamicTables) and module.held), None)


def wait_for_maps(device: torch.device) -> None:
    """Call after maps were made or loaded: a pipeline reads them on another stream."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def start_dynamic_ids(model: nn.Module, *, init_scale: float, seed: int, rank: int, ranks: int) -> None:
    """Call once after sharding, where a model may have dynamic tables: makes their maps, on the device of their rows.

    `init_scale`, `seed`: of the rows that new ids start with, see `fresh_rows`. Raises ConfigError as
    `DynamicTables.start`."""
    tables = dynamic_tables(model.modules())
    if tables is not None:
        rows = {name: RankRows.of(model, name, init_scale=init_scale, seed=seed) for name in tables.held}
        device = next(iter(rows.values())).weight.device
        tables.start(rows, device, rank, ranks)
        wait_for_maps(device)
