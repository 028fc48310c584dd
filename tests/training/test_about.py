"""What the folder of a run says of it: while it is made, and after every way that it can end."""

import json
from pathlib import Path

import pytest

from dist_rec.common.strict import ConfigError, Strict
from dist_rec.training.about import ABOUT, About, recorded
from dist_rec.training.interrupt import Interrupted
from dist_rec.training.listener import Listeners
from tests.training.test_listener import Heard

ORIGIN = {"commit": "abc1234", "software": "python 3", "hardware": "a CPU", "date": "", "command": "dist-rec train x"}


def _about() -> About:
    return About.now(2, ORIGIN)


def _read(folder: Path) -> About:
    found = About.read(folder)
    assert found is not None
    return found


def test_is_read_as_it_was_written(tmp_path: Path) -> None:
    about = _about()
    about.write(tmp_path)
    assert _read(tmp_path) == about and about.started.tzinfo is not None
    assert (about.commit, about.command, about.state, about.ended) == ("abc1234", "dist-rec train x", "running", None)
    assert [path.name for path in tmp_path.iterdir()] == [ABOUT]


def test_of_a_run_while_it_is_made_and_at_its_end(tmp_path: Path) -> None:
    hears = Heard(Strict())
    with recorded(_about(), tmp_path, Listeners([hears])):
        assert _read(tmp_path).state == "running" and hears.heard == []
    found = _read(tmp_path)
    assert found.state == "finished" and found.ended is not None and found.ended >= found.started
    assert hears.heard == ["finished"]


@pytest.mark.parametrize(
    ("error", "state", "told"),
    [
        (Interrupted(3, Path("step-3")), "interrupted", "interrupted after step 3; resume with: --resume step-3"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (RuntimeError("two\nlines"), "failed", "RuntimeError: two lines"),
        (RuntimeError("x" * 1000), "failed", "RuntimeError: xxx"),
    ],
)
def test_of_a_run_that_ends_early(tmp_path: Path, error: BaseException, state: str, told: str) -> None:
    hears = Heard(Strict())
    with pytest.raises(type(error)), recorded(_about(), tmp_path, Listeners([hears])):
        raise error
    found = _read(tmp_path)
    assert found.state == state and found.told.startswith(told) and len(found.told) <= 500
    assert hears.heard == [state]


def test_a_disk_that_is_full_does_not_hide_why_a_run_ended(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(ZeroDivisionError), recorded(_about(), folder, Listeners()):
        (folder / ABOUT).unlink()
        folder.rmdir()  # nothing can be written there any more
        raise ZeroDivisionError


def test_a_run_of_before_has_none(tmp_path: Path) -> None:
    assert About.read(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"state": "lost"}), "\x80"])
def test_damage_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / ABOUT).write_text(text)
    with pytest.raises(ConfigError, match=r"run.json: damaged: ") as caught:
        About.read(tmp_path)
    assert "\n" not in str(caught.value)
