"""Tables of `dist-rec plan-cost`."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from dist_rec.cost.network import Cluster
from dist_rec.cost.parts import Parts
from dist_rec.cost.plan import StepTime
from dist_rec.cost.predict import stages_of
from dist_rec.cost.requests import Requests

NOTHING = 0.01  # of a step: less is within what the model leaves out

ASSUMPTIONS = (
    "An operator takes max(bytes / bandwidth, FLOPs / rate) + launch; operators of a device run one after the other.",
    "Requests are those of one rank's batch, the same on every rank: more GPUs train on more requests per step.",
    "A step takes the sum of its exposed stages, or the longest hidden one (input, copy, ids, late all-reduce).",
    "Rows travel as fp32, ids as int64; tables are spread evenly, so that every rank sends to all others alike.",
    "A synchronous all-reduce is not hidden at all; one that is late is hidden up to the whole next step.",
    "Imbalance: batches' events are normal; a step waits for the largest of all ranks.",
    "Not counted: evaluation, checkpoints, congestion, the queue of two collectives, clocks under a power limit.",
    "Compilers' and allocators' costs of the first steps are not in a step.",
)


def render(parts: Parts, requests: Requests, clusters: Sequence[Cluster]) -> RenderableType:
    """What was counted, the step of every cluster, what each part wins there, and what was assumed."""
    return Group(
        _counted(parts, requests, clusters[0]),
        _steps(parts, clusters),
        _gains(parts, clusters),
        "assumptions",
        *(f"- {line}" for line in (*_machine(clusters), *ASSUMPTIONS)),
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    return table


def _counted(parts: Parts, requests: Requests, cluster: Cluster) -> Table:
    step = parts.step
    title = (
        f"one rank's step: {step.requests:,} requests, {step.events:,} events, {step.candidates:,} candidates, "
        f"{requests.duplicates:.0%} duplicates"
    )
    table = _table(title, "stage", "operators", "MB", "GFLOP", f"ms on {cluster.machine.name}")
    works = stages_of(step.count, cluster.machine)
    for name, work in works.items():
        cells = (f"{work.launches:,}", f"{work.nbytes / 1e6:,.1f}", f"{work.flops / 1e9:,.2f}")
        table.add_row(name, *cells, f"{1e3 * work.seconds:,.2f}")
    moved = {"host to device": step.to_device_bytes, "ids": step.id_bytes, "rows, each way": step.row_bytes}
    moved["dense gradients"] = 4 * step.count.dense
    for name, nbytes in moved.items():
        table.add_row(name, "", f"{nbytes / 1e6:,.1f}", "", "")
    return table


def _name(cluster: Cluster) -> str:
    return f"{cluster.gpus} x {cluster.network.name}"


def _steps(parts: Parts, clusters: Sequence[Cluster]) -> Table:
    times = [parts.time(cluster) for cluster in clusters]
    table = _table("ms of a step; in brackets: hidden", "stage", *map(_name, clusters))
    for stage in _stages(times):
        table.add_row(stage, *(_cell(time, stage) for time in times), end_section=stage == _stages(times)[-1])
    table.add_row("step", *(f"{1e3 * time.step_s:,.2f}" for time in times))
    table.add_row("limited by", *(time.limited_by for time in times))
    table.add_row("samples/s", *(f"{time.samples_per_s:,.0f}" for time in times))
    return table


def _stages(times: Sequence[StepTime]) -> list[str]:
    """Those that take time anywhere, in order."""
    every = [stage for time in times for stage in (*time.exposed, *time.hidden)]
    return [
        stage
        for stage in dict.fromkeys(every)
        if any(time.exposed.get(stage, 0.0) + time.hidden.get(stage, 0.0) >= 5e-6 for time in times)
    ]


def _cell(time: StepTime, stage: str) -> str:
    if stage in time.exposed:
        return f"{1e3 * time.exposed[stage]:,.2f}"
    return f"({1e3 * time.hidden[stage]:,.2f})" if stage in time.hidden else ""


def _gains(parts: Parts, clusters: Sequence[Cluster]) -> Table:
    table = _table("a step without a part takes longer by", "part", "in its place", *map(_name, clusters))
    for of in parts.without:
        gains = (parts.gain(of, cluster) for cluster in clusters)
        table.add_row(of.part, of.instead, *("nothing" if abs(gain) < NOTHING else f"{gain:+.0%}" for gain in gains))
    return table


def _machine(clusters: Sequence[Cluster]) -> list[str]:
    machine = clusters[0].machine
    reach = f"kernels reach {machine.bytes_reached:.0%} of its bytes/s and {machine.flops_reached:.0%} of its FLOP/s"
    launch = (
        f"{1e6 * machine.launch_s:.1f} us per operator, and {1e6 * machine.host_launch_s:.1f} us on a host beside it"
    )
    lines = [
        f"{machine.name}: {reach}; {launch}; a reader makes {machine.input_events_per_s / 1e6:.0f} million events/s."
    ]
    for network in dict.fromkeys(cluster.network for cluster in clusters):
        if network.host_bytes_per_s is None:
            what = "all GPUs in one NVLink domain. Such domains end at 72 GPUs: more is a limit, not an offer"
        else:
            what = f"hosts of {network.gpus_per_host} GPUs that share {network.host_bytes_per_s / 1e9:.1f} GB/s"
        lines.append(f"{network.name}: {what}; collectives reach {network.reached:.0%} of the bytes/s.")
    return lines
