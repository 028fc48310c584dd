import sys
from pathlib import Path

import pytest

from benchmarks import plot_page

PAGE = """# A page

## First cell

| row | ms | peak of the process, MiB |
|---|---|---|
| 1 plain | 50.0 / 54.5 / 55.5 | 1,200 |
| dist_rec, sync | 24.5 / 25.5 / 26.1 | 900 |
| 9 left out | - | - |

## Curve

| length | ms | peak of the process, MiB |
|---:|---:|---:|
| 100 | 11.8 | 513 |
| 3,000 | 13.1 | 515 |
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "page.md").write_text(PAGE)
    return tmp_path / "page.md"


def test_a_table_is_found_by_its_heading(page: Path) -> None:
    assert [row["row"] for row in plot_page.read_table(page)] == ["1 plain", "dist_rec, sync", "9 left out"]
    assert plot_page.read_table(page, "Curve")[1] == {
        "length": "3,000",
        "ms": "13.1",
        "peak of the process, MiB": "515",
    }
    with pytest.raises(ValueError, match="expected a table under a heading that begins with 'Third', found none"):
        plot_page.read_table(page, "Third")


def test_bars_are_medians(page: Path) -> None:
    axes = plot_page.bars(plot_page.read_table(page), "ms", "").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [54.5, 25.5]
    with pytest.raises(ValueError, match="expected one of the columns row, ms"):
        plot_page.bars(plot_page.read_table(page), "seconds", "")


@pytest.mark.parametrize("arguments", [["bars", "--value", "ms"], ["curve", "--section", "Curve"]])
def test_a_picture_is_written(page: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    out = page.with_suffix(".png")
    kind, *options = arguments
    monkeypatch.setattr(sys, "argv", ["plot_page", kind, str(page), str(out), *options])
    plot_page.main()
    assert out.read_bytes().startswith(b"\x89PNG")
