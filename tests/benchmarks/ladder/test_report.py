from typing import Any

from benchmarks.ladder.cell import Cell
from benchmarks.ladder.report import comparison, ratios, table

CELL = Cell("longer", "200", 4, 1, batch=2, steps=5)


def row(name: str, processor: list[float], **other: Any) -> dict[str, Any]:
    known = {"bytes": 2000.0, "peak": 3e6, "collate_ms": 0.5, "error": 1e-7, "auc": None}
    return {"name": name, "rounds": [*range(len(processor))], "processor": processor, "wall": processor} | known | other


def found(**rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "clock": "processor",
        "samples": 80,
        "events": 4000.0,
        "rows": {name.strip("_"): of for name, of in rows.items()},
    }


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_cell() -> None:
    lines = table(CELL, [found(_1=row("shared", [20.0, 30.0, 40.0]), _2=row("strong", [10.0, 10.0, 10.0], auc=0.75))])
    header, _, shared, strong = [cells(line) for line in lines]
    assert len(header) == len(shared) == len(strong)
    got = dict(zip(header, strong))
    assert got["row 1 / row"] == "2.40 / 3.00 / 3.60" and got["row 2 / row"] == "1.00 / 1.00 / 1.00"
    assert got["samples/s"] == "1,600" and got["events/s"] == "80,000"  # a block of five steps of 10 ms
    assert got["KB to the device"] == "2.0" and got["peak MB"] == "3.0" and got["AUC"] == "0.7500"
    assert dict(zip(header, shared))["AUC"] == "-"


def test_repeats_are_pooled_and_their_medians_stand_beside() -> None:
    first = found(_2=row("strong", [10.0, 10.0]), _6=row("jagged", [20.0, 20.0]))
    second = found(_2=row("strong", [10.0, 10.0]), _6=row("jagged", [5.0, 5.0], peak=None))
    header, _, _, jagged = [cells(line) for line in table(CELL, [first, second])]
    got = dict(zip(header, jagged))
    assert got["row 2 / row of each repeat"] == "0.50, 2.00" and got["row 1 / row"] == "-"
    assert got["processor ms per step and rank"] == "5.0 / 12.5 / 20.0"


def test_ratios_are_of_rounds_that_both_were_in() -> None:
    some = row("slow", [50.0, 60.0]) | {"rounds": [0, 2]}
    assert ratios(row("quick", [1.0, 2.0, 3.0]), some, "processor") == [1 / 50, 3 / 60]
    assert ratios(row("quick", [1.0, 2.0, 3.0], wall=[5.0, 6.0, 9.0]), some, "wall") == [5 / 50, 9 / 60]


def test_two_commits() -> None:
    both = [found(_2=row("strong", times)) | {"commit": name} for name, times in (("a1", [12.0]), ("b2", [10.0]))]
    header, _, strong = [cells(line) for line in comparison(both)]
    assert dict(zip(header, strong))["a1 / b2"] == "1.200 / 1.200 / 1.200"
