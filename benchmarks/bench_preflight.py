"""What `dist-rec preflight` says, against what ranks take, and for clusters that nobody here has.

    python -m benchmarks.bench_preflight memory [--out FILE.md]
    python -m benchmarks.bench_preflight large [--out FILE.md]

`memory` trains three recipes on two gloo ranks, at their own shapes and at larger ones, and sets their resident memory
against the prediction. What a process and its allocator take beyond tensors is measured in the same run, on two others.
`large` prints the plan of a made-up set of 2 TB of tables for 8, 64 and 512 GPUs; no data are needed."""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.preflight.cases import CASES, OTHER, SMALLEST, Case, make_data
from benchmarks.preflight.large import GPUS, large_config
from benchmarks.preflight.measured import RANKS, Measured, measure
from dist_rec.common.log import setup_logging
from dist_rec.common.provenance import provenance_lines
from dist_rec.cost.machine import machine_of
from dist_rec.cost.network import Cluster, network_of
from dist_rec.cost.preflight import cluster_of, preflight
from dist_rec.cost.preflight_report import render
from dist_rec.cost.rank_memory import RankMemory

MIB = 2**20
CLOSE = 0.1


@dataclass(frozen=True)
class Process:
    """What a rank's process takes beyond what is counted: in all, and as a share of its activations."""

    context_bytes: float
    fragments: float


def memory(options: argparse.Namespace) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "runs"
        make_data(data)
        process, lines = measure_process(data, out)
        lines += [
            "",
            "| run | predicted, MiB | measured, MiB | predicted / measured | without fragments | "
            "of it memory of its own, MiB | readers of a rank, MiB |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        found = {}
        for case in CASES[:1] if options.toy else CASES:
            found[case.name] = (predicted(case, data, out, process), measure(case, data))
            lines.append(_row(case.name, *found[case.name]))
    close = [name for name, (of, its) in found.items() if abs(of.used / its.peak - 1) <= CLOSE]
    parts = _parts({name: of for name, (of, _) in found.items()})
    return [*lines, "", f"Within {CLOSE:.0%}: {len(close)} of {len(found)}.", "", *parts]


def measure_process(data: Path, out: Path) -> tuple[Process, list[str]]:
    """From two runs that are not compared, one of next to no tensors and one of many."""
    smallest, other = measure(SMALLEST, data), measure(OTHER, data)
    nothing = Process(0.0, 0.0)
    context = smallest.peak - predicted(SMALLEST, data, out, nothing).used
    tensors = predicted(OTHER, data, out, nothing)
    fragments = (other.peak - context - tensors.used) / tensors.parts["activations"]
    lines = [
        f"- A process takes {context / MIB:.1f} MiB besides its tensors: {SMALLEST.name} took "
        f"{smallest.peak / MIB:.1f} MiB.",
        f"- The allocator holds {fragments:.0%} beyond activations: {OTHER.name} took {other.peak / MIB:.1f} MiB, of "
        f"which {tensors.used / MIB:.1f} are its tensors, {tensors.parts['activations'] / MIB:.1f} activations.",
    ]
    return Process(max(context, 0.0), max(fragments, 0.0)), lines


def predicted(case: Case, data: Path, out: Path, process: Process) -> RankMemory:
    """Of the largest batch, on two ranks of one host."""
    machine = machine_of("cpu2").model_copy(update=asdict(process))
    network = network_of("eth25").model_copy(update={"gpus_per_host": RANKS})
    found = preflight(case.config(data, out), Cluster(machine, network, RANKS)).largest
    assert found is not None, "tables of this size have a plan"
    return found


def _row(name: str, of: RankMemory, its: Measured) -> str:
    without = of.used - of.parts["fragments of the allocator (assumed)"]
    cells = (f"{of.used / MIB:.1f}", f"{its.peak / MIB:.1f}", f"{of.used / its.peak:.2f}", f"{without / its.peak:.2f}")
    return f"| {name} | {' | '.join(cells)} | {its.anonymous / MIB:.1f} | {its.readers / MIB:.0f} |"


def _parts(found: dict[str, RankMemory]) -> list[str]:
    lines = [f"| part, MiB | {' | '.join(found)} |", f"|---|{'---:|' * len(found)}"]
    for name in next(iter(found.values())).parts:
        lines.append(f"| {name} | {' | '.join(f'{of.parts[name] / MIB:.1f}' for of in found.values())} |")
    return lines


def large(options: argparse.Namespace) -> list[str]:
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        config, requests = large_config(Path(folder))
        for gpus in GPUS[:1] if options.toy else GPUS:
            cluster = cluster_of(gpus, "h100-80gb", "ib400", None)
            console = Console(record=True, width=140, force_terminal=False)
            console.print(render(preflight(config, cluster, requests), cluster))
            lines += [f"### {gpus} GPUs", "", "```", console.export_text().rstrip(), "```", ""]
    return lines


COMMANDS: dict[str, Callable[[argparse.Namespace], list[str]]] = {"memory": memory, "large": large}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--toy", action="store_true", help="One case of everything.")
    options = parser.parse_args()
    setup_logging(0)
    text = "\n".join([*provenance_lines(), "", *COMMANDS[options.command](options)]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
