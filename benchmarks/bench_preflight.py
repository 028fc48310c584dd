"""What `dist-rec preflight` says, against what ranks take, and for clusters that nobody here has.

    python -m benchmarks.bench_preflight memory [--out FILE.md]
    python -m benchmarks.bench_preflight large [--out FILE.md]

`memory` trains three recipes on two gloo ranks, at their own shapes and at larger ones, and sets their resident memory
against the prediction. What a process takes besides tensors is measured in the same run, on steps of two requests.
`large` prints the plan of a made-up set of 2 TB of tables for 8, 64 and 512 GPUs; no data are needed."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks.preflight.cases import CASES, SMALLEST, Case, make_data
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


def memory(options: argparse.Namespace) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "runs"
        make_data(data)
        smallest = measure(SMALLEST, data)
        context = smallest.peak - predicted(SMALLEST, data, out, 0.0).used
        lines = [
            f"A process takes {context / MIB:.1f} MiB besides its tensors: {SMALLEST.name}, "
            f"{smallest.peak / MIB:.1f} MiB, less its tensors as predicted.",
            "",
            "| run | predicted, MiB | of it tensors | measured, MiB | predicted / measured | tensors / measured beyond "
            "the process | readers of a rank, MiB |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        found = {}
        for case in CASES[:1] if options.toy else CASES:
            found[case.name] = (predicted(case, data, out, context), measure(case, data))
            lines.append(_row(case.name, *found[case.name], context))
    close = [name for name, (of, its) in found.items() if abs(of.used / its.peak - 1) <= CLOSE]
    lines += ["", f"Within {CLOSE:.0%}: {len(close)} of {len(found)}.", "", *_parts({n: m for n, (m, _) in found.items()})]
    return lines


def predicted(case: Case, data: Path, out: Path, context_bytes: float) -> RankMemory:
    """Of the largest batch, on two ranks of one host whose process takes so much besides its tensors."""
    machine = machine_of("cpu2").model_copy(update={"context_bytes": max(context_bytes, 0.0)})
    network = network_of("eth25").model_copy(update={"gpus_per_host": RANKS})
    found = preflight(case.config(data, out), Cluster(machine, network, RANKS)).largest
    assert found is not None, "tables of this size have a plan"
    return found


def _row(name: str, of: RankMemory, its: Measured, context: float) -> str:
    tensors = of.used - of.parts["process (assumed)"]
    cells = (
        f"{of.used / MIB:.1f}",
        f"{tensors / MIB:.1f}",
        f"{its.peak / MIB:.1f}",
        f"{of.used / its.peak:.2f}",
        f"{tensors / (its.peak - context):.2f}",
        f"{its.readers / MIB:.0f}",
    )
    return f"| {name} | {' | '.join(cells)} |"


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
