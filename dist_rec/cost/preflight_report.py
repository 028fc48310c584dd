"""Tables of `dist-rec preflight`."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from dist_rec.config import Config
from dist_rec.cost.network import Cluster
from dist_rec.cost.preflight import Preflight, preflight
from dist_rec.cost.rank_memory import RankMemory, memory_assumptions

GIB, MIB = 2**30, 2**20


def run_preflight(config: Config, cluster: Cluster, requests: Sequence[str], numbers: Path | None) -> bool:
    """Prints what `preflight` finds, writes its numbers to a JSON file, and says whether the run fits."""
    found = preflight(config, cluster, requests)
    if numbers is not None:
        numbers.write_text(json.dumps(found.numbers(), indent=2) + "\n")
    Console().print(render(found, cluster))
    return found.fits


def render(found: Preflight, cluster: Cluster) -> RenderableType:
    """The mesh, the plan, the memory, what travels, the time, the assumptions, and at the end the verdict."""
    parts: list[RenderableType] = [_mesh(found)]
    if found.tables:
        parts.append(_plan(found))
    if found.largest is not None and found.mean is not None:
        parts.append(_memory(found.largest, found.mean))
    if found.traffic:
        parts.append(_traffic(found))
    if found.time is not None:
        parts.append(_time(found))
    parts += ["assumptions", *(f"- {line}" for line in memory_assumptions(cluster))]
    if found.changes:
        parts.append(_changes(found))
    return Group(*parts, escape(verdict(found)))


def verdict(found: Preflight) -> str:
    """One sentence."""
    memory = found.largest
    if memory is None:
        return f"does not fit: {found.why_not}"
    of_host = ""
    if memory.host_limit is not None and memory.host > memory.host_limit:
        of_host = f", and {memory.host / GIB:,.1f} of {memory.host_limit / GIB:,.1f} GiB of host memory for a rank"
    used = f"{memory.used / GIB:,.2f} of {memory.limit / GIB:,.2f} GiB on the fullest rank{of_host}"
    return f"fits: {used}" if memory.fits else f"does not fit: {used}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    return table


def _mesh(found: Preflight) -> Table:
    mesh = found.mesh
    table = Table(title="mesh", title_justify="left", show_header=False)
    table.add_row("ranks", f"{mesh.ranks:,} x {found.machine} on {mesh.hosts:,} host(s), {found.network} between them")
    table.add_row("batch of a rank", f"{mesh.requests:,} requests, {mesh.mean_events:,} events")
    table.add_row("batch of all", f"{mesh.ranks * mesh.requests:,} requests, {mesh.ranks * mesh.mean_events:,} events")
    table.add_row("largest batch of a rank", f"{mesh.largest_events:,} events")
    table.add_row("from", escape(mesh.source))
    return table


def _plan(found: Preflight) -> Table:
    table = Table(title="sharding plan, MiB with optimizer state", title_justify="left")
    words = ("table", "sharding", "kernel")
    columns = ("table", "rows", "dim", "sharding", "kernel", "ranks", "largest rank", "smallest", "all", "in hosts")
    for name in columns:
        table.add_column(name, justify="left" if name in words else "right")
    for of in found.tables:
        sizes = (f"{nbytes / MIB:,.1f}" for nbytes in (of.largest, of.smallest, of.total, of.host))
        table.add_row(of.name, f"{of.rows:,}", str(of.dim), of.sharding, of.kernel, str(of.ranks), *sizes)
    return table


def _memory(largest: RankMemory, mean: RankMemory) -> Table:
    table = _table("memory of the fullest rank, MiB", "part", "largest batch", "mean batch")
    for name, nbytes in largest.parts.items():
        last = name == list(largest.parts)[-1]
        table.add_row(name, f"{nbytes / MIB:,.1f}", f"{mean.parts[name] / MIB:,.1f}", end_section=last)
    table.add_row("sum", f"{largest.used / MIB:,.1f}", f"{mean.used / MIB:,.1f}")
    table.add_row("of, less the reserve", f"{largest.limit / MIB:,.1f}", f"{mean.limit / MIB:,.1f}")
    if largest.host:
        limit = "" if largest.host_limit is None else f" of {largest.host_limit / MIB:,.1f}"
        table.add_row(f"tables in host memory{limit}", f"{largest.host / MIB:,.1f}", f"{mean.host / MIB:,.1f}")
    return table


def _traffic(found: Preflight) -> Table:
    table = _table("a step of mean batches moves, MB of one rank", "collective", "mean rank", "fullest rank")
    for of in found.traffic:
        table.add_row(of.name, f"{of.mean / 1e6:,.3f}", f"{of.fullest / 1e6:,.3f}")
    return table


def _time(found: Preflight) -> Table:
    time = found.time
    assert time is not None, "asked before"
    table = _table("ms of a step (hidden ones)", "stage", "ms")
    for stage, seconds in time.exposed.items():
        table.add_row(stage, f"{1e3 * seconds:,.2f}")
    for stage, seconds in time.hidden.items():
        table.add_row(stage, f"({1e3 * seconds:,.2f})", end_section=stage == list(time.hidden)[-1])
    table.add_row("step", f"{1e3 * time.step_s:,.2f}")
    table.add_row("limited by", time.limited_by)
    table.add_row("samples/s", f"{time.samples_per_s:,.0f}")
    return table


def _changes(found: Preflight) -> Table:
    table = Table(title="changes that would help, each tried by itself", title_justify="left")
    for name in ("change", "GiB of the fullest rank", "saves, GiB", "fits"):
        table.add_column(name, justify="left" if name in ("change", "fits") else "right")
    for of in found.changes:
        saves = "there is a plan" if of.saves is None else f"{of.saves / GIB:,.2f}"
        table.add_row(escape(of.change), f"{of.used / GIB:,.2f}", saves, "yes" if of.fits else "no")
    return table
