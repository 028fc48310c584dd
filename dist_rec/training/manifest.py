"""The files of a checkpoint with their sizes and SHA-256: `manifest.json`, written last.

Every rank sums up the files that it wrote, and a share of all files when they are checked."""

import hashlib
import json
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

import torch.distributed as dist
from pydantic import BaseModel, ConfigDict

from dist_rec.common.json_file import read_json
from dist_rec.common.stored_file import StoredFile
from dist_rec.common.strict import ConfigError
from dist_rec.training.together import from_all

MANIFEST = "manifest.json"


class Manifest(BaseModel):
    """What a checkpoint is and holds.

    - `step` of the run, `requests` that it had trained on by then (None if it does not say), `time` in UTC
    - `files` by name, without the manifest and those in `best`, which has its own
    - `sha256` of all the others
    """

    model_config = ConfigDict(frozen=True)

    step: int
    requests: int | None
    time: datetime
    files: dict[str, StoredFile]
    sha256: str = ""

    @classmethod
    def now(cls, step: int, requests: int | None, files: dict[str, StoredFile]) -> "Manifest":
        made = cls(step=step, requests=requests, time=datetime.now(timezone.utc), files=dict(sorted(files.items())))
        return made.model_copy(update={"sha256": made._summed})

    @classmethod
    def read(cls, checkpoint: Path) -> "Manifest":
        """Raises ConfigError if the folder has none, or one that is damaged."""
        path = checkpoint / MANIFEST
        if (found := read_json(path, cls, ConfigError)) is None:
            raise ConfigError(
                f"{checkpoint}: not a checkpoint, or an incomplete one: it has no {MANIFEST}; expected a folder made "
                "by checkpoint.every_steps"
            )
        if found.sha256 != found._summed:
            raise ConfigError(f"{path}: damaged: its SHA-256 is {found._summed}, expected {found.sha256}")
        return found

    def write(self, checkpoint: Path) -> None:
        (checkpoint / MANIFEST).write_text(self.model_dump_json(indent=1) + "\n")

    @property
    def _summed(self) -> str:
        tree = self.model_dump(mode="json", exclude={"sha256"})
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def sums_by_all(own: Iterable[Path], group: dist.ProcessGroup) -> dict[str, StoredFile]:
    """The files of all ranks by name; `own` are those of this rank. Comm: one all-gather of sizes and sums.

    Raises OSError, on all ranks if one cannot read its files."""
    ranks = from_all(lambda: {path.name: StoredFile.of(path) for path in own}, group)
    return {name: of for files in ranks for name, of in files.items()}


def check_sizes(checkpoint: Path) -> Manifest:
    """Raises ConfigError unless every file of the manifest is there with its size."""
    manifest = Manifest.read(checkpoint)
    for name, of in manifest.files.items():
        path = checkpoint / name
        if Path(name).name != name or not path.is_file() or path.stat().st_size != of.size:
            came = f"{path.stat().st_size}" if path.is_file() else "nothing there"
            raise ConfigError(
                f"{checkpoint}: the checkpoint is damaged or incomplete: expected {of.size} bytes in {name}, got "
                f"{came}; was it copied whole?"
            )
    return manifest


def check_sums(checkpoint: Path, group: dist.ProcessGroup) -> None:
    """Reads all files, every rank of the group its share. Comm: one all-gather of messages.

    Raises ConfigError on all ranks unless every byte is as it was written."""
    ranks: list[str | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(ranks, _first_fault(checkpoint, dist.get_rank(group), len(ranks)), group=group)
    if (fault := next(filter(None, ranks), None)) is not None:
        raise ConfigError(fault)


def _first_fault(checkpoint: Path, rank: int, ranks: int) -> str | None:
    try:
        manifest = check_sizes(checkpoint)
        for name in list(manifest.files)[rank::ranks]:
            found = StoredFile.of(checkpoint / name)
            if found != manifest.files[name]:
                return (
                    f"{checkpoint / name}: damaged: its SHA-256 is {found.sha256}, expected "
                    f"{manifest.files[name].sha256}; was it copied whole?"
                )
    except ConfigError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or checkpoint}: {error.strerror or error}"
    return None
