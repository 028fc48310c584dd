"""Lines of the lookup benchmark as a page and a CSV file."""

import csv
from pathlib import Path

from benchmarks.harness import Timing
from benchmarks.lookup.measure import Line
from benchmarks.lookup.operators import OperatorLine
from benchmarks.lookup.ways import PLAIN
from dist_rec.common.provenance import provenance_lines

HEADER = [
    *(
        "sharding",
        "D",
        "duplicates",
        "U",
        "way",
        "wall ms p20/p50/p80",
        "plain / this",
        "between events ms p20/p50/p80",
    ),
    *(
        "plain / this, events",
        "needed bytes over wall time, % of copy",
        "peak extra MiB",
        "same bits",
        "apart after an update",
    ),
]
OPERATOR_HEADER = [
    *("D", "duplicates", "U", "operator", "what runs", "ms p20/p50/p80", "first / this"),
    *("needed bytes over time, % of copy", "largest difference from the first"),
]


def rows_of(lines: list[Line], bandwidth: float) -> list[list[str]]:
    plain = {line.size: line for line in lines if line.way == PLAIN}
    rows = []
    for line in lines:
        size, base = line.size, plain[line.size]
        case = [size.sharding, f"{size.width}", f"{size.duplicates:.0%}", f"{line.unique}", line.way]
        if line.wall is None:
            rows.append([*case, f"absent: {line.why_not}", *[""] * (len(HEADER) - 6)])
            continue
        cells = [_ms(line.wall), _ratio(base.wall, line.wall), _ms(line.events), _ratio(base.events, line.events)]
        cells += [
            f"{100 * line.needed_bytes / bandwidth / line.wall.p50:.0f}",
            "" if line.extra_bytes is None else f"{line.extra_bytes / 2**20:.0f}",
            "" if line.same_bits is None else "yes" if line.same_bits else "no",
            "" if line.after_step is None else f"{line.after_step:.1e}",
        ]
        rows.append([*case, *cells])
    return rows


def operator_rows_of(lines: list[OperatorLine], bandwidth: float) -> list[list[str]]:
    first: dict[tuple[object, str], Timing] = {}
    rows = []
    for line in lines:
        base = first.setdefault((line.size, line.operator), line.time)
        case = [f"{line.size.width}", f"{line.size.duplicates:.0%}", f"{line.unique}", line.operator, line.what]
        share = 100 * line.needed_bytes / bandwidth / line.time.p50
        rows.append([*case, _ms(line.time), _ratio(base, line.time), f"{share:.0f}", f"{line.error:.1e}"])
    return rows


def page(lines: list[Line], operators: list[OperatorLine], bandwidth: float, *, toy: bool) -> str:
    size = lines[0].size
    of_toy = ["**Toy sizes: the times mean nothing.** The page shows that everything runs and what the bits do.", ""]
    text = [
        "# Lookup and rebuild: forward, and backward with the fused update",
        "",
        *(of_toy if toy else []),
        *provenance_lines(),
        f"- ceiling of this run: copy {bandwidth / 1e12:.3f} TB/s",
        f"- B {size.requests}, L {size.length}: N {size.events} events of one field; {size.rows} fp32 rows; one rank",
        "",
        "A step looks N events up and takes a ready gradient (N, D) back, in which row-wise Adagrad updates the table.",
        "Features are on the device before, for the host's dedup already unique. Wall: from one synchronisation to the "
        "next.",
        "Needed bytes: `4 D (3 U + 2 N) + 8 N`, that is U rows read, N rows written and N gradients read, U rows read "
        "and",
        "written by the update, and an index of 4 bytes per event forward and backward. Same bits: the first output is "
        "the",
        "plain one.",
        "",
        *_table(HEADER, rows_of(lines, bandwidth)),
        "",
        "## The operators alone",
        "",
        "Forward and backward, fp32, between events on a GPU; a bag is a request. Needed bytes: expand `8 D (U + N) + "
        "8 N`,",
        "pool `8 D (U + B) + 8 N`.",
        "",
        *_table(OPERATOR_HEADER, operator_rows_of(operators, bandwidth)),
        "",
    ]
    return "\n".join(text)


def write(path: Path, lines: list[Line], operators: list[OperatorLine], bandwidth: float, *, toy: bool) -> None:
    """`path` with .md and .csv, and the second table as `<path>_operators.csv`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text(page(lines, operators, bandwidth, toy=toy))
    tables = {
        "": [HEADER, *rows_of(lines, bandwidth)],
        "_operators": [OPERATOR_HEADER, *operator_rows_of(operators, bandwidth)],
    }
    for which, rows in tables.items():
        with path.with_name(f"{path.name}{which}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def _ms(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return " / ".join(f"{1e3 * seconds:.3f}" for seconds in (timing.p20, timing.p50, timing.p80))


def _ratio(base: Timing | None, timing: Timing | None) -> str:
    return "" if base is None or timing is None else f"{base.p50 / timing.p50:.2f}"
