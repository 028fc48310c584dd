"""The table of a cell."""

from typing import Any

import numpy as np

from benchmarks.ladder.cell import Cell
from benchmarks.ladder.rows import FIRST, STRONG

PARTS = (20, 50, 80)  # percentiles
COLUMNS = (
    "row",
    "processor ms per step and rank",
    f"row {FIRST} / row",
    f"row {STRONG} / row",
    "wall ms per step",
    "samples/s",
    "events/s",
    "KB to the device",
    "peak MB",
    "collate ms",
    "logits differ by",
)


def table(cell: Cell, found: dict[str, Any]) -> list[str]:
    """Markdown lines. Times are p20 / p50 / p80 of the blocks of a row; ratios those of the rounds that both have."""
    rows = found["rows"]
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for row in rows.values():
        per_second = 1e3 / (float(np.median(row["wall"])) * cell.steps)
        cells = [
            row["name"],
            _parts(row["processor"], ".1f"),
            *(ratio(rows.get(other), row) for other in (FIRST, STRONG)),
            _parts(row["wall"], ".1f"),
            f"{per_second * found['samples']:,.0f}",
            f"{per_second * found['events']:,.0f}",
            f"{row['bytes'] / 1e3:,.1f}",
            "-" if row["peak"] is None else f"{row['peak'] / 1e6:.1f}",
            f"{row['collate_ms']:.2f}",
            f"{row['error']:.0e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def ratio(other: dict[str, Any] | None, row: dict[str, Any]) -> str:
    """How many times the processor time of `row` another row takes: p20 / p50 / p80 over the rounds of both."""
    if other is None:
        return "-"
    theirs = dict(zip(other["rounds"], other["processor"]))
    both = zip(row["rounds"], row["processor"])
    return _parts([theirs[number] / own for number, own in both if number in theirs], ".2f")


def _parts(values: list[float], form: str) -> str:
    if not values:
        return "-"
    return " / ".join(f"{value:{form}}" for value in np.percentile(values, PARTS))
