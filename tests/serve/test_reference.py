"""Scores that are not those of the reference are refused."""

import shutil
from pathlib import Path

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.serve.folder import Export
from dist_rec.serve.load import load_export
from dist_rec.serve.reference import read_reference
from tests.export.exports import exported


def test_scores_that_differ_are_refused(config: Config, last: Path, tmp_path: Path) -> None:
    exported(config, last, tmp_path / "model")
    reference = read_reference(tmp_path / "model")
    wrong = [[of + 0.01 for of in row] for row in reference.exported]
    reference.model_copy(update={"exported": wrong}).write(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "copy")
    old = Export.read(tmp_path / "copy")
    Export.of(
        tmp_path / "copy",
        old.checkpoint,
        run=old.run,
        step=old.step,
        requests=old.requests,
        versions=old.versions,
    ).write(tmp_path / "copy")
    with pytest.raises(ConfigError, match="scores differently here"):
        load_export(tmp_path / "copy")
