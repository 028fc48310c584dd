"""Marks folders that this project made, so that it replaces these and nothing else.

Such a folder has a hidden file `.dist_rec.json` with its kind, and with the size and time of change of every file in
it. A folder without the marker, or with files (or empty folders) added or changed since, is the user's."""

import ctypes
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from stat import S_ISDIR

MARKER = ".dist_rec.json"
ASIDE = "-old-"  # in the name of a folder that holds one that is being replaced
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of linux/fs.h

Record = tuple[int, int]  # size in bytes, time of change in ns


class NotOurs(ValueError):
    """The target of a write exists, and the project did not make it, or somebody changed it since."""


def mark(folder: Path, kind: str, files: Iterable[Path] | None = None) -> None:
    """Writes the marker of a folder that the project made, with all its current files.

    `kind` is one word, such as "dataset" or "checkpoint". With `files`, it adds only these to the files of the folder's
    marker; all other files stay the user's. Raises OSError."""
    known = {} if files is None else _read(folder)[1]
    paths = _files(folder) if files is None else files
    known |= {path.relative_to(folder).as_posix(): _record(path) for path in paths}
    partial = folder / f"{MARKER}.partial"
    partial.write_text(json.dumps({"kind": kind, "files": known}, indent=1) + "\n")
    partial.replace(folder / MARKER)


def kind_of(folder: Path) -> str | None:
    """The `kind` from `mark`; None if the project did not make the folder."""
    return _read(folder)[0]


def is_unchanged(path: Path) -> bool:
    """Whether the file is the same as in the marker of its folder."""
    return path.is_file() and _read(path.parent)[1].get(path.name) == _record(path)


def check_replaceable(folder: Path, kind: str, *, force: bool = False) -> None:
    """Raises NotOurs if writing a `kind` to this place would delete anything but an unchanged `kind` of the project.

    A missing and an empty folder are fine. `force` allows any folder, except for the root, the home folder, the working
    directory, folders that contain one of these, and a mount point. Links are followed. Raises OSError if the place
    cannot be read."""
    place = real(folder)
    wanted = f"{folder}: expected a new or empty folder, or a {kind} that dist_rec made and nobody changed since, got"
    if not place.exists():
        return
    if not place.is_dir():
        raise NotOurs(f"{wanted} a file; name another place")
    for known, name in ((Path(os.path.expanduser("~")), "the home folder"), (Path.cwd(), "the working directory")):
        if place == real(known) or place in real(known).parents:
            got = name if place == real(known) else f"a folder that contains {name}"
            raise NotOurs(f"{wanted} {got}; name a folder of its own")
    if place.is_mount():
        raise NotOurs(f"{wanted} a mount point, which cannot be replaced; name a folder inside it")
    if not force and (strange := _strange(place, kind)):
        advice = "name another folder, or say --force (in Python force=True) to delete all that is there"
        raise NotOurs(f"{wanted} {strange}; {advice}")


def replace(folder: Path, by: Path, kind: str, *, force: bool = False) -> None:
    """Moves the folder `by`, on the same file system, to `folder` and then deletes the old folder.

    Where the system can exchange two names at once, the place has a complete folder at any moment; elsewhere the old
    one is under a hidden name beside it for a moment. Raises OSError, and errors of `check_replaceable`; the old folder
    is then back in its place."""
    check_replaceable(folder, kind, force=force)
    place = real(folder)
    if not place.exists():
        by.rename(place)
        return
    if _exchanged(by, place):
        shutil.rmtree(by)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}{ASIDE}", dir=place.parent))
    try:
        place.rename(aside / place.name)
        try:
            by.rename(place)
        except BaseException:
            (aside / place.name).rename(place)
            raise
    except BaseException:
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchanges the names of two folders at once (Linux, most local file systems); False where that cannot be done."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return rename(_HERE, os.fsencode(one.absolute()), _HERE, os.fsencode(other.absolute()), _EXCHANGE) == 0


def real(path: Path) -> Path:
    """The absolute path with all links followed; it need not exist."""
    return Path(os.path.realpath(path))


def _strange(folder: Path, kind: str) -> str:
    """The difference of a folder from an unchanged `kind` of the project; empty if there is none."""
    first = next(_files(folder), None)
    if first is None and kind_of(folder) is None:
        return ""
    found, known = _read(folder)
    if found is None:
        return f"one that dist_rec did not make, with {(first or folder / MARKER).relative_to(folder)}"
    if found != kind:
        return f"a {found}"
    holding = {parent.as_posix() for name in known for parent in PurePosixPath(name).parents}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if name in holding and path.is_dir():
            continue  # its marked files are gone
        if name not in known:
            return f"one to which {name} was added"
        if known[name] != _record(path):
            return f"one whose {name} was changed"
    return ""


def _files(folder: Path) -> Iterator[Path]:
    """Files, links and empty folders below, without the marker, in order; links are not followed."""

    def fail(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        linked = [name for name in folders if Path(place, name).is_symlink()]
        if not folders and not files and Path(place) != folder:
            yield Path(place)
        for name in sorted([*files, *linked]):
            if (path := Path(place, name)) != folder / MARKER or path.is_symlink():
                yield path


def _record(path: Path) -> Record:
    stat = path.lstat()
    if S_ISDIR(stat.st_mode):
        return 0, 0  # an empty folder has no other properties
    return stat.st_size, stat.st_mtime_ns


def _read(folder: Path) -> tuple[str | None, dict[str, Record]]:
    """Kind and files of the marker; None and no files without a valid marker."""
    path = folder / MARKER
    if path.is_symlink() or not path.is_file():
        return None, {}
    try:
        tree = json.loads(path.read_bytes())
        files = {str(name): (int(size), int(changed)) for name, (size, changed) in tree["files"].items()}
        return str(tree["kind"]), files
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None, {}
