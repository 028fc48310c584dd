"""Scores that are not those of the reference are refused."""

import shutil
from pathlib import Path

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.serve.folder import REFERENCE, Export
from dist_rec.serve.load import load_export
from dist_rec.serve.reference import check_reference, read_reference
from tests.export.exports import exported
from tests.serve.exports import engine_of, write_export


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


def test_what_is_no_reference_of_the_export_is_named(tmp_path: Path) -> None:
    folder = write_export(tmp_path / "model", requests=2)
    engine, reference = engine_of(folder), read_reference(folder)
    wrong = [{**request, "user": 10**6} for request in reference.requests]
    reference.model_copy(update={"requests": wrong}).write(folder)
    with pytest.raises(ConfigError, match=r"does not fit the schema of the export: .*field user: expected an id"):
        check_reference(engine, folder, "fp32")
    (folder / REFERENCE).write_text("{}")
    with pytest.raises(ConfigError, match=r"reference\.json: damaged: .*Field required"):
        read_reference(folder)
