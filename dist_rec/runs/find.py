"""All runs below a folder, and those that are chosen by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_rec.common.strict import ConfigError, nearest
from dist_rec.runs.read import Run, is_run, read_run

INSIDE = ("checkpoints", "tensorboard", "nonfinite")  # of the folder of a run, in which there are no others


@dataclass(frozen=True)
class Found:
    """`others`: sentences about folders without a run in them, or that cannot be read."""

    runs: list[Run]
    others: list[str]


def find_runs(folder: Path) -> Found:
    """By the names of their folders. Raises ConfigError if there is no folder, or no run in it."""
    if not folder.is_dir():
        came = "a file" if folder.exists() else "nothing there"
        raise ConfigError(f"{folder}: expected a folder with runs, such as run.out of a recipe, got {came}")
    found = Found([], [])
    _search(folder, folder, found, set())
    if not found.runs:
        raise ConfigError(f"{folder}: no run in it; expected folders that `dist-rec train` wrote, with metrics.jsonl")
    return found


def chosen(found: Found, names: Sequence[str]) -> list[Run]:
    """The runs of these names, each once; the name of a folder above runs, such as that of a study, means all of them.
    Raises ConfigError for a name of none."""
    runs: dict[str, Run] = {}
    for name in names:
        wanted = name.rstrip("/")
        mine = [run for run in found.runs if run.name == wanted or run.name.startswith(f"{wanted}/")]
        if not mine:
            raise ConfigError(f"{name}: no such run; {nearest(wanted, _known(found, wanted))}")
        runs |= {run.name: run for run in mine}
    return list(runs.values())


def _known(found: Found, wanted: str) -> list[str]:
    """What stands where the wanted name does: for one without a slash the folders at the top."""
    depth = wanted.count("/") + 1
    return list(dict.fromkeys("/".join(run.name.split("/")[:depth]) for run in found.runs))


def _search(folder: Path, top: Path, found: Found, seen: set[Path]) -> bool:
    """Whether there is a run in the folder or below. Links are followed, each place once."""
    place = folder.resolve()
    if place in seen:
        return True
    seen.add(place)
    try:
        below = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())
        here = is_run(folder)
    except OSError as error:
        found.others.append(f"{folder}: cannot be read: {error.strerror or error}")
        return True
    if here:
        name = folder.relative_to(top).as_posix()
        found.runs.append(read_run(folder, folder.resolve().name if name == "." else name))
    inside = [_search(path, top, found, seen) for path in below if not here or path.name not in INSIDE]
    # Of nested folders without a run the outermost is named.
    if folder != top and not here and not any(inside):
        found.others[:] = [other for other in found.others if not other.startswith(f"{folder}/")]
        found.others.append(f"{folder}: no run; expected metrics.jsonl in it")
    return here or any(inside)
