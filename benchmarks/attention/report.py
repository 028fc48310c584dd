"""Lines of the attention benchmark as a table, a CSV file and a picture."""

import csv
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.attention.measure import Ceilings, Line
from benchmarks.harness import Timing
from dist_rec.common.provenance import provenance_lines

HEADER = [
    *("case", "lengths", "what runs", "forward ms", "backward ms", "both ms", "both, p20-p80"),
    *(
        "TFLOP/s fwd",
        "TFLOP/s bwd",
        "% of floor fwd",
        "% of floor bwd",
        "extra MiB",
        "error",
        "repeats bitwise",
        "prepare ms",
    ),
]


def row_of(line: Line) -> list[str]:
    """Medians; useful TFLOP/s count only the pairs that the mask lets through."""
    name = [line.shape.name, line.lengths, line.peer]
    if line.forward is None or line.backward is None or line.both is None:
        return [*name, f"absent: {line.why_not}", *[""] * (len(HEADER) - 4)]
    parts = list(zip((line.forward, line.backward), line.floor, line.useful))
    return [
        *name,
        *(_ms(timing.p50) for timing in (line.forward, line.backward, line.both)),
        f"{_ms(line.both.p20)}-{_ms(line.both.p80)}",
        *(f"{useful / timing.p50 / 1e12:.1f}" for timing, _, useful in parts),
        *(f"{100 * floor / timing.p50:.0f}" for timing, floor, _ in parts),
        "" if line.extra_bytes is None else f"{line.extra_bytes / 2**20:.1f}",
        f"{line.error:.1e}",
        "yes" if line.deterministic else "no",
        _ms(line.prepare or 0.0),
    ]


def show(lines: list[Line]) -> None:
    table = Table(title=f"{lines[0].shape.name}, {lines[0].shape.what}, {lines[0].lengths}", title_justify="left")
    for name in HEADER[2:]:
        table.add_column(name)
    for line in lines:
        table.add_row(*row_of(line)[2:])
    Console(width=200).print(table)


def write(path: Path, lines: list[Line], ceilings: Ceilings) -> None:
    """`path` with .md, .csv and .png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [row_of(line) for line in lines]
    with path.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    shapes = {line.shape.name: line.shape for line in lines}
    text = [
        "# Attention: forward and backward against peers and the floor",
        "",
        *provenance_lines(),
        f"- ceilings of this run: copy {ceilings.bandwidth / 1e12:.2f} TB/s, matmul {ceilings.matmul / 1e12:.1f} "
        "TFLOP/s",
        "",
        "| case | what | requests | heads | head size | rows | keys at most |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {s.name} | {s.what} | {s.requests} | {s.heads} | {s.head_size} | {s.queries} | {s.keys} |"
            for s in shapes.values()
        ),
        "",
        *("| " + " | ".join(row) + " |" for row in (HEADER, ["---"] * len(HEADER), *rows)),
        "",
        f"![share of the floor]({path.name}.png)",
        "",
    ]
    path.with_suffix(".md").write_text("\n".join(text))
    _draw(path.with_suffix(".png"), [line for line in lines if line.both is not None])


def _draw(path: Path, lines: list[Line]) -> None:
    """Per case: forward + backward time of each peer over that of the fastest, cases side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = list(dict.fromkeys((line.shape.name, line.lengths) for line in lines))
    peers = list(dict.fromkeys(line.peer for line in lines))
    figure, axes = pyplot.subplots(figsize=(max(6.0, 0.9 * len(cases)), 4.0))
    for number, peer in enumerate(peers):
        share = {(line.shape.name, line.lengths): _share(line.both, line.floor) for line in lines if line.peer == peer}
        at = [place + 0.8 * (number / len(peers) - 0.4) for place, case in enumerate(cases) if case in share]
        axes.bar(at, [share[case] for case in cases if case in share], 0.8 / len(peers), label=peer)
    axes.set_xticks(range(len(cases)), [f"{name}\n{lengths}" for name, lengths in cases], fontsize=7)
    axes.set_ylabel("% of the floor, forward + backward")
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _share(timing: Timing | None, floor: tuple[float, float]) -> float:
    return 0.0 if timing is None else 100 * sum(floor) / timing.p50


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"
