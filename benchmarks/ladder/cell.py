"""One cell of the ladder: a model, lengths of histories, candidates and a batch; its recipe and its requests.

Legend: B requests of a batch, P requests of a rank in one block.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dist_rec.config import Config, load_config
from dist_rec.data.columns import Ints, expand_ranges, list_column, ragged_values
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema
from dist_rec.data.synthetic.history import SynthConfig, synthesize
from dist_rec.data.synthetic.three import ThreeConfig, synthesize_three

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {"longer": "quickstart", "hyformer": "hyformer"}
RANKS = torch.cuda.device_count() or 2  # a rank per GPU; without one, two on gloo
SPREAD = 0.03  # histories of one length are at most so much shorter
LR = 1e-3
QUICKSTART_EVENTS = 113  # mean history of the quickstart's data


@dataclass(frozen=True)
class Cell:
    """What is measured, whatever the row.

    - `lengths`: "quickstart" for the histories of the recipe's own data, or a number of events that all histories have,
      within `SPREAD` below it; of HyFormer's three sequences the first
    - `merge`: K of LONGER; HyFormer has none, and 1
    - `batch`: requests of a batch on one rank; `steps`: batches of a block on one rank
    - `auc_steps`: batches of a rank that each row trains on before its AUC is measured; 0 for none
    - `settings`: further settings of the recipe, for all rows, such as the width of the model
    """

    model: str
    lengths: str
    candidates: int
    merge: int
    batch: int
    steps: int
    auc_steps: int = 0
    settings: tuple[str, ...] = ()

    @property
    def requests(self) -> int:
        """P"""
        return self.batch * self.steps

    @property
    def most_requests(self) -> int:
        """Of a rank, in a block or in the training whose AUC is measured."""
        return self.batch * max(self.steps, self.auc_steps)

    @property
    def repeated_events(self) -> int:
        """About how many events a batch of a rank has, if each candidate has a history of its own."""
        length = QUICKSTART_EVENTS if self.lengths == "quickstart" else int(self.lengths)
        return self.batch * self.candidates * length

    @property
    def name(self) -> str:
        merge = f", merge {self.merge}" if self.model == "longer" else ""
        changed = "".join(f", {setting}" for setting in self.settings)
        return f"{self.model}, {self.lengths} events, batch {self.batch}, candidates {self.candidates}{merge}{changed}"

    def check(self) -> None:
        """Raises ValueError for a cell that cannot be measured."""
        if self.model not in RECIPES:
            raise ValueError(f"model: expected one of {', '.join(RECIPES)}, got {self.model!r}")
        if self.lengths != "quickstart" and not (self.lengths.isdecimal() and int(self.lengths) >= 10):
            raise ValueError(f"lengths: expected quickstart or a number of events from 10 on, got {self.lengths!r}")
        if self.model == "hyformer" and self.merge != 1:
            raise ValueError(f"merge: HyFormer merges no events, expected 1, got {self.merge}")
        if min(self.candidates, self.merge, self.batch, self.steps) < 1:
            raise ValueError(f"candidates, merge, batch and steps: expected numbers from 1 on, got {self}")

    def recipe(self, data: Path, overrides: tuple[str, ...] = ()) -> Config:
        """The model of the repository's recipe. The optimizer is the same in all rows: AdamW at a constant rate,
        without clipping, which the plain job would have to pay for too."""
        merged = [f"model.longer.merge={self.merge}", f"model.longer.inner_trans={str(self.merge > 1).lower()}"]
        return load_config(
            ROOT / "launch" / "recipes" / f"{RECIPES[self.model]}.yaml",
            [
                *(f"data.path={data}", f"data.batch_size={self.batch}"),
                *("optim.optimizer=adamw", "optim.clip_norm=null", "optim.decay=none", f"optim.lr={LR}"),
                *("optim.warmup_steps=0", "optim.warmup_sync_steps=0"),
                *(merged if self.model == "longer" else ()),
                *self.settings,
                *overrides,
            ],
        )


def write_data(cell: Cell, folder: Path) -> None:
    """Writes the synthetic dataset of a cell."""
    wanted = RANKS * cell.most_requests
    options: dict[str, int] = {"candidates": cell.candidates}
    if cell.lengths != "quickstart":
        # Most timelines end at the longest one, and requests lie in their last 60 %: half of them are long enough.
        longest = int(cell.lengths) * 5 // 2
        options |= {"max_length": longest, "mean_length": longest - 1, "requests": 4 * wanted, "users": 4 * wanted}
    if cell.model == "longer":
        synthesize(folder, SynthConfig(**options))
    else:
        synthesize_three(folder, ThreeConfig(**options))


def read_requests(cell: Cell, folder: Path, split: str, most: int | None) -> tuple[pa.Table, Schema]:
    """`most` requests of a split whose histories fit the cell, with histories cut to its lengths, in an order of chance
    that is always the same: files go by time, and the first requests of users have the shortest histories.

    Raises ValueError if there are fewer."""
    schema = load_schema(folder)
    table = pa.concat_tables(pq.read_table(path) for path in sorted((folder / split).rglob("*.parquet")))
    if cell.lengths != "quickstart":
        table = _cut(table, schema, int(cell.lengths))
    if most is not None and table.num_rows < most:
        raise ValueError(f"{folder / split}: expected {most} requests with {cell.lengths} events, got {table.num_rows}")
    if most is not None:
        table = table.take(np.random.default_rng(0).permutation(table.num_rows)[:most])
    return table.combine_chunks(), schema


def _cut(table: pa.Table, schema: Schema, length: int) -> pa.Table:
    """Requests with at least `length` events in the first sequence, and of these the newest."""
    sequence = schema.sequences[0]
    enough = np.flatnonzero(ragged_values(table, f"{sequence.name}.{sequence.ids[0].name}").lengths >= length)
    table = table.take(enough)
    keep = length - np.random.default_rng(0).integers(0, int(SPREAD * length) + 1, len(enough))
    for number, name in enumerate(table.column_names):
        if name.startswith(f"{sequence.name}."):
            of = ragged_values(table, name)
            _, index = expand_ranges(of.offsets[1:] - keep, keep)
            table = table.set_column(number, name, list_column(keep, of.values[index]))
    return table


def history_lengths(table: pa.Table, schema: Schema) -> Ints:
    """(B,) events of all sequences of each request."""
    names = [f"{sequence.name}.{sequence.ids[0].name}" for sequence in schema.sequences]
    return np.sum([ragged_values(table, name).lengths for name in names], axis=0)


def batches_of(lengths: Ints, batch: int, *, alike: bool) -> list[Ints]:
    """Requests of every batch, (batch,) each. `alike`: batches of requests of like length, in shuffled order, the same
    order on every rank: the ranks' batches of one step are then alike too."""
    if not alike:
        return np.split(np.arange(len(lengths)), np.arange(batch, len(lengths), batch))
    order = np.argsort(lengths, kind="stable")
    parts = np.split(order, np.arange(batch, len(lengths), batch))
    return [parts[number] for number in np.random.default_rng(0).permutation(len(parts))]
