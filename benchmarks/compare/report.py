"""Tables of the comparison page."""

import statistics
from collections.abc import Iterable
from pathlib import Path

from benchmarks.compare.claims import CLAIMS
from benchmarks.compare.families import ENCODERS, FAMILIES, REFERENCE, families
from benchmarks.compare.sets import DATA
from benchmarks.compare.study import ROOT, SEEDS, SETTINGS, TUNING_SEED, Row, read, size
from dist_rec.common.provenance import provenance_lines

BASE_ARCH = "LONGER + RankMixer"
HYFORMERS = tuple(f"HyFormer, {encoder}" for encoder in ENCODERS)
HEADER = (
    "| model | AUC | against LONGER, same seeds | grouped AUC | logloss | NE | parameters | MFLOP per sample | "
    "samples/s | setting | seeds |"
)


def sizes() -> list[str]:
    """Parameters and FLOPs of every model at both budgets, for the data sets that are there."""
    lines = []
    for data in DATA:
        if not (ROOT / DATA[data].folder).is_dir():
            continue
        lines += [f"{data}:"]
        for budget in DATA[data].budgets:
            for family in families(DATA[data]):
                found = size(data, family, budget)
                lines.append(
                    f"  {budget:10} {family:26} {found.parameters:9,} parameters {found.flops / 1e6:8.2f} MFLOP"
                )
    return lines


def page(tables: Iterable[Path]) -> list[str]:
    every = [row for table in tables for row in read(table)]
    rows = [row for row in every if "samples_per_s" not in row]
    speeds = {(r["data"], r["model"], r["budget"]): r["samples_per_s"] for r in every if "samples_per_s" in r}
    lines = [*provenance_lines()]
    for data in DATA:
        own = [row for row in rows if row["data"] == data]
        for task in dict.fromkeys(row["task"] for row in own):
            lines += _section(data, task, [row for row in own if row["task"] == task], speeds)
    return lines + _claims(rows) + _against_base_arch(rows) + _tuning(rows)


def _section(data: str, task: str, rows: list[Row], speeds: dict[tuple[str, str, str], str]) -> list[str]:
    best = next((row["best_auc"] for row in rows if row["best_auc"]), "")
    lines = ["", f"## {data}, {task}" + (f" (best reachable AUC {float(best):.4f})" if best else ""), ""]
    for budget in DATA[data].budgets:
        lines += [f"Matched {budget if budget == 'parameters' else 'FLOPs'}:", "", HEADER, "| --- " * 11 + "|"]
        reference = _by_seed(_finals(rows, REFERENCE, budget))
        for family in FAMILIES:
            found = _finals(rows, family, budget)
            lines += [_line(family, found, reference, speeds.get((data, family, budget), "-"))] if found else []
        missing = [family for family in families(DATA[data]) if len(_finals(rows, family, budget)) < len(SEEDS)]
        lines += ["", f"Not all of {len(SEEDS)} seeds: {'; '.join(missing)}.", ""] if missing else [""]
    return lines


def _finals(rows: list[Row], model: str, budget: str) -> list[Row]:
    return [r for r in rows if r["model"] == model and r["budget"] in (budget, "both") and int(r["seed"]) in SEEDS]


def _line(model: str, rows: list[Row], reference: dict[str, float], speed: str) -> str:
    first, against = rows[0], "" if model == REFERENCE else _difference(rows, reference)
    auc, *others = (_spread(rows, name) for name in ("auc", "grouped_auc", "logloss", "ne"))
    numbers = " | ".join((auc, against, *others))
    size = f"{int(first['parameters']):,} | {_mflop(rows)}"
    return f"| {model} | {numbers} | {size} | {speed} | {first['setting']} | {len(rows)} |"


def _claims(rows: list[Row]) -> list[str]:
    lines = ["", "## Claims of the papers", ""]
    lines += ["| claim | data | variant | AUC | MFLOP | against | MFLOP | difference, same seeds |", "| --- " * 8 + "|"]
    for claim in CLAIMS:
        for data in claim.data:
            task = [row for row in rows if row["data"] == data and row["task"] == DATA[data].task]
            base = _finals(task, claim.base, "parameters")
            for variant in claim.variants:
                found = _finals(task, f"{claim.base}: {variant}", "claim")
                if found and base:
                    line = [claim.text, data, variant, _spread(found, "auc"), _mflop(found), claim.base, _mflop(base)]
                    lines.append(f"| {' | '.join([*line, _difference(found, _by_seed(base))])} |")
    return lines


def _against_base_arch(rows: list[Row]) -> list[str]:
    """HyFormer's own claim (arXiv 2601.12681, section 4): better than RankMixer over what LONGER made of each
    sequence."""
    lines = ["", f"AUC of HyFormer against {BASE_ARCH}, same seeds:", ""]
    lines += ["| data | matched | " + " | ".join(HYFORMERS) + " |", "| --- " * (2 + len(HYFORMERS)) + "|"]
    for data in DATA:
        task = [row for row in rows if row["data"] == data and row["task"] == DATA[data].task]
        for budget in DATA[data].budgets:
            base = _by_seed(_finals(task, BASE_ARCH, budget))
            found = [_finals(task, model, budget) for model in HYFORMERS]
            if base and any(found):
                lines.append(f"| {data} | {budget} | " + " | ".join(_difference(runs, base) for runs in found) + " |")
    return lines


def _tuning(rows: list[Row]) -> list[str]:
    """Validation AUC of every setting that was tried, of the task that it was chosen by."""
    lines = [
        "",
        "## Tuning",
        "",
        "| data | model | " + " | ".join(SETTINGS) + " |",
        "| --- " * (2 + len(SETTINGS)) + "|",
    ]
    tried = [row for row in rows if row["seed"] == str(TUNING_SEED) and row["task"] == DATA[row["data"]].task]
    for data in DATA:
        for family in families(DATA[data]):
            found = {row["setting"]: row["valid_auc"] for row in tried if (row["data"], row["model"]) == (data, family)}
            numbers = (f"{float(found[name]):.4f}" if name in found else "-" for name in SETTINGS)
            lines += [f"| {data} | {family} | " + " | ".join(numbers) + " |"] if found else []
    return lines


def _mflop(rows: list[Row]) -> str:
    return f"{int(rows[0]['flops']) / 1e6:.2f}"


def _by_seed(rows: list[Row]) -> dict[str, float]:
    return {row["seed"]: float(row["auc"]) for row in rows}


def _difference(rows: list[Row], reference: dict[str, float]) -> str:
    """Of the AUCs, seed by seed: mean, spread, and in how many seeds the model is ahead."""
    pairs = [auc - reference[seed] for seed, auc in _by_seed(rows).items() if seed in reference]
    if not pairs:
        return "-"
    spread = f" ± {statistics.stdev(pairs):.4f}" if len(pairs) > 1 else ""
    return f"{statistics.mean(pairs):+.4f}{spread}, ahead in {sum(pair > 0 for pair in pairs)} of {len(pairs)}"


def _spread(rows: list[Row], name: str) -> str:
    values = [float(row[name]) for row in rows]
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"
