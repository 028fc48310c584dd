"""Arms of equal size, rows that are kept, and the page."""

from pathlib import Path

from benchmarks.ngram.markov import MarkovConfig, write_markov
from benchmarks.ngram.parameters import parameters
from benchmarks.ngram.study import PARAMETERS, WIDER, Arm, Row, arms, config_of, page, read, sized
from benchmarks.tables import append


def test_every_arm_has_as_many_parameters(tmp_path: Path) -> None:
    write_markov(tmp_path / "data", MarkovConfig(requests=64))
    shares = []
    for arm in arms():
        dim, rows = sized(tmp_path / "data", arm)
        count, ngrams = parameters(config_of(tmp_path / "data", Arm(arm.name, arm.amplify, dim, arm.merge), rows, 0))
        assert abs(count - PARAMETERS) < 0.01 * PARAMETERS, arm
        shares += [ngrams / count] if arm.name == "N3K2" else []
    assert min(shares) < 0.1 and max(shares) > 0.75


def test_rows_are_read_as_they_were_written_and_every_table_is_on_the_page(tmp_path: Path) -> None:
    rows = [
        Row(arm.name, arm.amplify, arm.dim or 660, arm.merge, seed, 9, 1000, 0.5, 0.6 + seed / 100, 0.7, 0.85)
        for arm in arms()
        for seed in (1, 2)
    ]
    for row in rows:
        append(tmp_path / "table.csv", row)
    assert read(tmp_path / "table.csv") == rows and read(tmp_path / "nothing.csv") == []
    text = "\n".join(page(rows))
    assert text.count("0.6150 +- 0.0071") == 1 + 12 + 7 + 4 and f"| {WIDER} | 4 | on |" in text
