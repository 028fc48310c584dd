"""What would make a run fit, or use less memory: found by trying it.

Every kind of change comes in steps, each stronger than the one before. The first that fits is told, or else the last
one that could be planned.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config, TableConfig
from dist_rec.cost.batches import Batches
from dist_rec.cost.dense_memory import DenseMemory
from dist_rec.cost.network import Cluster
from dist_rec.cost.rank_memory import RankMemory, fullest_rank
from dist_rec.cost.sharded_memory import NoPlan, Sharded
from dist_rec.data.schema import Schema
from dist_rec.embedding.cache import CACHING
from dist_rec.embedding.tables import table_dims

NOTHING = 0.01  # of the memory that is used: less is no help
MOST_TABLES = 4  # that are changed at once
MOST_TIMES = 8  # smaller batches, more ranks
NARROWEST = 4  # columns of a row

Trial = tuple[str, Config, Cluster]


@dataclass(frozen=True)
class Change:
    """A change of a recipe or a cluster; bytes of the fullest rank with it, and how many fewer that are (None where
    without it there is no plan)."""

    change: str
    used: int
    saves: int | None
    fits: bool


@dataclass(frozen=True)
class Layout:
    """A recipe on a cluster, and what is needed to look at others."""

    config: Config
    schema: Schema
    cluster: Cluster
    read: Batches
    batches: Callable[[Config], Batches]
    dense: Callable[[Config, Batches], DenseMemory]
    layout: Callable[[Config, Cluster], Sharded]

    def memory(self, config: Config, cluster: Cluster) -> RankMemory:
        """Of the largest batch. Raises NoPlan if there is none."""
        found = self.layout(config, cluster)
        read = self.read if config.data == self.config.data else self.batches(config)
        return fullest_rank(found, self.dense(config, read), read.largest, config, self.schema, cluster)


def changes_of(of: Layout, now: RankMemory | None) -> list[Change]:
    """Those that help, the one that saves most first; `now` None where there is no plan."""
    found: list[Change] = []
    for kind in (_smaller_batches, _recompute, _by_rows, _in_host_memory, _more_ranks, _narrower):
        latest: Change | None = None
        for text, config, cluster in kind(of):
            try:
                memory = of.memory(config, cluster)
            except (NoPlan, ConfigError):
                continue
            saves = None if now is None else now.used - memory.used
            if saves is None or saves >= NOTHING * memory.used:
                latest = Change(text, memory.used, saves, memory.fits)
                if memory.fits:
                    break
        if latest is not None:
            found.append(latest)
    return sorted(found, key=lambda change: (not change.fits, change.used))


def _smaller_batches(of: Layout) -> Iterator[Trial]:
    field = "batch_size" if of.config.data.batch_size else "batch_events"
    size, times = getattr(of.config.data, field), 2
    while times <= MOST_TIMES and size // times:
        data = of.config.data.model_copy(update={field: size // times})
        yield f"data.{field}={size // times}", of.config.model_copy(update={"data": data}), of.cluster
        times *= 2


def _recompute(of: Layout) -> Iterator[Trial]:
    model = of.config.model
    parts = ["tokens", *model.resolved_options().PARTS, *(["mixer"] if model.interaction == "rankmixer" else [])]
    if set(parts) - set(model.recompute):
        changed = model.model_copy(update={"recompute": parts})
        yield f"model.recompute=[{', '.join(parts)}]", of.config.model_copy(update={"model": changed}), of.cluster


def _by_rows(of: Layout) -> Iterator[Trial]:
    for names in _largest(of):
        yield from _tables(of, names, "sharding=[row_wise]", sharding=["row_wise"])


def _in_host_memory(of: Layout) -> Iterator[Trial]:
    if of.cluster.machine.device == "cuda":
        for names in _largest(of, but_of="dynamic"):
            yield from _tables(of, names, f"kernel=[{CACHING}]", kernel=[CACHING])


def _tables(of: Layout, names: list[str], text: str, **update: object) -> Iterator[Trial]:
    tables = dict(of.config.embedding.tables)
    for name in names:
        tables[name] = tables.get(name, TableConfig()).model_copy(update=update)
    if tables != of.config.embedding.tables:
        embedding = of.config.embedding.model_copy(update={"tables": tables})
        several = names[0] if len(names) == 1 else f"{{{', '.join(names)}}}"
        config = of.config.model_copy(update={"embedding": embedding})
        yield f"embedding.tables.{several}.{text}", config, of.cluster


def _largest(of: Layout, but_of: str = "") -> Iterator[list[str]]:
    """Names of the largest sharded table, of the two largest, and so on."""
    dims = table_dims(of.schema, of.config.embedding)
    names = {name for name in of.schema.layout.tables.values() if not of.config.embedding.is_replicated(name)}
    names -= {name for name, kind in of.schema.open_ids.items() if kind == but_of}
    order = sorted(names, key=lambda name: -of.schema.rows_of(name) * dims[name])
    for count in range(1, min(len(order), MOST_TABLES) + 1):
        yield order[:count]


def _more_ranks(of: Layout) -> Iterator[Trial]:
    """As many as the network can join."""
    times = 2
    while times <= MOST_TIMES:
        ranks = times * of.cluster.gpus
        try:
            more = Cluster(of.cluster.machine, of.cluster.network, ranks)
        except ConfigError:  # a host that is not full, or one GPU of a kind without NVLink
            more = None
        if more is not None:
            yield f"--world-size {ranks}", of.config, more
        times *= 2


def _narrower(of: Layout) -> Iterator[Trial]:
    """Half the width of all tables that say nothing else."""
    dim = of.config.embedding.dim // 2 // 4 * 4
    if dim >= NARROWEST:
        embedding = of.config.embedding.model_copy(update={"dim": dim})
        yield f"embedding.dim={dim} (another model)", of.config.model_copy(update={"embedding": embedding}), of.cluster
