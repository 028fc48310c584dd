"""`--dry-run`: what a run would be, without training: recipe, sharding plan, parameters, FLOPs and memory."""

from rich.console import Console
from rich.table import Table
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ShardingPlan

from dist_rec.common.open_ids import AdmissionConfig
from dist_rec.config import Config, TableConfig
from dist_rec.data.schema import Schema
from dist_rec.embedding.dynamic_ids import map_bytes
from dist_rec.embedding.optimizers import FusedOptimizer
from dist_rec.embedding.tables import table_dims
from dist_rec.models.build import RankingModel
from dist_rec.models.cost import dense_params, request_flops
from dist_rec.registry import FUSED_OPTIMIZERS
from dist_rec.training.feedback_audit import audit_feedback, refuse_leaks
from dist_rec.training.pipeline import plan_model
from dist_rec.training.ranks import Ranks
from dist_rec.training.report import config_yaml
from dist_rec.training.splits import dataset_schema, distills, open_split, training_steps
from dist_rec.training.study import members


def preview(config: Config, ranks: Ranks) -> None:
    """Prints on rank 0. Raises ConfigError for whatever would stop the run before its first step."""
    schema = dataset_schema(config)
    member = members(config)[0].config
    if distills(member):
        refuse_leaks(member, audit_feedback(member, schema, ranks))
    steps = training_steps(member, open_split(member, schema, ranks, member.data.train, train=True))
    model, plan = plan_model(schema, member, ranks)
    if not ranks.is_main:
        return
    console = Console()
    console.print(config_yaml(config), highlight=False, markup=False, soft_wrap=True)  # still YAML
    console.print(_plan_table(schema, member, plan))
    console.print(_cost_table(schema, member, model))
    console.print(
        f"{len(members(config))} run(s) of {steps} steps on {ranks.world_size} rank(s), device {ranks.device}"
    )


def _plan_table(schema: Schema, config: Config, plan: ShardingPlan) -> Table:
    table = Table(title="sharding plan", title_justify="left")
    for name in ("table", "rows", "dim", "sharding", "kernel", "ranks", "MiB with optimizer"):
        table.add_column(name, justify="left" if name in ("table", "sharding", "kernel") else "right")
    dims = table_dims(schema, config.embedding)
    optimizer: FusedOptimizer = FUSED_OPTIMIZERS.make(config.embedding.optimizer)
    for module_plan in plan.plan.values():
        assert isinstance(module_plan, EmbeddingModuleShardingPlan)
        for name, sharding in module_plan.items():
            rows, dim = schema.rows_of(name), dims[name]
            mib = (4 * (rows * dim + optimizer.state_numel(rows, dim)) + _map_bytes(schema, config, name)) / 2**20
            where = ", ".join(map(str, sharding.ranks or []))
            table.add_row(
                name, f"{rows:,}", str(dim), sharding.sharding_type, sharding.compute_kernel, where, f"{mib:.1f}"
            )
    for name in config.embedding.tables:
        if config.embedding.is_replicated(name):
            rows, dim = schema.rows_of(name), config.embedding.dim_of(name)
            mib = 4 * 3 * rows * dim / 2**20  # with the two moments of Adam
            table.add_row(name, f"{rows:,}", str(dim), "data_parallel", "dense", "all", f"{mib:.1f}")
    return table


def _map_bytes(schema: Schema, config: Config, table: str) -> int:
    """Of the ids of a dynamic table."""
    if schema.open_ids.get(table) != "dynamic":
        return 0
    admission = config.embedding.tables.get(table, TableConfig()).admission or AdmissionConfig()
    return map_bytes(schema.rows_of(table), admission)


def _cost_table(schema: Schema, config: Config, model: RankingModel) -> Table:
    by_part = dense_params(model.ranker)
    dense = sum(by_part.values())
    sparse = sum(weight.numel() for weight in model.embedding.collections.parameters())
    table = Table(title="cost", title_justify="left", show_header=False)
    parts = ", ".join(f"{name} {count:,}" for name, count in by_part.items() if count)
    table.add_row("dense parameters", f"{dense:,} ({parts})")
    table.add_row("sharded embedding parameters", f"{sparse:,}")
    # Weights, gradient, gradient in flight and two moments, all float32.
    table.add_row(
        "dense memory per rank, MiB", f"{dense * 4 * (5 if config.optim.dense_update == 'delayed' else 4) / 2**20:.1f}"
    )
    for length in (100, 1_000, 10_000):
        flops = request_flops(model.ranker, {sequence.name: length for sequence in schema.sequences})
        parts = ", ".join(f"{name} {value / 1e6:.1f}" for name, value in flops.items() if value)
        table.add_row(
            f"forward MFLOP of a request with {length:,} events per sequence and 1 candidate",
            f"{sum(flops.values()) / 1e6:.1f} ({parts})",
        )
    return table
