"""Dynamic ids in a checkpoint: one entry per slot, split over the ranks as the rows are.

An id's row does not depend on the number of ranks, so another number of them reads the entries where they are.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata, TensorProperties
from torch.distributed._shard.sharding_spec import ShardMetadata

from dist_rec.embedding.dynamic_tables import DynamicTables, wait_for_maps
from dist_rec.embedding.slot_map import Place, SlotMap


def state_of(tables: DynamicTables, *, training: bool) -> dict[str, Any]:
    """By name: the ids of every slot; in `training` also when and how often they were met, the ids that wait for a row,
    and the steps so far. Views of the maps: what is loaded into them is theirs, after `load_steps`."""
    found: dict[str, Any] = {}
    for name, of in tables.ids.items():
        if not training:
            found[f"{name}.ids"] = _sharded(of.table.ids, of.table.place)
            continue
        found |= _whole(f"{name}.", of.table)
        found |= {} if of.waiting is None else _whole(f"{name}.waiting_", of.waiting)
    return found | ({"steps": torch.tensor([tables.steps])} if training else {})


def load_steps(tables: DynamicTables, state: dict[str, Any]) -> None:
    """Call after a state was loaded: takes the steps of a state of training."""
    for of in tables.ids.values():
        wait_for_maps(of.table.ids.device)
    if "steps" in state:
        tables.steps = int(state["steps"])


def _whole(prefix: str, of: SlotMap) -> dict[str, ShardedTensor]:
    return {f"{prefix}{name}": _sharded(getattr(of, name), of.place) for name in ("ids", "seen", "count")}


def _sharded(mine: Tensor, place: Place) -> ShardedTensor:
    """The tensor of all ranks, of which `mine` (slots,) is this rank's part."""
    parts = [
        ShardMetadata(
            shard_offsets=[rank * place.slots],
            shard_sizes=[place.slots],
            placement=f"rank:{rank}/{mine.device}",  # of other ranks nobody asks
        )
        for rank in range(place.ranks)
    ]
    whole = ShardedTensorMetadata(
        shards_metadata=parts,
        size=torch.Size([place.slots * place.ranks]),
        tensor_properties=TensorProperties(dtype=mine.dtype),
    )
    return ShardedTensor._init_from_local_shards_and_global_metadata([Shard(mine, parts[place.rank])], whole)
