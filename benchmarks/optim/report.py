"""The page about harm: tables from the runs of `harmless.py`."""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from benchmarks.optim.harmless import DATA, MODES, SEEDS, read
from dist_rec.common.provenance import provenance_lines

Row = dict[str, str]


def page(tables: Iterable[Path]) -> list[str]:
    """Markdown: for every data set, batch and rate a table of all ways to update, mean and spread over seeds."""
    rows = [row for table in tables for row in read(table)]
    lines = [*provenance_lines()]
    for data in DATA:
        lines += _section(data, [row for row in rows if row["data"] == data])
    return lines


def _section(data: str, rows: list[Row]) -> list[str]:
    lines = ["", f"## {data}", ""]
    cells: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row["batch"], row["rate"]][row["mode"]].append(row)
    target = DATA[data].target
    for (batch, rate), modes in sorted(cells.items(), key=lambda item: (int(item[0][0]), float(item[0][1]))):
        steps = next(iter(modes.values()))[0]["steps"]
        lines += [f"Batch x{batch}, rate x{rate} ({steps} steps):", ""]
        lines += [
            f"| update | AUC | against sync | NE | steps to a training NE of {target} | cosine of gradients | seeds |"
        ]
        lines += ["| --- " * 7 + "|"]
        lines += [_line(mode, modes) for mode in MODES if mode in modes] + [""]
    return lines


def _line(mode: str, modes: dict[str, list[Row]]) -> str:
    rows = {row["seed"]: row for row in modes[mode]}
    base = {row["seed"]: row for row in modes["sync, Muon" if "Muon" in mode else "sync"]}
    pairs = [float(rows[seed]["auc"]) - float(base[seed]["auc"]) for seed in rows if seed in base]
    reached = [float(row["steps_to_target"]) for row in rows.values() if row["steps_to_target"]]
    steps = f"{statistics.mean(reached):.0f}" if reached else "never"
    steps += f" ({len(reached)} of {len(rows)} seeds)" if len(reached) < len(rows) and reached else ""
    cosines = [float(row["cosine"]) for row in rows.values() if row["cosine"]]
    against = "-" if "sync" in mode else _spread(pairs, "+.4f")
    marks = "" if len(rows) == len(SEEDS) else f" of {len(SEEDS)}"
    return (
        f"| {mode} | {_spread([float(row['auc']) for row in rows.values()], '.4f')} | {against} | "
        f"{_spread([float(row['ne']) for row in rows.values()], '.4f')} | {steps} | "
        f"{statistics.mean(cosines) if cosines else float('nan'):.2f} | {len(rows)}{marks} |"
    )


def _spread(values: list[float], form: str) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{spread}"
