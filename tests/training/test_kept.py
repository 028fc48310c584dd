"""Which checkpoints of a folder count, stay and go."""

from pathlib import Path

import pytest

from dist_rec.common.made import mark
from dist_rec.config import CheckpointConfig
from dist_rec.training.checkpoint import BEST, HALF
from dist_rec.training.kept import newest_first, thin, tidy
from dist_rec.training.ranks import Ranks
from tests.training.runs import make_config, run


@pytest.fixture
def folder(data: Path, tmp_path: Path, alone: Ranks) -> Path:
    """Of a run of six steps with a checkpoint each."""
    config = make_config(data, tmp_path, checkpoint={"every_steps": 1}, run={"select_best": "auc", "eval_every": 3})
    run(config, alone)
    return tmp_path / "run" / "checkpoints"


def _names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_the_newest_is_found_by_what_is_in_it(folder: Path) -> None:
    assert _names(newest_first(folder)) == ["step-6", "step-5", "step-4", "step-3", "step-2", "step-1"]
    (folder / "step-2").rename(folder / "zz")
    (folder / "step-6").rename(folder / "step-0")
    assert _names(newest_first(folder)) == ["step-0", "step-5", "step-4", "step-3", "zz", "step-1"]


@pytest.mark.parametrize("name", [".metadata", "position.json", "manifest.json", "made_with.json", "__0_0.distcp"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_damaged_one_is_passed_over_and_said(
    folder: Path, name: str, gone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "step-6" / name
    content = path.read_bytes()
    path.unlink()
    if not gone:
        path.write_bytes(content[: len(content) // 2])
    assert _names(newest_first(folder))[0] == "step-5"
    assert "passed over: " in caplog.text and "step-6" in caplog.text


def test_other_folders_do_not_count(folder: Path) -> None:
    (folder / "notes").mkdir()
    (folder / f"{HALF}step-7-abc").mkdir()
    (folder / "step-6" / "position.json").rename(folder / "position.json")
    assert _names(newest_first(folder))[0] == "step-5"
    assert newest_first(folder / "nowhere") == []


def test_the_newest_and_every_nth_stay(folder: Path) -> None:
    thin(folder, CheckpointConfig())
    assert len(newest_first(folder)) == 6
    thin(folder, CheckpointConfig(keep_last=2, keep_every=3))
    assert sorted(path.name for path in folder.iterdir()) == [BEST, "last", "step-3", "step-5", "step-6"]
    thin(folder, CheckpointConfig(keep_last=1))
    assert sorted(path.name for path in folder.iterdir()) == [BEST, "last", "step-6"]


def test_what_a_kill_left_is_removed_and_what_it_replaced_comes_back(folder: Path) -> None:
    (folder / f"{HALF}step-7-abc").mkdir()
    aside = folder / ".step-6-old-xyz"
    aside.mkdir()
    (folder / "step-6").rename(aside / "step-6")
    other = folder / ".step-5-old-xyz"
    other.mkdir()
    (folder / "step-1").rename(other / "step-5")  # the new step-5 is there already
    tidy(folder)
    assert sorted(path.name for path in folder.iterdir()) == [BEST, "last", *(f"step-{step}" for step in range(2, 7))]
    assert _names(newest_first(folder)) == ["step-6", "step-5", "step-4", "step-3", "step-2"]
    tidy(folder / "nowhere")


def test_a_marked_folder_without_files_is_no_checkpoint(folder: Path) -> None:
    (folder / "step-9").mkdir()
    mark(folder / "step-9", "checkpoint")
    assert _names(newest_first(folder))[0] == "step-6"
