"""Which folders hold runs, which do not, and what a name means."""

from pathlib import Path

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.runs.find import Found, chosen, find_runs
from tests.runs.folders import write_run, write_study


@pytest.fixture
def found(tmp_path: Path) -> Found:
    write_run(tmp_path / "runs" / "b")
    write_study(tmp_path / "runs" / "a", [0.7, 0.8])
    write_run(tmp_path / "runs" / "a-2")
    (tmp_path / "runs" / "b" / "checkpoints" / "last").mkdir(parents=True)
    (tmp_path / "runs" / "notes" / "old" / "older").mkdir(parents=True)
    (tmp_path / "runs" / ".hidden").mkdir()
    (tmp_path / "runs" / "summary.txt").write_text("")
    return find_runs(tmp_path / "runs")


def test_runs_at_any_depth_and_folders_that_are_none(found: Found, tmp_path: Path) -> None:
    assert [run.name for run in found.runs] == ["a/seed-1", "a/seed-2", "a-2", "b"]
    assert found.others == [f"{tmp_path / 'runs' / 'notes'}: no run; expected metrics.jsonl in it"]


def test_a_run_itself(tmp_path: Path) -> None:
    write_run(tmp_path / "x")
    assert [run.name for run in find_runs(tmp_path / "x").runs] == ["x"]


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    write_run(tmp_path / "elsewhere" / "x")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "runs")
    found = find_runs(tmp_path / "runs")
    assert [run.name for run in found.runs] == ["linked/x"] and found.others == []


def test_a_damaged_run_does_not_hide_the_others(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name)
    (tmp_path / "a" / "result.json").write_text("{")
    found = find_runs(tmp_path)
    assert [(run.name, len(run.damage)) for run in found.runs] == [("a", 1), ("b", 0)]


def test_names_of_runs_and_of_studies(found: Found) -> None:
    assert [run.name for run in chosen(found, ["b", "a"])] == ["b", "a/seed-1", "a/seed-2"]
    assert [run.name for run in chosen(found, ["a/seed-2", "a/"])] == ["a/seed-2", "a/seed-1"]
    with pytest.raises(ConfigError, match=r"a/seed-3: no such run; did you mean 'a/seed-[12]'\?"):
        chosen(found, ["a/seed-3"])
    with pytest.raises(ConfigError, match=r"zzz: no such run; known here: a, a-2, b$"):
        chosen(found, ["zzz"])


@pytest.mark.parametrize(
    ("place", "told"),
    [("gone", "got nothing there"), ("file", "got a file"), ("empty", "no run in it; expected folders that")],
)
def test_nothing_to_list(tmp_path: Path, place: str, told: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty" / "x").mkdir(parents=True)
    with pytest.raises(ConfigError, match=told):
        find_runs(tmp_path / place)
