"""The command's work, on data and without, for GPUs and for a CPU; and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.cost.machine import machine_of
from dist_rec.cost.plan_cost import plan_cost
from dist_rec.data.writer import write_schema
from tests.data.requests import make_schema
from tests.training.runs import make_config, write_dataset


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("data")
    return make_config(write_dataset(folder / "data"), folder)


def _plan(config: Config, **changes: Any) -> None:
    known: dict[str, Any] = {"gpus": "8,64", "nets": "nvlink,eth25", "gpu": None, "machine": None}
    known |= {"gpus_per_host": None, "requests": []}
    plan_cost(config, **(known | changes))


def test_a_recipe_with_data(
    config: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    _plan(config)
    said = capsys.readouterr().out
    assert "one rank's step: 8 requests" in said and "64 x eth25" in said and "assumptions" in said
    assert [part for part in ("dedup", "shared requests", "jagged sequences", "narrow wire") if part not in said] == []


def test_a_schema_alone_and_requests_by_description(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    write_schema(tmp_path, make_schema())
    alone = make_config(tmp_path, tmp_path)
    _plan(alone, requests=["length=30", "candidates=3", "duplicates=0.5"], gpu="l4", nets="eth25", gpus_per_host=1)
    said = capsys.readouterr().out
    assert "8 requests, 480 events, 24 candidates" in said and "hosts of 1 GPUs" in said and "ms on l4" in said
    with pytest.raises(ConfigError, match="nothing to measure"):
        _plan(alone)
    with pytest.raises(ConfigError, match="lenth: unknown key; did you mean 'length'"):
        _plan(alone, requests=["lenth=30"])


def test_a_cpu_from_a_file(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    path = tmp_path / "machine.yaml"
    path.write_text(yaml.safe_dump(machine_of("cpu2").model_dump(mode="json") | {"name": "mine"}))
    _plan(config, machine=path, nets="eth25", gpus="1,8")
    said = capsys.readouterr().out
    assert "ms on mine" in said and "bf16" not in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu": "l4", "machine": Path("x.yaml")}, "expected --gpu or --machine, got --gpu l4 and --machine x.yaml"),
        ({"gpus": "8,many"}, "--gpus 8,many: expected numbers with commas between them, such as 8,64, got 'many'"),
        ({"nets": "ib401"}, "--net ib401: no such network; did you mean 'ib400'"),
        ({"gpus_per_host": 0}, "--gpus-per-host 0: expected at least 1"),
    ],
)
def test_what_is_wrong_is_said(config: Config, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _plan(config, **changes)
