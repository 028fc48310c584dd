"""Requests with known scores in an export, which every loader repeats before it serves."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from dist_rec.common.strict import ConfigError
from dist_rec.data.errors import DataError
from dist_rec.predict.rows import valid_rows
from dist_rec.serve.folder import REFERENCE

if TYPE_CHECKING:
    from dist_rec.serve.engine import Engine

TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}  # of a logit, beside the same share of its size


class Reference(BaseModel):
    """- `requests` as a client would send them
    - `trainer`, `exported`: (C, T) logits of all their candidates, of the trainer, and of the export where it was made,
      in fp32; they differ by what tables lost when they were stored
    """

    model_config = ConfigDict(frozen=True)

    requests: list[dict[str, Any]]
    trainer: list[list[float]]
    exported: list[list[float]]

    @property
    def lost(self) -> float:
        """The farthest that a logit of the export is from that of the trainer."""
        return float(np.abs(np.array(self.trainer) - np.array(self.exported)).max(initial=0.0))

    def write(self, folder: Path) -> None:
        (folder / REFERENCE).write_text(json.dumps(self.model_dump(), allow_nan=False) + "\n")


def read_reference(folder: Path) -> Reference:
    """Raises ConfigError if the file is not as expected."""
    try:
        return Reference.model_validate_json((folder / REFERENCE).read_bytes())
    except (ValidationError, OSError) as error:
        raise ConfigError(f"{folder / REFERENCE}: damaged: {' '.join(str(error).split())}") from None


def as_requests(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as JSON has them: a missing number is null."""
    return [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()]


def check_reference(engine: "Engine", folder: Path, precision: str) -> float:
    """The farthest that a logit of the engine is from the reference. Raises ConfigError if that is too far."""
    reference = read_reference(folder)
    try:
        logits = engine.score_whole(valid_rows(reference.requests, engine.schema)).logits
    except DataError as error:
        raise ConfigError(f"{folder / REFERENCE}: does not fit the schema of the export: {error}") from None
    wanted = torch.tensor(reference.exported).view(logits.shape)
    away, most = (logits - wanted).abs(), TOLERANCE[precision]
    # As a negation: also where a logit is not a number.
    if not bool((away <= most * (1 + wanted.abs())).all()):
        worst = int(away.nan_to_num(torch.inf).amax(1).argmax())
        raise ConfigError(
            f"{folder}: scores differently here: expected logits {wanted[worst].tolist()} of candidate {worst} of "
            f"{REFERENCE}, to {most:g}, got {logits[worst].tolist()}"
        )
    return float(away.max()) if away.numel() else 0.0


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and value != value else value
