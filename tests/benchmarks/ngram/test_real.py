"""Arms of the public data, on small sets in their form."""

from pathlib import Path

import pytest

from benchmarks.ngram.parameters import parameters
from benchmarks.ngram.real import FIELDS, PLAIN, WIDER, Row, Run, config_of, page
from tests.golden.data import make_set


@pytest.mark.parametrize("name", FIELDS)
def test_n_grams_and_wider_rows_have_as_many_parameters(name: str, tmp_path: Path) -> None:
    made = make_set(name, tmp_path / "made")
    (tmp_path / name).symlink_to(made)
    counts = {arm: parameters(config_of(tmp_path, Run(name, "longer", arm, 1)))[0] for arm in (PLAIN, WIDER)}
    for field in FIELDS[name]:
        config = config_of(tmp_path, Run(name, "longer", field, 1))
        count, ngrams = parameters(config)
        assert (
            count == pytest.approx(counts[WIDER], abs=config.embedding.dim) and 0 < ngrams < count - counts[PLAIN] + 1
        )
        assert not config.data.folds and config.data.test and config.data.train and config.run.seed == 1


def test_the_page_has_a_line_for_every_arm() -> None:
    rows = [Row("ml-100k", "longer", arm, seed, 9, 0.1, 0.8, 0.7, 0.6, 5) for arm in (PLAIN, "x") for seed in (1, 2)]
    lines = [line for line in page(rows) if line.startswith("| ml-100k")]
    assert lines[1] == "| ml-100k | longer | n-grams of x | 9 | 10% | 0.7000 +- 0.0000 | 0.6000 +- 0.0000 | 2 |"
    assert len(lines) == 2
