"""Draws a table of a results page.

    python -m benchmarks.plot_page bars PAGE.md OUT.png --value "processor ms per step and rank"
    python -m benchmarks.plot_page curve PAGE.md OUT.png

`bars`: one bar per row of the page's first table, or with `--section` of the one under that heading. Of
`p20 / p50 / p80` the bar is the median, with the others as its whisker. `curve`: time and memory over the first column.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

PART_LEFT, PART_RIGHT = 0.36, 0.97  # of the width, so that names of rows fit


def read_table(page: Path, section: str = "") -> list[dict[str, str]]:
    """Rows of the first table below the heading that begins with `section`, by column.

    Raises ValueError if there is none."""
    lines = page.read_text().splitlines()
    headings = [i for i, line in enumerate(lines) if line.startswith("#") and line.lstrip("# ").startswith(section)]
    start = headings[0] if headings else len(lines)
    table = []
    for line in lines[start:]:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            break
    if len(table) < 3:
        raise ValueError(f"{page}: expected a table under a heading that begins with {section!r}, found none")
    columns, _, *rows = table
    return [dict(zip(columns, row, strict=True)) for row in rows]


def numbers(cell: str) -> list[float]:
    """`1,234.5` or `p20 / p50 / p80`; empty for `-`."""
    return [] if cell == "-" else [float(part.replace(",", "")) for part in cell.split("/")]


def bars(rows: list[dict[str, str]], value: str, title: str) -> Figure:
    """Raises ValueError for a column that the table lacks."""
    if value not in rows[0]:
        raise ValueError(f"expected one of the columns {', '.join(rows[0])}, got {value!r}")
    known = [(row[next(iter(row))], numbers(row[value])) for row in rows]
    known = [(name, parts) for name, parts in known if parts]
    figure = Figure(figsize=(8, 0.6 + 0.32 * len(known)), dpi=150)
    axes = figure.add_subplot()
    middle = [parts[len(parts) // 2] for _, parts in known]
    spread = [[m - parts[0] for m, (_, parts) in zip(middle, known)], [p[-1] - m for m, (_, p) in zip(middle, known)]]
    colours = ["#31a354" if name.startswith("dist_rec") else "#9ecae1" for name, _ in known]
    axes.barh([name for name, _ in known], middle, xerr=spread, color=colours, ecolor="#636363")
    for place, number in enumerate(middle):
        axes.text(number, place, f"  {number:g}", va="center", ha="left", fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(value)
    figure.suptitle(title, fontsize=8)
    axes.margins(x=0.12)
    figure.subplots_adjust(
        left=PART_LEFT, right=PART_RIGHT, bottom=0.55 / figure.get_figheight(), top=1 - 0.3 / figure.get_figheight()
    )
    return figure


def curve(rows: list[dict[str, str]], title: str) -> Figure:
    axis, *_ = rows[0]
    time, memory = next(name for name in rows[0] if name == "ms"), next(name for name in rows[0] if "MiB" in name)
    figure = Figure(figsize=(8, 3), dpi=150)
    for place, value in enumerate((time, memory)):
        axes = figure.add_subplot(1, 2, place + 1)
        axes.plot(*([numbers(row[name])[0] for row in rows] for name in (axis, value)), marker="o", color="#3182bd")
        axes.set_xlabel(axis)
        axes.set_ylabel(value, fontsize=8)
        axes.set_ylim(bottom=0)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("bars", "curve"))
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--section", default="", help="the heading, or its beginning; by default the first")
    parser.add_argument("--value", default="processor ms per step and rank", help="column of the bars")
    parser.add_argument("--title", default="")
    options = parser.parse_args()
    rows = read_table(options.page, options.section)
    figure = bars(rows, options.value, options.title) if options.kind == "bars" else curve(rows, options.title)
    figure.savefig(options.out)


if __name__ == "__main__":
    main()
