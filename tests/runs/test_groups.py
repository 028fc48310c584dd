"""Groups are runs that differ in the seed alone."""

from pathlib import Path

from dist_rec.runs.find import find_runs
from dist_rec.runs.groups import Group, differing, groups_of
from tests.runs.folders import write_run, write_study


def _groups(folder: Path) -> list[Group]:
    return groups_of(find_runs(folder).runs)


def test_seeds_names_and_places_do_not_make_a_group(tmp_path: Path) -> None:
    write_study(tmp_path / "a", [0.7, 0.8])
    elsewhere = {"seed": 9, "name": "other", "out": "elsewhere", "listeners": ["package.module:Name"]}
    write_run(tmp_path / "b", run=elsewhere)
    write_run(tmp_path / "c", optim={"lr": 0.5})
    found = _groups(tmp_path)
    assert [(of.letter, [run.name for run in of.runs]) for of in found] == [
        ("A", ["a/seed-1", "a/seed-2", "b"]),
        ("B", ["c"]),
    ]
    assert differing(found) == {"optim.lr": ["0.01", "0.5"]}


def test_a_setting_that_only_some_have(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", init={"checkpoint": "x"})
    found = differing(_groups(tmp_path))
    assert found["init"] == ["null", "-"] and found["init.checkpoint"] == ["-", '"x"']


def test_runs_without_a_recipe_are_alone_and_differ_in_nothing(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_run(tmp_path / name, run={"seed": ord(name)})
    for name in ("a", "b"):
        (tmp_path / name / "recipe.yaml").unlink()
    found = _groups(tmp_path)
    assert [len(of.runs) for of in found] == [1, 1, 1] and differing(found) == {}


def test_a_seed_counts_once_and_only_when_it_has_finished(tmp_path: Path) -> None:
    write_run(tmp_path / "first", 0.6, minutes=5, run={"seed": 1})
    write_run(tmp_path / "again", 0.7, minutes=9, run={"seed": 1})
    write_run(tmp_path / "before", 0.5, minutes=1, run={"seed": 1})
    write_run(tmp_path / "early", None, state="failed", run={"seed": 2})
    write_run(tmp_path / "third", 0.8, run={"seed": 3})
    (group,) = _groups(tmp_path)
    assert group.values(("test", "click"), "auc") == {1: 0.7, 3: 0.8}
    assert group.values(("test", "click"), "none") == group.values(("test", "buy"), "auc") == {}
    assert group.notes() == [
        "A: not counted, for they have not finished: early",
        "A: not counted, for a later run has their seed: before, first",
    ]


def test_commits_that_differ_are_told(tmp_path: Path) -> None:
    for name, commit in (("a", "abc1234"), ("b", "def5678")):
        path = write_run(tmp_path / name, run={"seed": ord(name)}) / "run.json"
        path.write_text(path.read_text().replace("abc1234", commit))
    (group,) = _groups(tmp_path)
    assert group.notes() == ["A: runs of several commits: abc1234, def5678"]


def test_there_are_letters_for_all(tmp_path: Path) -> None:
    for number in range(28):
        write_run(tmp_path / f"{number:02}", embedding={"lr": 1.0 + number})
    assert [of.letter for of in _groups(tmp_path)][24:] == ["Y", "Z", "A1", "B1"]
