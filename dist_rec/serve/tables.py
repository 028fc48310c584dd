"""Rows of tables that lie in files, looked up by plain indexing: what a lookup of TorchRec gives, on any machine.

Legend: R rows of a table, U ids, D width of a row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from dist_rec.common.open_ids import HIDDEN_ID
from dist_rec.data.schema import Schema

Stored = Literal["fp32", "fp16", "int8", "int4"]
Ids = Callable[[str], Tensor]


class RowReader(Protocol):
    """Rows (U,) int64 -> (U, D) float32."""

    def __call__(self, rows: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class PlainRows:
    """`weight` (R, D) float32 or float16."""

    weight: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        return self.weight.index_select(0, rows).float()


@dataclass(frozen=True)
class Int8Rows:
    """`weight` (R, D) uint8; `scale`, `bias` (R,) float32: a value is weight * scale + bias."""

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        values = self.weight.index_select(0, rows).float()
        return values * self.scale[rows][:, None] + self.bias[rows][:, None]


@dataclass(frozen=True)
class Int4Rows:
    """`weight` (R, D / 2) uint8, of two neighbours the first in the low half; `scale`, `bias` (R,) float16."""

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        packed = self.weight.index_select(0, rows)
        values = torch.stack([packed & 15, packed >> 4], dim=2).flatten(1).float()
        return values * self.scale[rows].float()[:, None] + self.bias[rows].float()[:, None]


@dataclass(frozen=True)
class ChangedRows:
    """A table of which the rows `at` (n,) int64, ascending, are those of `changed`, in this order."""

    reader: RowReader
    at: Tensor
    changed: RowReader

    def __call__(self, rows: Tensor) -> Tensor:
        found = self.reader(rows)
        if len(self.at) == 0 or len(rows) == 0:
            return found
        place = torch.searchsorted(self.at, rows).clamp(max=len(self.at) - 1)
        here = (self.at[place] == rows).nonzero()[:, 0]
        return found.index_copy_(0, here, self.changed(place[here]))


@dataclass(frozen=True)
class DynamicRows:
    """Any ids, of which those in `ids` (n,) int64, ascending, have the row of the same place in `rows` (n,) int64, and
    all others share the row `fallback`; HIDDEN has the row `hidden`."""

    reader: RowReader
    ids: Tensor
    rows: Tensor
    fallback: int
    hidden: int

    def __call__(self, rows: Tensor) -> Tensor:
        if len(self.ids) == 0:
            found = torch.full_like(rows, self.fallback)
        else:
            place = torch.searchsorted(self.ids, rows).clamp(max=len(self.ids) - 1)
            found = torch.where(self.ids[place] == rows, self.rows[place], self.fallback)
        return self.reader(torch.where(rows == HIDDEN_ID, self.hidden, found))


@dataclass(frozen=True)
class Tables:
    """Every table by name."""

    readers: Mapping[str, RowReader]
    schema: Schema

    def rows(self, ids_of: Ids) -> dict[str, Tensor]:
        """Feature set -> (U, D_set) float32, the rows of its fields side by side; `ids_of` gives (U,) ids by key."""
        layout = self.schema.layout
        return {
            name: torch.cat([self.readers[layout.tables[key]](ids_of(key)) for key in of.keys], dim=1)
            for name, of in layout.feature_sets.items()
        }
