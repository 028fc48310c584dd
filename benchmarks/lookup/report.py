"""The page of the lookup benchmark."""

from pathlib import Path

from benchmarks.harness import provenance
from benchmarks.lookup.measure import PLAIN, Line

HEADER = (
    "| D | duplicates | U | way | ms p20/p50/p80 | plain / this | of the copy bandwidth | peak extra MB | same bits forward |"
)


def table(lines: list[Line], bandwidth: float) -> list[str]:
    plain = {line.size: line.time.p50 for line in lines if line.way == PLAIN}
    rows = [HEADER, "|---" * 9 + "|"]
    for line in lines:
        share = line.needed_bytes / bandwidth / line.time.p50
        peak = "?" if line.peak_bytes is None else f"{line.peak_bytes / 1e6:.0f}"
        rows.append(
            f"| {line.size.width} | {line.size.duplicates:.0%} | {line.unique:,} | {line.way} | {line.time} "
            f"| {plain[line.size] / line.time.p50:.2f} | {share:.0%} | {peak} | {'yes' if line.same_bits else 'no'} |"
        )
    return rows


def page(lines: list[Line], bandwidth: float, *, toy: bool) -> str:
    size = lines[0].size
    head = ["# Lookup and rebuild, forward and backward", "", *provenance(), f"- copy bandwidth {bandwidth / 1e12:.2f} TB/s"]
    head += [
        f"- {size.requests} requests x {size.length} events, one table of {size.rows:,} fp32 rows, one rank",
        "- row-wise Adagrad in the backward; bytes that have to move: 4 D (3 U + 2 N) + 8 N",
    ]
    if toy:
        head.append("- **toy sizes: the times mean nothing**")
    return "\n".join([*head, "", *table(lines, bandwidth)]) + "\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
