"""Exports of the checkpoints of these tests."""

from pathlib import Path

from dist_rec.config import Config
from dist_rec.export.write import Wanted, export_model


def exported(config: Config, checkpoint: Path, out: Path, **more: object) -> Path:
    export_model(config, checkpoint, Wanted(out, **{"programs": (), **more}))  # pyright: ignore[reportArgumentType]
    return out
