from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.sharing import study
from benchmarks.sharing.forms import forms, make_synthetic
from benchmarks.sharing.study import CHANGES, DATA, Cell, cells, read, run_study
from dist_rec.config import load_config
from dist_rec.data.synthetic.history import SynthConfig

TOY = SynthConfig(requests=60, candidates=4, users=6, mean_length=8, max_length=20, items=50)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a toy in the place of every data set."""
    for name, data in DATA.items():
        toy = replace(data, make=_toy, levels=(1, 4), labels=32, epochs=2, epochs_of_changes=1)
        toy = replace(toy, changes=(("whole users", "row rate x 2"),) if data.changes else ())
        monkeypatch.setitem(DATA, name, toy)
        toy.make(tmp_path / name, tmp_path)
    return tmp_path


def _toy(out: Path, source: Path) -> None:
    make_synthetic(out, TOY, (1, 4), 32)


def test_every_form_has_the_same_labels_in_a_step_and_every_change_its_rate(root: Path) -> None:
    for name, data in DATA.items():
        recipe = load_config(study.RECIPES / data.recipe)
        for form, change in ((form, change) for form in forms(data.levels) for change in CHANGES):
            config = Cell(name, form, change, 1).config(root)
            assert (config.data.batch_size or 0) * forms(data.levels)[form].candidates == data.labels
            rows, dense = config.embedding.lr / recipe.embedding.lr, config.optim.lr / recipe.optim.lr
            wanted = {"row rate x 2": (2, 1), "dense rate / 2": (1, 0.5)}
            assert (rows, dense) == wanted.get(change, (1, 1))
            assert config.data.leave_out == (["user"] if change == "no user id" else [])


def test_changes_are_of_forms_that_exist() -> None:
    for data in DATA.values():
        assert {form for form, _ in data.changes} <= set(forms(data.levels))
        assert {change for _, change in data.changes} <= set(CHANGES)
        assert data.epochs_of_changes <= data.epochs, "a change is compared epoch by epoch"


def test_a_run_gives_a_row_per_epoch_and_is_not_repeated(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tables = [tmp_path / "first.csv", tmp_path / "second.csv"]
    todo = [cell for cell in cells(["synthetic"], 1) if cell.form == "whole users"]
    run_study(tables[1:], todo, (0, 2), tmp_path)
    run_study(tables, todo, (0, 1), tmp_path)
    kept = [[(row["change"], row["epoch"]) for row in read(table)] for table in tables]
    assert kept == [[("row rate x 2", "1")], [("", "1"), ("", "2")]]
    for row in (row for table in tables for row in read(table)):
        assert 0 < float(row["auc"]) < 1 and 0 <= float(row["ece"]) < 1
        assert float(row["train_ne"]) == pytest.approx(1, abs=0.3), "in units of the entropy of the labels of train"
    run_study(tables, todo, (0, 1), tmp_path)
    assert f"{tables[0]}: nothing left to run" in capfd.readouterr().out
