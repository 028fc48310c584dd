"""What a prediction is made from, and its manifest: `prediction.json`, which is there from the start and says when the
prediction is whole."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from dist_rec.common.json_file import read_json
from dist_rec.common.provenance import versions
from dist_rec.common.stored_file import StoredFile
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.errors import DataError
from dist_rec.data.schema import Schema
from dist_rec.data.writer import staged_file
from dist_rec.predict.columns import More
from dist_rec.predict.parts import Parts
from dist_rec.training.made_with import MadeWith, differences, flat, model_settings
from dist_rec.training.manifest import Manifest

MANIFEST = "prediction.json"
# Settings of the data that change what a model reads, or which requests are in a batch.
OF_DATA = ("max_length", "leave_out", "filter", "ngram", "numbers", "reader", "dedup", "eval_batch_size")


class Job(BaseModel):
    """Everything that the files of a prediction depend on. Two jobs that are equal make the same files.

    - `checkpoint`: SHA-256 of its manifest, which has the sums of its files, and `step` of the run
    - `recipe`: the settings that matter, by their dotted names
    - `data`: size and SHA-256 of every file that is read
    - `requests` in all and in a part, and the schema of what is read, in `options`
    - `device` and `versions` of packages, on which the last bits depend
    """

    model_config = ConfigDict(frozen=True)

    checkpoint: str
    step: int
    recipe: dict[str, Any]
    data: dict[str, StoredFile]
    options: dict[str, Any]
    device: str
    versions: dict[str, str]

    @classmethod
    def of(
        cls, config: Config, checkpoint: Path, data: dict[str, StoredFile], options: dict[str, Any], device: str
    ) -> "Job":
        """Raises ConfigError if the checkpoint has no manifest or a damaged one."""
        return cls(
            checkpoint=Manifest.read(checkpoint).sha256,
            step=MadeWith.read(checkpoint).step,
            recipe=settings(config),
            data=data,
            options=options,
            device=device,
            versions=versions(),
        )

    @property
    def sha256(self) -> str:
        return digest(self.model_dump(mode="json"))


class Part(BaseModel):
    """A finished part: `first` and number of `requests`, `candidates`, those of them with a probability that is not
    finite, and its file."""

    model_config = ConfigDict(frozen=True)

    name: str
    first: int
    requests: int
    candidates: int
    nonfinite: int
    file: StoredFile
    job: str


class Prediction(BaseModel):
    """The manifest. `is_complete` once every part is there; `parts` then has all of them, in order. `sha256` of the
    job, `recipe_sha256` of its recipe."""

    model_config = ConfigDict(frozen=True)

    job: Job
    sha256: str
    recipe_sha256: str
    is_complete: bool = False
    requests: int = 0
    candidates: int = 0
    nonfinite: int = 0
    parts: tuple[Part, ...] = ()

    @classmethod
    def of(cls, job: Job, parts: tuple[Part, ...] = ()) -> "Prediction":
        return cls(
            job=job,
            sha256=job.sha256,
            recipe_sha256=digest(job.recipe),
            is_complete=bool(parts),
            requests=sum(part.requests for part in parts),
            candidates=sum(part.candidates for part in parts),
            nonfinite=sum(part.nonfinite for part in parts),
            parts=parts,
        )

    @classmethod
    def read(cls, folder: Path) -> "Prediction | None":
        """None if there is none. Raises DataError if it is damaged."""
        return read_json(folder / MANIFEST, cls, lambda told: DataError(f"{told}; name another folder (--out)"))

    def write(self, folder: Path) -> None:
        with staged_file(folder / MANIFEST) as temporary:
            temporary.write_text(self.model_dump_json(indent=1) + "\n")
            to_disk(temporary)
        to_disk(folder)

    def check_same(self, job: Job, folder: Path) -> None:
        """Raises ConfigError with what differs, if this is a prediction of another job."""
        if self.sha256 == job.sha256:
            return
        told = differences(_told(self.job), _told(job))
        raise ConfigError(
            f"{folder}: a prediction was begun here from something else; expected the same checkpoint, recipe, data "
            "and options, or another folder (--out)\n  " + "\n  ".join(told).replace("when it was saved", "then")
        )


def settings(config: Config) -> dict[str, Any]:
    """The settings of a recipe that predictions depend on, by their dotted names. Its tables are the checkpoint's, and
    how they are spread over ranks changes no number."""
    data = config.data.model_dump(mode="json")
    found = model_settings(config, resumed=False)
    for name in OF_DATA:
        found |= flat(f"data.{name}", data[name])
    return found | {"run.deterministic": config.run.deterministic}


def options_of(more: More, parts: Parts, schema: Schema) -> dict[str, Any]:
    """Of the columns that are written, and how many requests there are, in all and in a part."""
    return {
        "logits": more.logits,
        "embeddings": more.embeddings,
        "requests per part": parts.per_part,
        "requests": parts.requests,
        "schema (SHA-256)": digest(schema.model_dump(mode="json")),
    }


def to_disk(path: Path) -> None:
    """Waits until the bytes of a file, or the names in a folder, are on the disk, so that no name comes there before
    its bytes."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def digest(tree: Any) -> str:
    """SHA-256 of what JSON can say."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _told(job: Job) -> dict[str, Any]:
    """What is compared, by name."""
    found = {"checkpoint (SHA-256 of its manifest)": job.checkpoint}
    found |= {f"recipe, {name}": value for name, value in job.recipe.items()}
    found |= {f"data, {name}": f"{of.size} bytes, SHA-256 {of.sha256}" for name, of in job.data.items()}
    found |= {f"option, {name}": value for name, value in job.options.items()}
    found |= {f"version, {name}": value for name, value in job.versions.items()}
    return found | {"device": job.device}
