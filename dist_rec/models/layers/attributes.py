"""Rows of ids made wider by what belongs to the ids, before anything is made of them.

Legend: U distinct tokens of a feature set, D width of the row of one id, A width of its attributes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dist_rec.data.attributes import AttributeField
from dist_rec.data.batch import IdLists, SequenceBatch
from dist_rec.data.kinds import attributes_of_keys
from dist_rec.data.schema import Schema
from dist_rec.kernels.gather_pool import pool
from dist_rec.models.config import TokenConfig
from dist_rec.models.layers.linear import Linear
from dist_rec.models.layers.numbers import NumberTerm


class Attributes(nn.Module):
    """Rows by feature set (U, sum of D) and the batch -> the same with (U, sum of D + A): the columns of a field, then
    those of its attributes as they are declared. Encodings belong to the table: all its keys share them.

    Rows of a list's ids are pooled to as many columns as they have, and zeros without any. HIDDEN has zeros, and its
    numbers are missing.
    """

    def __init__(self, schema: Schema, table_dims: Mapping[str, int], config: TokenConfig) -> None:
        super().__init__()
        layout, of_keys = schema.layout, attributes_of_keys(schema)
        self.sets = {
            name: [(key, table_dims[layout.tables[key]], of_keys.get(key, {})) for key in of.keys]
            for name, of in layout.feature_sets.items()
            if any(key in of_keys for key in of.keys)
        }
        self.tables = {key: layout.tables[key] for key in of_keys}
        self.encode = nn.ModuleDict(
            {
                table: nn.ModuleDict({name: _encoder(of, config) for name, of in found.items() if of.list is None})
                for table, found in {layout.tables[key]: found for key, found in of_keys.items()}.items()
            }
        )

    def forward(self, rows: Mapping[str, Tensor], batch: SequenceBatch) -> dict[str, Tensor]:
        return {name: self._widened(name, of, rows, batch) if name in self.sets else of for name, of in rows.items()}

    def _widened(self, feature_set: str, own: Tensor, rows: Mapping[str, Tensor], batch: SequenceBatch) -> Tensor:
        parts, start = [], 0
        for key, width, attributes in self.sets[feature_set]:
            parts.append(own[:, start : start + width])
            start += width
            for name, of in attributes.items():
                values = batch.attributes[key][name]
                if isinstance(values, IdLists):
                    parts.append(pool(rows[f"{key}.{name}"], values.inverse, values.lengths.offsets, mode=of.pool))
                    continue
                encode = self._encoder(key, name)
                if isinstance(encode, nn.Linear):  # a vector, in float16
                    values = values.to(encode.weight.dtype)
                parts.append(encode(values.int() if isinstance(encode, nn.Embedding) else values).to(own.dtype))
        return torch.cat(parts, dim=1)

    def _encoder(self, key: str, name: str) -> nn.Module:
        of_table = self.encode[self.tables[key]]
        assert isinstance(of_table, nn.ModuleDict), "made so"
        return of_table[name]


def _encoder(of: AttributeField, config: TokenConfig) -> nn.Module:
    if of.vector is not None:
        return Linear(of.vector, config.vector_dim, bias=False)
    assert of.number is not None, "lists have none"
    if of.number.num_buckets is not None:
        return nn.Embedding(of.number.num_buckets, config.side_dim)
    return NumberTerm(of.number, config.side_dim)
