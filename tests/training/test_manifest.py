"""Sums of a checkpoint's files: whatever byte changes is found."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_rec.common.stored_file import StoredFile
from dist_rec.common.strict import ConfigError
from dist_rec.training.manifest import MANIFEST, Manifest, check_sizes, check_sums
from dist_rec.training.ranks import Ranks
from tests.helpers.ranks import run_ranks
from tests.training.runs import these_ranks

FILES = {"__0_0.distcp": b"tensors" * 100, "position.json": b"{}", "empty": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    Manifest.now(7, 56, {name: StoredFile.of(tmp_path / name) for name in FILES}).write(tmp_path)
    return tmp_path


def test_says_what_it_is(folder: Path, alone: Ranks) -> None:
    found = Manifest.read(folder)
    assert (found.step, found.requests, list(found.files)) == (7, 56, sorted(FILES))
    assert found.files["empty"].size == 0 and found.files["__0_0.distcp"].size == 700
    check_sizes(folder)
    check_sums(folder, alone.host_group)


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def _flip(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(8 * len(content))
    changed = bytearray(content)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


@pytest.mark.parametrize("damage", [_cut, _flip])
@pytest.mark.parametrize("name", [MANIFEST, "__0_0.distcp", "position.json"])
@pytest.mark.parametrize("seed", range(7))
def test_any_damage_is_refused(
    folder: Path, alone: Ranks, damage: Callable[[bytes, random.Random], bytes], name: str, seed: int
) -> None:
    path = folder / name
    path.write_bytes(damage(path.read_bytes(), random.Random(seed)))
    with pytest.raises(ConfigError, match=name):
        check_sums(folder, alone.host_group)


def test_a_file_that_is_gone_is_named(folder: Path) -> None:
    (folder / "position.json").unlink()
    with pytest.raises(ConfigError, match=r"expected 2 bytes in position.json, got nothing there; was it copied whole"):
        check_sizes(folder)


def test_a_folder_without_sums_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not a checkpoint, or an incomplete one: it has no manifest.json"):
        Manifest.read(tmp_path)


def test_files_of_another_folder_are_not_read(folder: Path) -> None:
    Manifest.now(1, None, {"../empty": StoredFile.of(folder / "empty")}).write(folder)
    (folder.parent / "empty").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"nothing there|got 0"):
        check_sizes(folder)


def _found_by_both(folder: Path) -> str:
    try:
        check_sums(folder, these_ranks().host_group)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", list(FILES)[:2])
def test_what_one_rank_finds_all_say(folder: Path, name: str) -> None:
    """Two ranks read a share each."""
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + b"?")
    first, second = run_ranks(_found_by_both, 2, folder)
    assert first == second and f"{name}: damaged: its SHA-256 is" in first
