"""What a sharding plan puts on which rank, as numbers.

Legend: D columns of a shard.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torchrec.distributed.types import EmbeddingModuleShardingPlan, ShardingPlan

from dist_rec.embedding.cache import CACHING, DEFAULT_FRACTION

# FBGEMM's `_apply_cache_state`: of a slot of a cache which row it holds, its age and its lock; of a row its table.
SLOT_BYTES, MAP_BYTES = 8 + 8 + 4, 4
FP32 = 4


@dataclass(frozen=True)
class Shard:
    """The part of a table on a rank: `rows` times `dim` numbers, looked up by `kernel`. `cached`: share of the rows in
    a cache on the device."""

    table: str
    rank: int
    rows: int
    dim: int
    sharding: str
    kernel: str
    cached: float = DEFAULT_FRACTION

    @property
    def in_host_memory(self) -> bool:
        return "uvm" in self.kernel

    @property
    def nbytes(self) -> int:
        """Of its rows."""
        return FP32 * self.rows * self.dim

    @property
    def device_bytes(self) -> int:
        """Of its rows, or of a cache of them and what finds a row there."""
        if not self.in_host_memory:
            return self.nbytes
        slots = int(self.cached * self.rows) if self.kernel == CACHING else 0
        return slots * (FP32 * self.dim + SLOT_BYTES) + (MAP_BYTES * self.rows if slots else 0)


def shards_of(plan: ShardingPlan) -> list[Shard]:
    """Every shard of every table."""
    return [shard for module in plan.plan.values() for shard in _of_module(module)]


def _of_module(module: object) -> Iterator[Shard]:
    assert isinstance(module, EmbeddingModuleShardingPlan), "tables are in EmbeddingCollections"
    for table, sharding in module.items():
        cache = sharding.cache_params
        cached = DEFAULT_FRACTION if cache is None or cache.load_factor is None else cache.load_factor
        spec = sharding.sharding_spec
        for part in getattr(spec, "shards", ()):
            rows, dim = part.shard_sizes
            yield Shard(
                table, part.placement.rank(), rows, dim, sharding.sharding_type, sharding.compute_kernel, cached
            )
