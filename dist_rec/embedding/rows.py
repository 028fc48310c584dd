"""Rows of embedding tables put back to their start, with their optimizer state, however the tables are sharded.

Legend: R rows of a table, n ids, D row width.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor

from dist_rec.embedding.cache import drop_cached_rows

# Where TorchRec's collections and `TokenEmbedding` keep the weight of a table; table names have no dots.
_WEIGHT = re.compile(r"(?:^|\.)(?:embeddings|embedding_bags|replicated)\.([^.]+)\.weight$")
# The finalizer of SplitMix64 (Steele, Lea, Flood 2014), constants as signed 64-bit numbers.
_GOLDEN, _FIRST, _SECOND = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def fresh_rows(table: str, ids: Tensor, dim: int, *, init_scale: float, seed: int) -> Tensor:
    """(n, dim) float32 on the device of `ids`, uniform in [-init_scale, init_scale): what rows `ids` (n,) int64 of a
    table start with.

    A number depends on the seed, the table, the id and the column alone, so every shard of a row, and every process
    that computes one, has the same."""
    key = int.from_bytes(hashlib.sha256(f"{seed}:{table}".encode()).digest()[:8], "big", signed=True)
    row = _mixed(_mixed(ids[:, None]) ^ key)
    bits = _mixed(row + torch.arange(1, dim + 1, device=ids.device) * _GOLDEN)
    share = ((bits >> 40) & (2**24 - 1)).double() / 2**24
    return (share * 2 * init_scale - init_scale).float()


def mixed_seed(ids: Tensor) -> Tensor:
    """The first output of SplitMix64 seeded with each id, as int64: `dist_rec.common.id_hash.mixed` in torch."""
    return _mixed(ids + _GOLDEN)


def _mixed(x: Tensor) -> Tensor:
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """A logical shift to the right; torch's keeps the sign."""
    return (x >> by) & (2 ** (64 - by) - 1)


def table_of(name: str) -> str | None:
    """The table whose weight has this name in a state dict; None for every other parameter."""
    found = _WEIGHT.search(name)
    return None if found is None else found[1]


def weights_of_tables(model: nn.Module) -> dict[str, Any]:
    """Name in the state dict -> weight of every table: this rank's `ShardedTensor`, or a tensor where it is
    replicated.

    Rows of caches are written back to host memory first."""
    return {name: value for name, value in model.state_dict().items() if table_of(name) is not None}


def check_rows(weights: Mapping[str, Any], ids: Mapping[str, Tensor]) -> None:
    """Raises ValueError for a table that is not among the `weights_of_tables`, or an id that is no row of its table."""
    sizes = {table_of(name): _size(weight)[0] for name, weight in weights.items()}
    for table, of in ids.items():
        if table not in sizes:
            known = ", ".join(sorted(str(name) for name in sizes))
            raise ValueError(f"table {table}: the model has no such table; expected one of {known}")
        wrong = of[(of < 0) | (of >= sizes[table])].tolist()
        if wrong:
            raise ValueError(f"table {table}: expected ids from 0 to {sizes[table] - 1}, got {wrong[0]}")


@torch.no_grad()
def reset_rows(model: nn.Module, ids: Mapping[str, Tensor], *, init_scale: float, seed: int) -> None:
    """Sets rows of tables, by name (n,) int64 each, to `fresh_rows`, and the state of their fused optimizer to zeros,
    which is what FBGEMM starts every state with. Of a sharded model every rank resets its part; no communication.

    Raises ValueError as `check_rows`, and for a table that is there as a DTensor."""
    weights = weights_of_tables(model)
    check_rows(weights, ids)
    states = _fused_states(model)
    for name, weight in weights.items():
        table = table_of(name)
        if table is None or table not in ids:
            continue
        rows, dim = _size(weight)
        fresh = fresh_rows(table, ids[table], dim, init_scale=init_scale, seed=seed)
        for piece, (first, column) in _pieces(name, weight):
            here = (ids[table] >= first) & (ids[table] < first + len(piece))
            values = fresh[here, column : column + piece.shape[1]]
            piece[(ids[table][here] - first).to(piece.device)] = values.to(piece.device, piece.dtype)
        of_rows = {key: state for key, state in states.get(name, {}).items() if has_rows(_size(state), rows)}
        for key, state in of_rows.items():
            for piece, offset in _pieces(key, state):
                piece[places_of(ids[table], rows, offset[0], len(piece)).to(piece.device)] = 0
    drop_cached_rows(model)


@dataclass(frozen=True)
class RankRows:
    """This rank's rows of a table that is split by rows, as they lie in the lookup: `weight` (r, D), and the `states`
    of the fused optimizer that have an entry per row."""

    table: str
    weight: Tensor
    states: list[Tensor]
    init_scale: float
    seed: int

    @classmethod
    def of(cls, model: nn.Module, table: str, *, init_scale: float, seed: int) -> "RankRows":
        """Of a sharded model. Raises ValueError if it has no such table, or this rank several parts of it."""
        named = {name: weight for name, weight in weights_of_tables(model).items() if table_of(name) == table}
        parts = [(name, weight, piece) for name, weight in named.items() for piece, _ in _pieces(name, weight)]
        if len(parts) != 1:
            raise ValueError(f"table {table}: expected one part of it on this rank, got {len(parts)}")
        ((name, weight, local),) = parts
        states = _fused_states(model).get(name, {})
        of_rows = {key: state for key, state in states.items() if has_rows(_size(state), _size(weight)[0])}
        pieces = [piece for key, state in of_rows.items() for piece, _ in _pieces(key, state)]
        return cls(table, local, pieces, init_scale, seed)

    @torch.no_grad()
    def reset(self, rows: Tensor, ids: Tensor) -> None:
        """Sets rows (f,) of this rank to what ids (f,) start with, and their state to zeros."""
        dim = self.weight.shape[1]
        fresh = fresh_rows(self.table, ids, dim, init_scale=self.init_scale, seed=self.seed)
        self.weight[rows] = fresh.to(self.weight.dtype)
        for state in self.states:
            state[rows] = 0


def places_of(ids: Tensor, rows: int, first: int, count: int) -> Tensor:
    """Places in `first : first + count` of a state's first dim that belong to `ids`, minus `first`.

    Of a table that is split by columns, every part has a state for each row; TorchRec lays them one behind the other, R
    apart."""
    places = torch.arange(first, first + count)
    return torch.isin(places % rows, ids.cpu()).nonzero()[:, 0]


def has_rows(size: tuple[int, ...], rows: int) -> bool:
    """Whether a state of this size has entries for R rows, once or for every part of a table that is split by columns.
    A single value, such as a counter of steps, belongs to no row."""
    return bool(size) and size[0] % rows == 0


def _fused_states(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Name of a weight -> name of a state -> its values, of all fused optimizers."""
    fused = getattr(model, "fused_optimizer", None)
    return {} if fused is None else fused.state_dict()["state"]


def _size(value: Tensor) -> tuple[int, ...]:
    # `ShardedTensor.shape` would print a warning.
    return tuple(value.metadata().size if isinstance(value, ShardedTensor) else value.shape)


def _pieces(name: str, value: Any) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """This rank's tensors of a weight or state, with their offsets in the whole."""
    if isinstance(value, ShardedTensor):
        for shard in value.local_shards():
            yield shard.tensor.detach(), tuple(shard.metadata.shard_offsets)
    elif type(value) in (Tensor, nn.Parameter):
        yield value.detach(), (0,) * value.ndim
    else:
        raise ValueError(f"{name}: expected a ShardedTensor or a plain tensor, got {type(value).__name__}")
