"""Which rows of a table of a checkpoint become which rows of a table that may have grown since.

Legend: N ids of a table; row N is HIDDEN where events that a filter hides look the table up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata, TensorProperties
from torch.distributed._shard.sharding_spec import ShardMetadata

from dist_rec.data.schema import Schema


@dataclass(frozen=True)
class Rows:
    """`count` rows from `before` on become those from `after` on."""

    before: int
    after: int
    count: int


def kind_of(schema: Schema, table: str) -> str:
    return "n-grams" if table in schema.ngram_tables else schema.open_ids.get(table, "range")


def moved(before: Schema, old: str, after: Schema, new: str) -> list[Rows]:
    """Where the rows of table `old` go in table `new`; all of them go somewhere.

    Raises ValueError with what was expected and what came if ids would not find their rows."""
    kinds = kind_of(before, old), kind_of(after, new)
    if kinds[0] != kinds[1]:
        raise ValueError(f"expected the same kind of ids, got {kinds[0]} in the checkpoint and {kinds[1]} now")
    if kinds[0] == "dynamic":
        raise ValueError("which id has which row of dynamic ids belongs to the run that gave it; expected a new start")
    rows = before.rows_of(old), after.rows_of(new)
    if kinds[0] == "n-grams":
        specs = before.ngram_tables[old].spec, after.ngram_tables[new].spec
        if specs[0] != specs[1]:
            raise ValueError(f"n-grams would find other rows: expected {specs[0]} as in the checkpoint, got {specs[1]}")
        hidden = before.ngram_tables[old].hidden, after.ngram_tables[new].hidden
        if None not in hidden and hidden[0] != hidden[1]:
            raise ValueError(
                f"n-grams of HIDDEN would find other rows, since it is the last of the ids: expected {hidden[0]} ids "
                f"as in the checkpoint, got {hidden[1]}"
            )
        return [Rows(0, 0, rows[0])]
    ids = before.tables[old], after.tables[new]
    if kinds[0] == "hashed" and ids[0] != ids[1]:
        raise ValueError(f"hashed ids would find other rows: expected {ids[0]} as in the checkpoint, got {ids[1]}")
    if ids[1] < ids[0]:
        raise ValueError(f"the table has shrunk: expected at least {ids[0]} ids as in the checkpoint, got {ids[1]}")
    hidden = [Rows(ids[0], ids[1], 1)] if rows[0] > ids[0] and rows[1] > ids[1] else []
    return [Rows(0, 0, ids[0]), *hidden]


def as_before(weight: ShardedTensor, size: Sequence[int], rows: Sequence[Rows]) -> ShardedTensor:
    """The table of the checkpoint, `size`, as views of the places that its rows have in this rank's shards now: what is
    loaded into it is where it belongs."""
    parts: list[ShardMetadata] = []
    mine: list[Shard] = []
    here = {tuple(shard.metadata.shard_offsets): shard.tensor.detach() for shard in weight.local_shards()}
    for shard in weight.metadata().shards_metadata:
        for part, local in _parts(shard, rows):
            parts.append(part)
            if part.placement is not None and part.placement.rank() == dist.get_rank():  # pyright: ignore[reportAttributeAccessIssue]
                mine.append(Shard(here[tuple(shard.shard_offsets)][local], part))
    whole = ShardedTensorMetadata(
        shards_metadata=parts,
        size=torch.Size(size),
        tensor_properties=TensorProperties(dtype=weight.metadata().tensor_properties.dtype),
    )
    return ShardedTensor._init_from_local_shards_and_global_metadata(mine, whole)


def _parts(shard: ShardMetadata, rows: Sequence[Rows]) -> Iterator[tuple[ShardMetadata, slice]]:
    """What a shard of the new table has of the old one: as shards of the old one, and their rows in the new shard."""
    (first, column), (count, width) = shard.shard_offsets, shard.shard_sizes
    for of in rows:
        start, end = max(first, of.after), min(first + count, of.after + of.count)
        if start < end:
            offsets = [start - of.after + of.before, column]
            placement: Any = shard.placement
            yield (
                ShardMetadata(shard_offsets=offsets, shard_sizes=[end - start, width], placement=placement),
                slice(start - first, end - first),
            )


def take(weight: Tensor, before: Tensor, rows: Sequence[Rows]) -> None:
    """Copies the rows of a whole table into a whole table."""
    for of in rows:
        weight[of.after : of.after + of.count] = before[of.before : of.before + of.count]
