import logging
from unittest import mock

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import EmbeddingConfig as Table
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from dist_rec.config import EmbeddingConfig, TableConfig
from dist_rec.embedding.cache import (
    CacheMeter,
    CacheUse,
    cache_params,
    caches,
    drop_cached_rows,
    fused_lookups,
    kernels_here,
    unlock_cached_rows,
)
from tests.helpers.ranks import run_ranks

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CACHED = TableConfig(kernel=["fused_uvm_caching"], cache_fraction=0.1)


def test_only_a_gpu_caches() -> None:
    config = EmbeddingConfig(tables={"item": CACHED})
    assert caches(config, CUDA) and not caches(config, CPU) and not caches(EmbeddingConfig(), CUDA)


def test_kernels_by_device(caplog: pytest.LogCaptureFixture) -> None:
    assert kernels_here("item", CACHED, CUDA) == ["fused_uvm_caching"]
    assert kernels_here("item", TableConfig(), CUDA) == ["fused"], "host memory only where the recipe says so"
    with caplog.at_level(logging.INFO):
        assert kernels_here("item", CACHED, CPU) is None
    assert "embedding.tables.item: fused_uvm_caching needs a GPU; a plain table here" in caplog.text
    mixed = TableConfig(kernel=["fused", "fused_uvm"])
    assert kernels_here("item", mixed, CPU) == ["fused"] and kernels_here("item", TableConfig(), CPU) is None


def test_size_of_a_cache() -> None:
    params = cache_params(CACHED, CUDA)
    assert params is not None and params.load_factor == 0.1 and params.prefetch_pipeline
    default = cache_params(TableConfig(kernel=["fused_uvm_caching"]), CUDA)
    assert default is not None and default.load_factor == 0.2
    assert cache_params(TableConfig(kernel=["fused"]), CUDA) is None and cache_params(CACHED, CPU) is None


def test_a_fraction_without_a_cache_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cache_fraction=0.5 needs kernel: \[fused_uvm_caching\], got None"):
        TableConfig(cache_fraction=0.5)


def _found() -> list[int]:
    collection = EmbeddingCollection(
        tables=[Table(name=f"t{n}", num_embeddings=8, embedding_dim=4, feature_names=[f"f{n}"]) for n in range(2)]
    )
    apply_optimizer_in_backward(RowWiseAdagrad, collection.parameters(), {"lr": 0.1})
    model = DistributedModelParallel(nn.ModuleDict({"tables": collection}), device=CPU)
    return [len([*fused_lookups(model)]), len([*fused_lookups(nn.Linear(1, 1))])]


def test_lookups_of_a_sharded_collection_are_found() -> None:
    assert run_ranks(_found, 1) == [[1, 0]]


def test_counts_what_happened_between_readings() -> None:
    """FBGEMM's own lookup, with the counters that a GPU would fill filled by hand."""
    lookup = SplitTableBatchedEmbeddingBagsCodegen(
        [(8, 16, EmbeddingLocation.HOST, ComputeDevice.CPU)], optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD
    )
    model = nn.ModuleDict({"lookup": lookup})
    assert CacheMeter(model).since_last() is None
    lookup.gather_uvm_cache_stats = True
    # calls, ids, distinct ids, distinct misses, two kinds of conflicts
    lookup.uvm_cache_stats = torch.tensor([1, 50, 40, 10, 0, 0])
    meter = CacheMeter(model)
    lookup.uvm_cache_stats = torch.tensor([3, 90, 60, 15, 0, 0])
    use = meter.since_last()
    assert use == CacheUse(rows=20, missed=5, fetched_bytes=5 * 16 * 4) and use.hit_rate == 0.75
    assert meter.since_last() == CacheUse(0, 0, 0) and CacheUse(0, 0, 0).hit_rate == 1.0


def test_rows_that_an_evaluation_locked_are_free_again() -> None:
    """FBGEMM's counters, one per slot of the cache; a lookup locks rows where the pipeline prefetches."""
    plain, cached = (
        SplitTableBatchedEmbeddingBagsCodegen(
            [(8, 16, EmbeddingLocation.HOST, ComputeDevice.CPU)], optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD
        )
        for _ in range(2)
    )
    cached.lock_cache_line = True
    cached.lxu_cache_locking_counter = torch.tensor([[0, 2], [1, 0]], dtype=torch.int32)
    unlock_cached_rows(nn.ModuleDict({"plain": plain, "cached": cached}))
    assert not cached.lxu_cache_locking_counter.any()


def test_caches_are_dropped_of_every_lookup() -> None:
    lookups = [
        SplitTableBatchedEmbeddingBagsCodegen(
            [(8, 16, EmbeddingLocation.HOST, ComputeDevice.CPU)], optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD
        )
        for _ in range(2)
    ]
    with mock.patch.object(SplitTableBatchedEmbeddingBagsCodegen, "reset_cache_states") as reset:
        drop_cached_rows(nn.ModuleList([*lookups, nn.Linear(1, 1)]))
    assert reset.call_count == 2
