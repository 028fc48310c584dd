"""Tables larger than the GPU: rows in host memory, a cache of rows on the device, and the traffic between them.

FBGEMM keeps the table in memory that the GPU can read over the bus (`fused_uvm_caching`). Lookups have distinct ids
only, so a row is fetched at most once per step; `PrefetchTrainPipelineSparseDist` fetches the rows of the next batch
during the compute of this batch. Without a GPU the same recipe makes plain tables."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
    UVMCacheStatsIndex,
)
from torch import nn
from torchrec.distributed.types import CacheParams

from dist_rec.config import EmbeddingConfig, TableConfig

CACHING = "fused_uvm_caching"
DEFAULT_FRACTION = 0.2  # of the rows, FBGEMM's own default

_log = logging.getLogger("dist_rec.embedding")


@dataclass(frozen=True)
class CacheUse:
    """Distinct rows that one rank looked up in its caches, missed rows, and bytes of fetched rows."""

    rows: int
    missed: int
    fetched_bytes: int

    @property
    def hit_rate(self) -> float:
        return 1.0 - self.missed / self.rows if self.rows else 1.0


def caches(config: EmbeddingConfig, device: torch.device) -> bool:
    """Whether any table has rows in host memory and a cache on this device."""
    return device.type == "cuda" and any(CACHING in (table.kernel or []) for table in config.tables.values())


def kernels_here(name: str, table: TableConfig, device: torch.device) -> list[str] | None:
    """The compute kernels that the planner may choose from on this device; None for all.

    On a GPU only those of device memory, unless the recipe names others: a table that the planner puts into host memory
    by itself would be looked up over the bus, without a cache of its size and without fetching ahead."""
    kernels: list[str] = list(table.kernel or [])
    if device.type != "cpu":
        return kernels or ["fused"]
    if not any("uvm" in kernel for kernel in kernels):
        return kernels or None
    _log.info("embedding.tables.%s: %s needs a GPU; a plain table here", name, ", ".join(kernels))
    return [kernel for kernel in kernels if "uvm" not in kernel] or None


def cache_params(table: TableConfig, device: torch.device) -> CacheParams | None:
    """Size of a table's cache; `prefetch_pipeline` keeps rows that were fetched ahead until the end of their step."""
    if device.type == "cpu" or CACHING not in (table.kernel or []):
        return None
    return CacheParams(load_factor=table.cache_fraction or DEFAULT_FRACTION, prefetch_pipeline=True)


def fused_lookups(model: nn.Module) -> Iterator[SplitTableBatchedEmbeddingBagsCodegen]:
    """FBGEMM's lookups inside a model. A sharded collection of TorchRec keeps its own in a plain list, `_lookups`,
    which `modules()` does not look into."""
    for module in model.modules():
        if isinstance(module, SplitTableBatchedEmbeddingBagsCodegen):
            yield module
        for lookup in getattr(module, "_lookups", ()):
            yield from fused_lookups(lookup)


def unlock_cached_rows(model: nn.Module) -> None:
    """Call after lookups without a backward, such as an evaluation's: the backward is what frees the rows that a lookup
    locks in the cache, and rows that stay locked are never replaced."""
    for lookup in fused_lookups(model):
        if lookup.lock_cache_line:
            counter = lookup.lxu_cache_locking_counter
            assert isinstance(counter, torch.Tensor), "a buffer"
            counter.zero_()


def drop_cached_rows(model: nn.Module) -> None:
    """Call after rows were changed in host memory, once `state_dict` has written the caches back: what the caches of
    the device hold is no longer the table."""
    for lookup in fused_lookups(model):
        lookup.reset_cache_states()


class CacheMeter:
    """Reads the counters of all caches inside a model; each reading waits for the device."""

    def __init__(self, model: nn.Module) -> None:
        self._lookups = [lookup for lookup in fused_lookups(model) if lookup.gather_uvm_cache_stats]
        self._before = self._total()

    def since_last(self) -> CacheUse | None:
        """Use since the last reading, on this rank; None without caches."""
        if not self._lookups:
            return None
        now, before = self._total(), self._before
        self._before = now
        return CacheUse(now.rows - before.rows, now.missed - before.missed, now.fetched_bytes - before.fetched_bytes)

    def _total(self) -> CacheUse:
        rows = missed = fetched = 0
        for lookup in self._lookups:
            counters = lookup.get_uvm_cache_stats().tolist()
            misses = counters[UVMCacheStatsIndex.num_unique_misses]
            rows += counters[UVMCacheStatsIndex.num_unique_indices]
            missed += misses
            fetched += misses * lookup.max_D * lookup.weights_precision.bit_rate() // 8
        return CacheUse(rows, missed, fetched)
