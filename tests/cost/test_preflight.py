"""Whether a run fits, from the schema of large tables alone and from data."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.cost.machine import machine_of
from dist_rec.cost.network import Cluster, network_of
from dist_rec.cost.preflight import Preflight, cluster_of, preflight
from dist_rec.cost.rank_memory import RESERVE
from dist_rec.data.writer import write_schema
from tests.cost.clusters import SCHEMA, config_of
from tests.training.runs import make_config, write_dataset

SAID = ("length=20", "candidates=2")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("schema")
    write_schema(folder, SCHEMA)
    plain = config_of(embedding={"dim": 64})
    return plain.model_copy(update={"data": plain.data.model_copy(update={"path": str(folder)})})


def _with_memory(nbytes: float, ranks: int = 8) -> Cluster:
    machine = machine_of("h100-80gb").model_copy(update={"memory_bytes": nbytes / (1 - RESERVE)})
    return Cluster(machine, network_of("ib400"), ranks)


@pytest.fixture(scope="module")
def roomy(config: Config) -> Preflight:
    return preflight(config, _with_memory(70e9), SAID)


def test_a_run_that_fits(roomy: Preflight) -> None:
    assert roomy.fits and roomy.why_not is None and roomy.changes == []
    assert (roomy.mesh.ranks, roomy.mesh.hosts, roomy.mesh.requests) == (8, 1, 8)
    assert {table.name for table in roomy.tables} == {"item", "kind", "user", "query"}
    assert roomy.time is not None and roomy.time.step_s > 0 and len(roomy.traffic) == 5


@pytest.mark.slow
def test_the_answer_changes_at_the_memory_that_is_needed(config: Config, roomy: Preflight) -> None:
    assert roomy.largest is not None
    used = roomy.largest.used
    assert preflight(config, _with_memory(used + 1e4), SAID).fits
    found = preflight(config, _with_memory(used - 1e4), SAID)
    assert not found.fits and found.largest is not None and found.largest.used == used


def test_without_a_plan_it_does_not_fit_and_what_makes_one_is_told(config: Config) -> None:
    """Tables of 13 MB on one GPU with 9 MB for them, without what a process takes."""
    machine = machine_of("h100-80gb").model_copy(update={"memory_bytes": 11e6, "context_bytes": 0.0})
    found = preflight(config, Cluster(machine, network_of("ib400"), 1), SAID)
    assert not found.fits and found.largest is None and found.tables == []
    assert found.why_not is not None and found.why_not.startswith("no sharding plan: the tables")
    assert any("kernel=[fused_uvm_caching]" in change.change for change in found.changes)
    assert all(change.saves is None for change in found.changes)


def test_of_data_and_of_a_cpu(tmp_path: Path) -> None:
    config = make_config(write_dataset(tmp_path / "data"), tmp_path)
    found = preflight(config, Cluster(machine_of("cpu2"), network_of("eth25"), 2))
    assert found.fits and found.time is not None and "training split" in found.mesh.source
    assert found.largest is not None and found.mean is not None and found.mean.used <= found.largest.used


def test_the_numbers_are_json(roomy: Preflight) -> None:
    tree = json.loads(json.dumps(roomy.numbers()))
    assert tree["fits"] is True and tree["largest"]["used"] == sum(tree["largest"]["parts"].values())
    assert tree["time"]["step_s"] > 0 and tree["mesh"]["ranks"] == 8
    assert json.loads(json.dumps(replace(roomy, largest=None, time=None).numbers()))["fits"] is False


def test_a_cluster(tmp_path: Path) -> None:
    assert cluster_of(64, "h100-80gb", "ib400", None).hosts == 8
    assert cluster_of(64, "l4", "eth25", 1).hosts == 64
    path = tmp_path / "machine.yaml"
    path.write_text(yaml.safe_dump(machine_of("l4").model_dump(mode="json") | {"name": "mine"}))
    assert cluster_of(8, str(path), "ib400", None).machine.name == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "h100-80gb", "ib400", None), "--world-size 0: expected at least 1"),
        ((12, "h100-80gb", "ib400", None), "--world-size 12: expected whole hosts of 8 GPUs"),
        ((8, "h300", "ib400", None), "--gpu h300: expected one of h100-80gb.*or a YAML file of a machine"),
        ((8, "l4", "ib401", None), "--net ib401: no such network"),
        ((8, "l4", "ib400", 0), "--gpus-per-host 0: expected at least 1"),
        ((8, "l4", "nvlink", None), "l4 has no NVLink"),
        ((8, "gone.yaml", "ib400", None), "gone.yaml"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: tuple[int, str, str, int | None], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        cluster_of(*arguments)
    assert "\n" not in str(caught.value)
