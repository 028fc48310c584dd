"""The delayed dense update: what it hides, what it may harm, where it becomes unstable.

python -m benchmarks.bench_optim harmless --data quickstart --table FILE.csv [--part 0/2]
python -m benchmarks.bench_optim report --table FILE.csv --out benchmarks/results/FILE.md
"""

import argparse
from pathlib import Path

from benchmarks.optim.harmless import DATA, run_study
from benchmarks.optim.rates import rates
from benchmarks.optim.report import page
from benchmarks.optim.slow_link import check_machine, slow_link, trace
from benchmarks.optim.slow_link_table import plot
from benchmarks.optim.stability import stability


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    harmless = commands.add_parser("harmless", help="train; appends to a CSV, so that it can be stopped and continued")
    harmless.add_argument("--data", choices=list(DATA), required=True)
    harmless.add_argument("--table", type=Path, required=True)
    harmless.add_argument(
        "--part", default="0/1", help="i/n: every n-th run from the i-th, for n processes side by side"
    )
    link = commands.add_parser("slow-link", help="step times across a link of limited rate; Linux and root")
    link.add_argument("--steps", type=int, default=6)
    link.add_argument("--rounds", type=int, default=3)
    link.add_argument(
        "--ids", type=int, default=64, help="samples with an id, of each batch: how much the all-to-alls carry"
    )
    link.add_argument("--out", type=Path)
    traced = commands.add_parser("trace", help="draw dist-rec train --trace across such a link; Linux and root")
    traced.add_argument("--recipe", default="launch/recipes/quickstart.yaml")
    traced.add_argument("--mbit", type=float, default=100.0)
    traced.add_argument("--out", type=Path, required=True)
    commands.add_parser("rates", help="where training diverges on the quickstart; prints tables")
    commands.add_parser("stability", help="where a parabola diverges, and theory; prints a table")
    report = commands.add_parser("report", help="prints the tables of the runs of harmless")
    report.add_argument("tables", type=Path, nargs="+")
    options = parser.parse_args()
    printed = {"rates": rates, "stability": stability, "report": lambda: page(options.tables)}
    if options.command in printed:
        print("\n".join(printed[options.command]()))
        return
    if options.command == "harmless":
        first, count = (int(n) for n in options.part.split("/"))
        run_study(options.data, options.table, (first, count))
        return
    if missing := check_machine():
        parser.error(missing)
    if options.command == "trace":
        trace(options.recipe, options.mbit, options.out)
    else:
        lines, rows = slow_link(options.steps, options.rounds, options.ids)
        print("\n".join(lines))
        if options.out:
            options.out.write_text("\n".join(["# The dense all-reduce across a slow link", "", *lines]) + "\n")
            plot(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
