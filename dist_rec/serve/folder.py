"""The folder of an export: what a model needs to score, and nothing that could run.

- `export.json`: what it is, with size and SHA-256 of every other file; written last
- `model.json`: schema, `model` section of the recipe, and how tables are stored
- `dense.safetensors`: the weights of the ranker
- `tables/<table>.safetensors`: rows (tables.py); `ids/<table>.safetensors` of tables of dynamic ids
- `attributes/`: what belongs to ids, as in a dataset
- `reference.json`: requests, and the logits that the trainer and this export give for them
"""

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dist_rec.common.stored_file import StoredFile
from dist_rec.common.strict import ConfigError
from dist_rec.data.attribute_store import FOLDER as ATTRIBUTES
from dist_rec.serve.tables import Stored

EXPORT, MODEL, DENSE, REFERENCE = "export.json", "model.json", "dense.safetensors", "reference.json"
TABLES, IDS = "tables", "ids"
FORMAT = 1
KIND = "export"  # of the folder, see common/made.py


class TableFile(BaseModel):
    """How a table is `stored`, its `rows` and their width `dim`."""

    model_config = ConfigDict(frozen=True)

    stored: Stored
    rows: int = Field(ge=1)
    dim: int = Field(ge=1)


class ModelFile(BaseModel):
    """`model.json`: the schema as a server reads it, the `model` section of the recipe as a tree, the newest events
    that are read of a sequence (None: all), and every table."""

    model_config = ConfigDict(frozen=True)

    schema_: dict[str, Any]
    model: dict[str, Any]
    max_length: int | None
    dedup: bool
    tables: dict[str, TableFile]


class Export(BaseModel):
    """`export.json`.

    - `version` of the model: follows from the checkpoint, from how its tables are stored, and from attributes of ids
    - `base`: of a delta, the version that it makes this one of; None: all of the model is here
    - `run`: name, `step` and `requests` of the run that it is from; `checkpoint` its manifest's sum
    - `time` in UTC, `versions` of packages
    - `files` by their path inside the folder; `sha256` of all the others
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = FORMAT
    version: str
    base: str | None = None
    run: str
    step: int
    requests: int | None
    checkpoint: str
    time: datetime
    versions: dict[str, str]
    files: dict[str, StoredFile]
    sha256: str = ""

    @classmethod
    def of(cls, folder: Path, checkpoint: str, **more: Any) -> "Export":
        """Of the files in a folder. Raises OSError."""
        files = {name: StoredFile.of(folder / name) for name in _files(folder)}
        # What scores follow from: the weights, how they are stored, and attributes, which the data may have anew.
        sums = [of.sha256 for name, of in files.items() if name == MODEL or name.startswith(f"{ATTRIBUTES}/")]
        version = hashlib.sha256(" ".join([checkpoint, *sums]).encode()).hexdigest()[:16]
        now = datetime.now(timezone.utc)
        made = cls(version=version, checkpoint=checkpoint, time=now, files=files, **more)
        return made.model_copy(update={"sha256": made._summed})

    @classmethod
    def read(cls, folder: Path) -> "Export":
        """Raises ConfigError if the folder is no export, or one whose manifest is damaged or of a later format."""
        path = folder / EXPORT
        if not path.is_file():
            raise ConfigError(f"{folder}: not an export: it has no {EXPORT}; expected a folder made by dist-rec export")
        try:
            found = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise ConfigError(f"{path}: damaged, or of another version of dist_rec: {place}: {first['msg']}") from None
        if found.sha256 != found._summed:
            raise ConfigError(f"{path}: damaged: expected SHA-256 {found._summed} of what it says, got {found.sha256}")
        return found

    @property
    def _summed(self) -> str:
        tree = self.model_dump(mode="json", exclude={"sha256"})
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()

    def check(self, folder: Path) -> None:
        """Reads every file. Raises ConfigError unless all are there as they were written, and no others are asked
        for."""
        for name, of in self.files.items():
            path = folder / name
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not path.is_file():
                raise ConfigError(f"{folder}: the export is incomplete: expected a file {name}, got none there")
            if (size := path.stat().st_size) != of.size:
                raise ConfigError(f"{path}: damaged: expected {of.size} bytes, got {size}; was it copied whole?")
            if (found := StoredFile.of(path)) != of:
                raise ConfigError(f"{path}: damaged: expected SHA-256 {of.sha256}, got {found.sha256}")
        for needed in (MODEL, DENSE, REFERENCE):
            if needed not in self.files:
                raise ConfigError(f"{folder / EXPORT}: damaged: expected {needed} among its files")

    def write(self, folder: Path) -> None:
        (folder / EXPORT).write_text(self.model_dump_json(indent=1) + "\n")


def read_model(folder: Path) -> ModelFile:
    """Raises ConfigError if the file is not as expected."""
    path = folder / MODEL
    try:
        return ModelFile.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise ConfigError(f"{path}: damaged: {' '.join(str(error).split())}") from None


def _files(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(path.relative_to(folder).as_posix() for path in found if path.name != EXPORT)
