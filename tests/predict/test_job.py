"""What a prediction is made from: what differs is told, what does not matter is not."""

from pathlib import Path
from typing import Any

import pytest

from dist_rec.common.stored_file import StoredFile
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.errors import DataError
from dist_rec.predict.columns import More
from dist_rec.predict.job import MANIFEST, Job, Part, Prediction, options_of, settings
from dist_rec.predict.parts import Parts
from dist_rec.training.manifest import Manifest
from tests.data.requests import make_schema
from tests.training.runs import make_config

PARTS = Parts(15, 5, 10)
DATA = {"part-00000.parquet": StoredFile(size=3, sha256="ab")}


def _job(config: Config, checkpoint: Path, **changes: Any) -> Job:
    given = {"data": DATA, "options": options_of(More(), PARTS, make_schema()), "device": "cpu"} | changes
    return Job.of(config, checkpoint, **given)


def test_a_job_names_its_checkpoint_and_is_the_same_wherever_it_runs(
    config: Config, last: Path, checkpoints: Path, data: Path, tmp_path: Path
) -> None:
    job = _job(config, last)
    assert (job.checkpoint, job.step) == (Manifest.read(last).sha256, 3)
    moved = make_config(data, tmp_path, run={"max_steps": 9}, parallel={"threads": 2}, optim={"lr": 0.5})
    spread = moved.model_copy(
        update={
            "data": moved.data.model_copy(update={"path": "/elsewhere", "workers": 3, "batch_size": 99}),
            "embedding": config.embedding.model_copy(update={"lr": 0.7}),
        }
    )
    assert _job(spread, last).sha256 == job.sha256
    assert _job(config, checkpoints / "step-2").sha256 != job.sha256


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"options": options_of(More(logits=True), PARTS, make_schema())},
            "option, logits: False then, True now",
        ),
        ({"options": options_of(More(), PARTS, make_schema(context=[]))}, "option, schema .SHA-256.: "),
        ({"options": options_of(More(), Parts(15, 5, 5), make_schema())}, "option, requests per part: 10 then, 5 now"),
        ({"device": "cuda"}, "device: cpu then, cuda now"),
        (
            {"data": {"part-00000.parquet": StoredFile(size=3, sha256="cd")}},
            "data, part-00000.parquet: 3 bytes, SHA-256 ab then, 3 bytes, SHA-256 cd now",
        ),
        ({"data": DATA | {"new.parquet": StoredFile(size=1, sha256="ef")}}, "data, new.parquet: nothing of that name"),
        ({"recipe": {"data": {"eval_batch_size": 7}}}, "recipe, data.eval_batch_size: 5 then, 7 now"),
        ({"recipe": {"data": {"max_length": 4}}}, "recipe, data.max_length: None then, 4 now"),
        ({"recipe": {"model": {"longer": {"k": 4}}}}, "recipe, model.longer.k: 3 then, 4 now"),
        ({"checkpoint": "step-2"}, "checkpoint .SHA-256 of its manifest.: "),
    ],
)
def test_what_differs_is_told(
    data: Path, config: Config, checkpoints: Path, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    begun = Prediction.of(_job(config, checkpoints / "last"))
    begun.check_same(_job(config, checkpoints / "last"), tmp_path)
    recipe = make_config(data, tmp_path, **change.pop("recipe", {}))
    other = _job(recipe, checkpoints / change.pop("checkpoint", "last"), **change)
    with pytest.raises(ConfigError, match=f"{tmp_path}: a prediction was begun here from something else(.|\n)*{told}"):
        begun.check_same(other, tmp_path)


def test_weights_depend_on_none_of_the_settings_that_are_free(config: Config) -> None:
    assert not {key for key in settings(config) if "dropout" in key or "recompute" in key or key.startswith("optim")}


def test_a_manifest_says_what_is_there(config: Config, last: Path, tmp_path: Path) -> None:
    job = _job(config, last)
    assert Prediction.read(tmp_path) is None
    Prediction.of(job).write(tmp_path)
    begun = Prediction.read(tmp_path)
    assert begun == Prediction.of(job) and begun is not None and not begun.is_complete
    file = StoredFile(size=1, sha256="00")
    parts = [
        Part(name=f"part-{n}", first=5 * n, requests=5, candidates=7, nonfinite=n, file=file, job=job.sha256)
        for n in range(3)
    ]
    Prediction.of(job, tuple(parts)).write(tmp_path)
    whole = Prediction.read(tmp_path)
    assert whole is not None and whole.is_complete and whole.job == job
    assert (whole.requests, whole.candidates, whole.nonfinite) == (15, 21, 3)
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


@pytest.mark.parametrize("text", ["", "{", "{}", '{"job": 3}'])
def test_a_damaged_manifest_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(DataError, match=r"prediction\.json: damaged: .*name another folder"):
        Prediction.read(tmp_path)
