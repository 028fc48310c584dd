"""What is printed, with a plan and without."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dist_rec.cost.changes import Change
from dist_rec.cost.machine import machine_of
from dist_rec.cost.network import Cluster, network_of
from dist_rec.cost.preflight import Preflight, preflight
from dist_rec.cost.preflight_report import render, run_preflight, verdict
from dist_rec.data.writer import write_schema
from tests.cost.clusters import SCHEMA
from tests.training.runs import make_config

GIB = 2**30
CLUSTER = Cluster(machine_of("h100-80gb"), network_of("ib400"), 16)
SAID = ("length=10",)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Preflight:
    folder = tmp_path_factory.mktemp("schema")
    write_schema(folder, SCHEMA)
    return preflight(make_config(folder, folder), CLUSTER, SAID)


def _said(found: Preflight) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render(found, CLUSTER))
    return console.export_text()


def test_a_run_that_fits(found: Preflight) -> None:
    said = _said(found)
    parts = ("16 x h100-80gb on 2 host(s)", "sharding plan", "activations", "all-to-all of ids", "samples/s", "NCCL")
    assert [part for part in parts if part not in said] == []
    assert "changes" not in said and said.rstrip().splitlines()[-1].startswith("fits: 1.")


def test_one_that_does_not_says_what_would_help(found: Preflight) -> None:
    assert found.largest is not None
    changes = [
        Change("embedding.tables.item.sharding=[row_wise]", 3 * GIB, 2 * GIB, True),
        Change("--world-size 32", GIB, None, False),
    ]
    full = replace(found, largest=replace(found.largest, limit=GIB // 2), changes=changes)
    said = _said(full)
    assert "item.sharding=[row_wise]" in said and "there is a plan" in said
    assert verdict(full).startswith("does not fit: 1.") and "of 0.50 GiB on the fullest rank" in verdict(full)


def test_host_memory_and_no_plan_are_in_the_verdict(found: Preflight) -> None:
    assert found.largest is not None
    host = replace(found, largest=replace(found.largest, host=3 * GIB, host_limit=2 * GIB))
    assert verdict(host).startswith("does not fit: ") and "3.0 of 2.0 GiB of host memory for a rank" in verdict(host)
    none = replace(found, tables=[], largest=None, mean=None, traffic=[], time=None, why_not="no sharding plan: x")
    assert verdict(none) == "does not fit: no sharding plan: x" and "sharding plan, MiB" not in _said(none)


def test_the_numbers_go_to_a_file(
    found: Preflight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dist_rec.cost.preflight_report.preflight", lambda *_: found)
    assert run_preflight(make_config(tmp_path, tmp_path), CLUSTER, SAID, tmp_path / "numbers.json")
    assert json.loads((tmp_path / "numbers.json").read_text())["fits"] and "fits: " in capsys.readouterr().out
