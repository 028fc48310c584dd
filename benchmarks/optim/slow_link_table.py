"""The page and the plot of `slow_link.py`: every kind of update against plain DDP, on every link."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Timing


@dataclass(frozen=True)
class Kind:
    """A row. `stale`: whose weights are a step old when a batch is computed. `gradients`, `state`: copies of the dense
    weights that a rank holds at most, with two ranks and AdamW (two moments), counted in the code."""

    title: str
    stale: str
    gradients: str
    state: str


KINDS = {
    "none": Kind("no all-reduce", "-", "1", "2"),
    "sync": Kind("sync: DDP, `TrainPipelineSparseDist`", "none", "1", "2"),
    "late": Kind("sync, waited for before the dense step", "none", "1", "2"),
    "fused": Kind("sync, `TrainPipelineFusedSparseDist`", "none", "1", "2"),
    "fused late": Kind("the same, next rows looked up before the late wait", "none", "1", "2"),
    "zero": Kind("ZeRO-1: DDP, `ZeroRedundancyOptimizer`", "none", "1", "1"),
    "sharded": Kind("ZeRO: reduce-scatter, all-gather in the next forward", "none", "2.5", "1.5"),
    "pec": Kind("sync, `TrainPipelinePEC`", "none", "1", "2"),
    "pec late": Kind("the same, waited for before the dense step", "none", "1", "2"),
    "semi": Kind("`TrainPipelineSemiSync`", "tables", "1", "2"),
    "semi late": Kind("the same, waited for before the dense step", "tables", "1", "2"),
    "stash": Kind("`TrainPipelineSemiSync(stash_gradients=True)`", "tables and dense", "3", "2"),
    "delayed": Kind("delayed: `HybridOptimizer`", "dense", "3", "2"),
}


def row(link: str, seconds: dict[str, list[float]], rounds: int) -> dict[str, Any]:
    """`mean` of each kind: of the steps of a round, since steps that queue behind one another even out only there; then
    the median of the rounds."""
    mean = {kind: float(np.median(np.reshape(values, (rounds, -1)).mean(1))) for kind, values in seconds.items()}
    return {
        "link": link,
        "ratio": mean["reduce"] / mean["none"],
        "mean": mean,
        "timing": {kind: str(Timing(*np.percentile(values, [20, 50, 80]))) for kind, values in seconds.items()},
        "ideal": max(mean["none"], mean["reduce"]),
    }


def hidden(row: dict[str, Any], free: dict[str, Any], kind: str) -> str:
    """Of the time that the link adds to a step of `sync`, the share that it does not add to one of `kind`. What a
    reduction costs on an unlimited link (packing, adding, copying to sockets) is work, which no schedule hides."""
    exposed = row["mean"]["sync"] - free["mean"]["sync"]
    added = row["mean"][kind] - free["mean"][kind]
    return f"{1 - added / exposed:.0%}" if exposed > 0.02 * free["mean"]["sync"] else "-"


def tables(rows: list[dict[str, Any]]) -> list[str]:
    """`rows`: of `row`, the one of the unlimited link first."""
    kinds = {kind: said for kind, said in KINDS.items() if kind in rows[0]["mean"]}
    rivals = {kind: said for kind, said in kinds.items() if kind not in ("none", "sync")}
    lines = ["Gradients and state: copies of the dense weights that a rank holds at most.", ""]
    lines += [_line("update", ("a step old", "gradients", "state")), "| --- " * 4 + "|"]
    lines += [_line(said.title, (said.stale, said.gradients, said.state)) for said in kinds.values()]
    head = ["", _line("update", [row["link"] for row in rows]), "| --- " * (len(rows) + 1) + "|"]
    lines += ["", "Mean step of a round, median of the rounds:", *head]
    lines.append(_line("all-reduce alone / step without", [f"{row['ratio']:.2f}" for row in rows]))
    lines += [_line(said.title, [_ms(row["mean"][kind]) for row in rows]) for kind, said in kinds.items()]
    lines.append(_line("ideal: max(step, all-reduce)", [_ms(row["ideal"]) for row in rows]))
    lines += ["", "Hidden, of what the link adds to a step of sync:", *head]
    lines += [_line(said.title, [hidden(row, rows[0], kind) for row in rows]) for kind, said in rivals.items()]
    lines += ["", "A step of sync in steps of the update (above 1: faster than sync):", *head]
    for kind, said in rivals.items():
        lines.append(_line(said.title, [f"{row['mean']['sync'] / row['mean'][kind]:.2f}" for row in rows]))
    lines += ["", "p20 / p50 / p80 of single steps:", *head]
    lines.append(_line("all-reduce alone", [row["timing"]["reduce"] for row in rows]))
    lines += [_line(said.title, [row["timing"][kind] for row in rows]) for kind, said in kinds.items()]
    return lines


def _line(first: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join((first, *cells))} |"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.8))
    ratios = [row["ratio"] for row in rows]
    names = {
        "sync": "sync (DDP)",
        "fused late": "sync, late wait, early lookup",
        "zero": "ZeRO-1 of torch",
        "sharded": "ZeRO, overlapped",
        "stash": "semi-sync, gradients stashed",
        "semi late": "semi-sync, late wait",
        "delayed": "delayed",
        "none": "no all-reduce",
    }
    for kind, name in names.items():
        axes.plot(ratios, [1e3 * row["mean"][kind] for row in rows], marker="o", label=name, zorder=3)
    axes.plot(ratios, [1e3 * row["ideal"] for row in rows], "k--", label="max(step, all-reduce)")
    axes.set_xlabel("all-reduce alone / step without it")
    axes.set_ylabel("ms per step")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
