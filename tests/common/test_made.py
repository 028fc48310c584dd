"""Only what the project made, and nobody changed since, is ever replaced."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_rec.common.made import MARKER, NotOurs, check_replaceable, is_unchanged, kind_of, mark, replace


def _make(folder: Path, text: str = "old") -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "rows").write_text(text)
    (folder / "notes").write_text(text)
    mark(folder, "dataset")
    return folder


def _tree(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file() and p.name != MARKER
    }


def _edit(folder: Path) -> None:
    (folder / "notes").write_text("new")  # as long as before
    os.utime(folder / "notes", ns=(0, time.time_ns() + 10**9))


def _damage(folder: Path, text: str) -> None:
    (folder / MARKER).write_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "mine.csv").touch(), "mine.csv was added"),
        (lambda f: (f / "deep" / ".hidden").touch(), "deep/.hidden was added"),
        (lambda f: (f / "mine").mkdir(), "mine was added"),
        (lambda f: (f / "deep" / "mine" / "more").mkdir(parents=True), "deep/mine/more was added"),
        (lambda f: (f / "linked").symlink_to(f.parent), "linked was added"),
        (_edit, "notes was changed"),
        (lambda f: (f / "deep" / "rows").write_text("longer"), "deep/rows was changed"),
        (lambda f: (f / MARKER).unlink(), "did not make, with notes"),
        (lambda f: mark(f, "checkpoint"), "a checkpoint"),
        (lambda f: _damage(f, "{"), "did not make"),
        (lambda f: _damage(f, "[" * 100_000), "did not make"),
        (lambda f: _damage(f, '{"kind": "dataset", "files": []}'), "did not make"),
        (lambda f: _damage(f, '{"kind": "dataset", "files": {"notes": 3}}'), "did not make"),
        (lambda f: (f / MARKER).write_bytes(b"\x80\x04cposix\nsystem\n(S'true'\ntR."), "did not make"),
    ],
)
def test_what_a_user_made_or_changed_is_kept(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    folder, by = _make(tmp_path / "out"), _make(tmp_path / "by", "new")
    change(folder)
    before = _tree(folder)
    for attempt in (lambda: check_replaceable(folder, "dataset"), lambda: replace(folder, by, "dataset")):
        wanted = (
            rf"out: expected a new or empty folder, .* got .*{message}.* say --force \(in Python force=True\) to delete"
        )
        with pytest.raises(NotOurs, match=wanted):
            attempt()
    assert _tree(folder) == before
    replace(folder, by, "dataset", force=True)
    assert _tree(folder) == {"notes": "new", "deep/rows": "new"}


@pytest.mark.parametrize("there", ["nothing", "empty", "ours", "part of ours", "an empty folder of ours"])
def test_what_may_be_replaced(tmp_path: Path, there: str) -> None:
    folder, by = tmp_path / "out", _make(tmp_path / "by", "new")
    if there == "empty":
        folder.mkdir()
    elif there != "nothing":
        _make(folder)
    if there == "part of ours":
        (folder / "notes").unlink()
        (folder / "deep" / "rows").unlink()
    if there == "an empty folder of ours":
        (folder / "none").mkdir()
        mark(folder, "dataset")
    replace(folder, by, "dataset")
    assert _tree(folder) == {"notes": "new", "deep/rows": "new"} and kind_of(folder) == "dataset"
    assert os.listdir(tmp_path) == ["out"]


def test_moved_as_a_whole_it_is_still_ours(tmp_path: Path) -> None:
    folder = _make(tmp_path / "out").rename(tmp_path / "elsewhere")
    check_replaceable(folder, "dataset")


def test_a_link_leads_to_what_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(_make(tmp_path / "out"))
    replace(tmp_path / "link", _make(tmp_path / "by", "new"), "dataset")
    assert (tmp_path / "link").is_symlink() and _tree(tmp_path / "out")["notes"] == "new"
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(NotOurs, match="mine was added"):
        check_replaceable(tmp_path / "link", "dataset")


@pytest.mark.parametrize("force", [False, True])
def test_places_that_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    home, work = _make(tmp_path / "user" / "home"), _make(tmp_path / "here" / "work")
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    (tmp_path / "link").symlink_to(home)
    for place, message in [
        (tmp_path / "file", "a file"),
        (home, "the home folder"),
        (home.parent, "a folder that contains the home folder"),
        (tmp_path / "link", "the home folder"),
        (work, "the working directory"),
        (Path(), "the working directory"),
        (Path(".."), "a folder that contains the working directory"),
        (Path("/"), "a folder that contains the home folder"),
        (Path("/proc"), "a mount point"),
    ]:
        with pytest.raises(NotOurs, match=message):
            check_replaceable(place, "dataset", force=force)


def test_without_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where HOME is not set and the user has no entry
    check_replaceable(_make(tmp_path / "out"), "dataset")


def test_an_empty_folder_in_one_without_a_marker_is_the_user_s(tmp_path: Path) -> None:
    (tmp_path / "out" / "mine").mkdir(parents=True)
    with pytest.raises(NotOurs, match="one that dist_rec did not make, with mine"):
        check_replaceable(tmp_path / "out", "dataset")


def test_the_old_is_back_when_the_new_cannot_come(tmp_path: Path) -> None:
    folder = _make(tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        replace(folder, tmp_path / "nowhere", "dataset")
    assert _tree(folder) == {"notes": "old", "deep/rows": "old"} and os.listdir(tmp_path) == ["out"]


def test_single_files_are_noted_alone(tmp_path: Path) -> None:
    for name in ("ours", "mine"):
        (tmp_path / name).write_text(name)
    assert not is_unchanged(tmp_path / "ours")
    mark(tmp_path, "dataset", [tmp_path / "ours"])
    assert is_unchanged(tmp_path / "ours") and not is_unchanged(tmp_path / "mine")
    (tmp_path / "also").touch()
    mark(tmp_path, "dataset", [tmp_path / "also"])
    assert is_unchanged(tmp_path / "ours") and is_unchanged(tmp_path / "also")
    (tmp_path / "ours").write_text("changed")
    assert not is_unchanged(tmp_path / "ours") and not is_unchanged(tmp_path / "nowhere")
    with pytest.raises(NotOurs, match="mine was added"):
        check_replaceable(tmp_path, "dataset")
