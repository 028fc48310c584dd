"""What a build did: rows by split, what was dropped and why, how ids were numbered."""

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from dist_rec.data.build.assemble import Counts
from dist_rec.data.build.splits import Times, moment


@dataclass
class BuildReport:
    """`dropped` reason -> rows; `unknown` "<owner>.<field>" -> share of rows with an id that training did not know;
    `tables` -> number of ids; `values` "<owner>.<side value>" -> the texts of its numbers; `sampling`: how negatives
    were made."""

    name: str
    read: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    splits: dict[str, Counts] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, float] = field(default_factory=dict)
    values: dict[str, list[str]] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    times: Times | None = None

    def tree(self) -> dict[str, Any]:
        """Plain values, the same for the same logs."""
        return asdict(self)


def render(report: BuildReport) -> RenderableType:
    """Tables for a terminal."""
    splits = Table(title=f"{report.name}: requests")
    for header in ("split", "requests", "candidates", "events", "ones"):
        splits.add_column(header, justify="left" if header == "split" else "right")
    for name, of in report.splits.items():
        ones = ", ".join(f"{label} {count / max(1, of.candidates):.3f}" for label, count in of.ones.items())
        splits.add_row(name, f"{of.requests:,}", f"{of.candidates:,}", f"{of.events:,}", ones)
    tables = Table("table", title="ids")
    tables.add_column("numbers", justify="right")
    for name, size in report.tables.items():
        tables.add_row(name, f"{size:,}")
    unknown = Table("field", title="rows with an id that training does not know")
    unknown.add_column("share", justify="right")
    for name, share in report.unknown.items():
        unknown.add_row(name, f"{share:.2%}")
    parts: list[RenderableType] = [splits, tables, unknown]
    if report.dropped:
        dropped = Table("reason", title="not in the dataset")
        dropped.add_column("rows", justify="right")
        for reason, count in report.dropped.items():
            dropped.add_row(reason, f"{count:,}")
        parts.append(dropped)
    if report.times is not None and report.times.valid is not None and report.times.test is not None:
        times = report.times
        starts = f"valid from {moment(report.times.valid)}, test from {moment(report.times.test)}"
        parts.append(f"requests from {moment(times.first)} to {moment(times.last)}; {starts}")
    return Group(*parts)
