"""The tables of the ladder, as Markdown lines. A number is one median, or p20 / p50 / p80 of the blocks of a row."""

from typing import Any

import numpy as np

from benchmarks.ladder.cell import Cell
from benchmarks.ladder.rows import FIRST, STRONG

PARTS = (20, 50, 80)  # percentiles
NEXT_REPEAT = 10**6  # added to the numbers of rounds, which keeps those of several repeats apart
EXPLAINED = (
    "Without a GPU two gloo ranks, one thread each; with GPUs a rank for each, under NCCL. All rows are in the same "
    "processes, in turns, on the same requests. Times are p20 / p50 / p80 of the blocks. Ratios are of processor time, "
    "on a GPU of wall time, round by round: above 1.00 the row takes less. "
    "Samples are candidates. Collating is not in the step. Peak: growth of a step. Logits: before training, norm "
    "of the difference relative to the norm."
)


def table(cell: Cell, repeats: list[dict[str, Any]]) -> list[str]:
    """Of one cell, from what `measure` gave in each repeat."""
    names, clock = repeats[0]["rows"], repeats[0]["clock"]
    pooled = {name: _pooled([found["rows"][name] for found in repeats]) for name in names}
    with_auc = any(row["auc"] is not None for row in pooled.values())
    columns = ["row", "processor ms per step and rank", f"row {FIRST} / row", f"row {STRONG} / row"]
    columns += [f"row {STRONG} / row of each repeat"] if len(repeats) > 1 else []
    columns += ["wall ms per step", "samples/s", "events/s", "KB to the device", "peak MB", "collate ms"]
    columns += ["logits differ by", *(["AUC"] if with_auc else [])]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, row in pooled.items():
        per_second = 1e3 / (float(np.median(row["wall"])) * cell.steps)
        cells = [row["name"], _parts(row["processor"], ".1f")]
        cells += [_parts(ratios(pooled.get(other), row, clock), ".2f") for other in (FIRST, STRONG)]
        if len(repeats) > 1:
            each = [ratios(found["rows"].get(STRONG), found["rows"][name], clock) for found in repeats]
            cells.append(", ".join(f"{np.median(of):.2f}" if of else "-" for of in each))
        cells += [
            _parts(row["wall"], ".1f"),
            f"{per_second * repeats[0]['samples']:,.0f}",
            f"{per_second * repeats[0]['events']:,.0f}",
            f"{row['bytes'] / 1e3:,.1f}",
            "-" if row["peak"] is None else f"{row['peak'] / 1e6:.1f}",
            f"{row['collate_ms']:.2f}",
            f"{row['error']:.0e}",
        ]
        cells += ["-" if row["auc"] is None else f"{row['auc']:.4f}"] if with_auc else []
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def comparison(found: list[dict[str, Any]]) -> list[str]:
    """Of two commits, from what `compare` gave."""
    first, second = found
    a, b = first["commit"], second["commit"]
    columns = [
        "row",
        *(f"{name}: processor ms per step and rank" for name in (a, b)),
        f"{a} / {b}",
        *(f"{name}: peak MB" for name in (a, b)),
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, before in first["rows"].items():
        after = second["rows"][name]
        cells = [before["name"], *(_parts(row["processor"], ".1f") for row in (before, after))]
        cells += [_parts(ratios(before, after, first["clock"]), ".3f")]
        cells += ["-" if row["peak"] is None else f"{row['peak'] / 1e6:.1f}" for row in (before, after)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def ratios(other: dict[str, Any] | None, row: dict[str, Any], clock: str) -> list[float]:
    """How many times the time of `row` another row takes by that clock, in every round that both were in."""
    theirs = {} if other is None else dict(zip(other["rounds"], other[clock]))
    pairs = zip(row["rounds"], row[clock])
    return [theirs[number] / own for number, own in pairs if number in theirs]


def _pooled(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The blocks of all repeats of a row together; single numbers as their median."""
    numbers = [number + NEXT_REPEAT * repeat for repeat, row in enumerate(rows) for number in row["rounds"]]
    pooled = {"name": rows[0]["name"], "rounds": numbers}
    pooled |= {key: [value for row in rows for value in row[key]] for key in ("processor", "wall")}
    for key in ("bytes", "peak", "collate_ms", "error", "auc"):
        values = [row[key] for row in rows if row[key] is not None]
        pooled[key] = float(np.median(values)) if values else None
    return pooled


def _parts(values: list[float], form: str) -> str:
    return " / ".join(f"{value:{form}}" for value in np.percentile(values, PARTS)) if values else "-"
