import pytest

from benchmarks.sharing.report import difference, page
from benchmarks.sharing.study import FIELDS, METRICS


def _row(form: str, change: str, seed: int, auc: float) -> dict[str, str]:
    row = dict.fromkeys(FIELDS, "0.5") | {"data": "synthetic", "form": form, "change": change, "seed": str(seed)}
    return row | dict.fromkeys(METRICS, "1.0") | {"epoch": "1", "auc": str(auc), "best_auc": "0.9"}


def test_the_page_compares_the_same_seeds() -> None:
    rows = [_row("apart", "", seed, 0.7 + seed / 100) for seed in (1, 2, 3)]
    rows += [_row("whole users", "", seed, 0.69 + seed / 100) for seed in (3, 1, 2)]
    rows += [_row("whole users", "row rate x 2", seed, 0.6) for seed in (2,)]
    text = "\n".join(page(rows))
    assert "256 labels a step in every form; best reachable AUC 0.9000." in text
    numbers = "1.0000 | 1.0000 (0.0000) | 1.0000 | 1.0000 | 0.5000"
    assert f"| apart | 256 | 1 | 3 | 0.7200 (0.0100) | {numbers} |" in text
    same = "+0.0000 +- 0.0000, 0 of 3 up"
    assert f"| whole users | 1 | **-0.0100 +- 0.0000**, 0 of 3 up | {same} | {same} |" in text
    changed = "| whole users | row rate x 2 | 1 | 1 | 0.6000 | 1.0000 | 1.0000 | 1.0000 | 1.0000 | 0.5000 |"
    assert f"{changed} -0.1100, 0 of 1 up |" in text
    assert "ml-100k" not in text


def test_a_difference_is_bold_where_its_interval_excludes_zero() -> None:
    base = {1: 0.0, 2: 0.0, 3: 0.0, 4: 9.0}  # seed 4 has no other
    assert difference({1: 1.0, 2: 1.1, 3: 1.2}, base) == "**+1.1000 +- 0.2483**, 3 of 3 up"
    assert difference({1: 0.0, 2: 0.1, 3: 0.2}, base) == "+0.1000 +- 0.2483, 2 of 3 up"
    assert difference({2: 0.1}, base) == "+0.1000, 1 of 1 up" and difference({}, base) == ""


@pytest.mark.parametrize("seeds", [6, 9])
def test_more_seeds_than_the_table_of_student_has(seeds: int) -> None:
    values = {seed: float(seed) for seed in range(seeds)}
    assert difference(values, dict.fromkeys(values, 0.0)) == f"+{(seeds - 1) / 2:.4f}, {seeds - 1} of {seeds} up"
