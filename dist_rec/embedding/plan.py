"""Makes a TorchRec sharding plan from the constraints of a recipe, and the sharders."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import ModuleSharder, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from dist_rec.common.strict import ConfigError
from dist_rec.config import EmbeddingConfig, TableConfig
from dist_rec.embedding.cache import cache_params, caches, kernels_here
from dist_rec.embedding.optimizers import fused_optimizer
from dist_rec.embedding.rows import table_of
from dist_rec.embedding.unique import TokenEmbedding


def fuse_optimizer(
    tables: nn.Module, config: EmbeddingConfig, device: torch.device, frozen: Collection[str] = ()
) -> None:
    """Applies the tables' optimizer inside the backward, which leaves the `frozen` ones as they are where their
    gradient is zero; call this before sharding.

    Raises ConfigError for an optimizer that FBGEMM cannot fuse on this device."""
    optimizer = fused_optimizer(config, device.type)
    settings = optimizer.settings(config)
    still = settings | {name: 0.0 for name in ("lr", "weight_decay") if name in settings}
    named = dict(tables.named_parameters())
    kept = [weight for name, weight in named.items() if table_of(name) in frozen]
    apply_optimizer_in_backward(optimizer.kind(), [w for n, w in named.items() if table_of(n) not in frozen], settings)
    apply_optimizer_in_backward(optimizer.kind(), kept, still)


@dataclass(frozen=True)
class Devices:
    """What a plan is made for: ranks on devices of a `kind`, so many on a host, each with so many bytes of memory.

    `device_bytes` None: no memory of a device beside the host's. TorchRec would count on 32 GB of any GPU, and on 128
    GB of host memory for every rank."""

    kind: str
    ranks: int
    ranks_per_host: int
    device_bytes: int | None
    host_bytes: int

    @classmethod
    def here(cls, device: torch.device, ranks: int) -> "Devices":
        ranks_per_host = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))  # set by torchrun
        on_gpu = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
        host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // ranks_per_host
        return cls(device.type, ranks, ranks_per_host, on_gpu, host)


def make_plan(
    model: nn.Module, config: EmbeddingConfig, device: torch.device, world_size: int, batch_size: int
) -> ShardingPlan:
    """Plan of every table, the same on all ranks. Comm: one broadcast of the plan if there is a process group. Raises
    ConfigError if no plan fits."""
    group = dist.group.WORLD if dist.is_initialized() else None
    return plan_for(model, config, Devices.here(device, world_size), batch_size, group)


def plan_for(
    model: nn.Module,
    config: EmbeddingConfig,
    devices: Devices,
    batch_size: int,
    group: dist.ProcessGroup | None = None,
) -> ShardingPlan:
    """As `make_plan`, for devices that need not be here. Raises ConfigError if no plan fits."""
    collections = [module for module in model.modules() if isinstance(module, EmbeddingCollection)]
    names = [table.name for collection in collections for table in collection.embedding_configs()]
    by_rows = {n for module in model.modules() if isinstance(module, TokenEmbedding) for n in module.row_wise_tables}
    given = {name: config.tables.get(name, TableConfig()) for name in names}
    device = torch.device(devices.kind)
    constraints = {name: _constraints(name, given[name], device, by_rows=name in by_rows) for name in names}
    topology = Topology(
        world_size=devices.ranks,
        compute_device=devices.kind,
        local_world_size=devices.ranks_per_host,
        hbm_cap=devices.device_bytes,
        ddr_cap=devices.host_bytes,
    )
    planner = EmbeddingShardingPlanner(topology=topology, batch_size=batch_size, constraints=constraints)
    sharders = default_sharders(config, device)
    try:
        return planner.plan(model, sharders) if group is None else planner.collective_plan(model, sharders, group)
    except (PlannerError, RuntimeError) as error:
        hint = "; embedding.tables.<table>.kernel=[fused_uvm_caching] keeps a table in host memory, with a cache here"
        hint = hint if devices.kind == "cuda" else ""
        raise ConfigError(
            f"embedding: no sharding plan fits {devices.ranks} rank(s) of {devices.kind}{hint}: {error}"
        ) from error


def default_sharders(config: EmbeddingConfig, device: torch.device) -> list[ModuleSharder[nn.Module]]:
    """The stock sharder of EmbeddingCollection. FBGEMM needs options for weight decay and for counters of caches."""
    fused_params: dict[str, Any] = {"weight_decay_mode": WeightDecayMode.DECOUPLE} if config.weight_decay else {}
    if caches(config, device):
        fused_params["gather_uvm_cache_stats"] = True
    return [EmbeddingCollectionSharder(fused_params=fused_params or None)]  # pyright: ignore[reportReturnType]


def _constraints(name: str, table: TableConfig, device: torch.device, *, by_rows: bool) -> ParameterConstraints:
    # data_parallel is left out: such tables are not in the sharded collection. Rows of n-grams are narrow, and hashed,
    # so that every rank has as many of them that are used; dynamic ids live with their rows.
    sharding = table.sharding or (["row_wise"] if by_rows else ["table_wise", "row_wise", "column_wise"])
    return ParameterConstraints(
        sharding_types=list(sharding),
        compute_kernels=kernels_here(name, table, device),
        cache_params=cache_params(table, device),
    )
