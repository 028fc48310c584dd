"""Models side by side on five data sets, at matched parameters and at matched FLOPs.

python -m benchmarks.bench_compare sizes                          what is compared
python -m benchmarks.bench_compare tune|final|claims --table FILE.csv [--data three] [--part 0/2] [--also OTHER.csv ...]
python -m benchmarks.bench_compare speed --table FILE.csv         samples/s, with nothing else on the machine
python -m benchmarks.bench_compare report FILE.csv ...            the page's tables

Data sets are read from the folder in DIST_REC_DATA (data by default): three (dist-rec data synth --kind three),
statics2011, assist2009, ml-100k and ml-1m (dist-rec data import)."""

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks.compare.report import page, sizes
from benchmarks.compare.sets import DATA
from benchmarks.compare.speed import measure
from benchmarks.compare.study import Row, Run, claims, finals, run_all, tuning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sizes", help="prints the sizes of all models")
    for name in ("tune", "final", "claims", "speed"):
        command = commands.add_parser(name)
        command.add_argument("--table", type=Path, required=True, help="CSV that is appended to")
        command.add_argument("--data", nargs="*", choices=list(DATA), default=list(DATA))
        command.add_argument(
            "--part", default="0/1", help="i/n: every n-th run from the i-th, for processes side by side"
        )
        command.add_argument("--without", nargs="*", default=[], help="models to leave out, for now or for good")
        command.add_argument("--also", nargs="*", type=Path, default=[], help="tables of other processes, to read only")
    report = commands.add_parser("report", help="prints the page's tables")
    report.add_argument("tables", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command in ("sizes", "report"):
        print("\n".join(sizes() if options.command == "sizes" else page(options.tables)))
        return
    if options.command == "speed":
        measure(options.table, options.data, options.without)
        return
    first, count = (int(n) for n in options.part.split("/"))
    for data in options.data:
        asked = {"tune": lambda data, _: tuning(data), "final": finals, "claims": claims}[options.command]

        def wanted(
            rows: list[Row], data: str = data, asked: Callable[[str, list[Row]], list[Run]] = asked
        ) -> list[Run]:
            return [run for run in asked(data, rows) if run.model not in options.without]

        run_all(options.table, wanted, (first, count), options.also)


if __name__ == "__main__":
    main()
