"""The checkpoints of a run's folder: which one it goes on from, which ones stay, and what a kill left behind."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from dist_rec.common.made import ASIDE, kind_of
from dist_rec.common.strict import ConfigError
from dist_rec.config import CheckpointConfig
from dist_rec.training.checkpoint import BEST, HALF, KIND, LAST, check_resumable
from dist_rec.training.manifest import MANIFEST, Manifest

_log = logging.getLogger(__name__)


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a folder that a run can go on from, by what is in them, not by their names; damaged ones are
    said and left out."""
    found: list[tuple[tuple[int, float], Path]] = []
    for path, problem in _judged(folder):
        if problem is not None:
            _log.warning("passed over: %s", problem)
            continue
        manifest = Manifest.read(path)
        found.append(((manifest.step, manifest.time.timestamp()), path))
    return [path for _, path in sorted(found, reverse=True)]


def thin(folder: Path, config: CheckpointConfig) -> None:
    """Deletes checkpoints to resume from but the newest `keep_last` and those of steps that `keep_every` divides.

    Raises OSError, naming the one that cannot be deleted."""
    if config.keep_last is None:
        return
    # What they hold is looked at when a run goes on from one: here training waits for it.
    steps = [(Manifest.read(path).step, path) for path in _resumable(folder) if (path / MANIFEST).is_file()]
    for step, path in sorted(steps, reverse=True)[config.keep_last :]:
        if not config.keep_every or step % config.keep_every:
            _delete(path)


def _delete(path: Path) -> None:
    half = path.with_name(f"{HALF}{path.name}")  # what is deleted in part is no checkpoint any more
    try:
        path.rename(half)
        shutil.rmtree(half)
    except OSError as error:
        told = f"an old checkpoint could not be deleted: {error.strerror or error}"
        raise OSError(error.errno, told, str(path)) from error


def tidy(folder: Path) -> None:
    """Removes what a killed process had half written, and brings back what it was about to replace. Only for the one
    process that writes there."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(HALF):
            shutil.rmtree(path)
        elif path.name.startswith(".") and ASIDE in path.name:
            for old in path.iterdir():
                if not (folder / old.name).exists():
                    old.rename(folder / old.name)
            shutil.rmtree(path)


def _judged(folder: Path) -> Iterator[tuple[Path, ConfigError | None]]:
    """Every checkpoint to resume from, and what is wrong with it."""
    for path in _resumable(folder):
        try:
            check_resumable(path)
        except ConfigError as error:
            yield path, error
        else:
            yield path, None


def _resumable(folder: Path) -> Iterator[Path]:
    """Checkpoints, whole or not, but those of weights alone."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.name.startswith(".") and path.name not in (BEST, LAST) and kind_of(path) == KIND:
            yield path
