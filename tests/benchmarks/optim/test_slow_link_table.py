from pathlib import Path

from benchmarks.optim.slow_link_table import KINDS, hidden, plot, row, tables

WITHOUT = ("pec", "pec late")


def _seconds(sync: float, delayed: float, reduce: float) -> dict[str, list[float]]:
    """Two rounds of two steps, the second step of each dearer by as much as the first is cheaper."""
    means = {kind: sync for kind in KINDS if kind not in WITHOUT} | {"none": 0.1, "delayed": delayed, "reduce": reduce}
    return {kind: [0.9 * mean, 1.1 * mean] * 2 for kind, mean in means.items()}


ROWS = [
    row("unlimited", _seconds(0.11, 0.12, 0.01), 2),
    row("slow", _seconds(0.21, 0.145, 0.1), 2),
]


def test_means_of_rounds() -> None:
    assert abs(ROWS[1]["mean"]["sync"] - 0.21) < 1e-12 and abs(ROWS[1]["ratio"] - 1.0) < 1e-12
    assert ROWS[1]["ideal"] == max(ROWS[1]["mean"]["none"], ROWS[1]["mean"]["reduce"])


def test_hidden_is_counted_against_what_the_link_adds_to_sync() -> None:
    assert hidden(ROWS[1], ROWS[0], "delayed") == "75%"  # 25 of 100 ms are left
    assert hidden(ROWS[1], ROWS[0], "zero") == "0%"
    assert hidden(ROWS[0], ROWS[0], "delayed") == "-"


def test_the_page_has_a_row_for_each_kind_that_ran() -> None:
    text = "\n".join(tables(ROWS))
    assert "| delayed: `HybridOptimizer` | 120.0 | 145.0 |" in text
    assert "| delayed: `HybridOptimizer` | - | 75% |" in text
    assert "| delayed: `HybridOptimizer` | 0.92 | 1.45 |" in text
    assert "| delayed: `HybridOptimizer` | dense | 3 | 2 |" in text
    assert "TrainPipelinePEC" not in text and KINDS["zero"].title in text


def test_the_plot(tmp_path: Path) -> None:
    plot(ROWS, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0
