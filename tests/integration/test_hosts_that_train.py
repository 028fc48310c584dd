"""Runs on hosts that come and go: they go on with as many as there are, and no step is missing or there twice. Two
launchers on this machine are two hosts; so are two network namespaces, with a cable that can be pulled."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dist_rec.training.report import config_yaml
from tests.helpers.launched import ROOT, kill_all, start, until
from tests.launch.test_multinode import _free_port, _ip, _workers_of, cable
from tests.training.runs import make_config, write_dataset

__all__ = ["cable"]  # a fixture

EVERY = 5


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    data = write_dataset(tmp_path / "data", {"train": [8] * 40, "valid": [8], "test": [8]})
    out = tmp_path / "out"
    out.mkdir()
    changes: dict[str, Any] = {
        "run": {"epochs": 10_000, "max_steps": 50_000, "log_every": 1},
        "checkpoint": {"every_steps": EVERY, "keep_last": 2},
        "data": {"batch_size": 4, "valid": []},
        "optim": {"lr": 1e-4},
        "parallel": {"hang_timeout_s": 20},  # a pulled cable tells nobody that the other end is gone
    }
    (out / "recipe.yaml").write_text(config_yaml(make_config(data, out, **changes)))
    (tmp_path / "notes").mkdir()
    yield out / "recipe.yaml"
    kill_all(tmp_path / "notes")


def _host(recipe: Path, name: str, rdzv: str, *within: str) -> subprocess.Popen[bytes]:
    launcher = [*within, sys.executable, str(ROOT / "launch" / "ranks.py"), "--nnodes", "1:2", "--nproc-per-node", "1"]
    there = ["--max-restarts", "20", "--rdzv-backend", "c10d", "--rdzv-endpoint", rdzv, "--rdzv-id", "test"]
    patience = ["--rdzv-conf", "join_timeout=90,last_call_timeout=2"]
    command = [*launcher, *there, *patience, "-m", "dist_rec.cli", "train", str(recipe), "--resume", "auto"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return start(command, output=recipe.parent / f"{name}.log", PYTHONPATH=path, OMP_NUM_THREADS="1")


def _rows(recipe: Path) -> list[dict[str, Any]]:
    log = recipe.parent / "tiny" / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line) for line in lines if line.startswith('{"event": "train"') and line.endswith("}")]


def _world(recipe: Path) -> int:
    """Ranks of the run as it was started last; 0 before that."""
    try:
        return json.loads((recipe.parent / "tiny" / "run.json").read_text())["ranks"]
    except (OSError, ValueError):
        return 0


def _trains_on(recipe: Path, world: int) -> None:
    """Waits for a start on so many ranks, and for steps beyond a checkpoint. The global batch stays."""
    until(lambda: _world(recipe) == world, timeout_s=240)
    steps = len(_rows(recipe))
    until(lambda: len(_rows(recipe)) > steps + 2 * EVERY and _world(recipe) == world, timeout_s=240)


def _assert_it_ended_well(recipe: Path, hosts: list[subprocess.Popen[bytes]]) -> None:
    """After a signal, and a last job that finishes what they have begun."""
    for host in hosts:
        host.send_signal(signal.SIGUSR1)
    assert [host.wait(90) for host in hosts] == [75] * len(hosts)
    last = _rows(recipe)[-1]["step"] + 3
    command = [sys.executable, "-m", "dist_rec.cli", "train", str(recipe), "--resume", "auto"]
    command += ["--set", f"run.max_steps={last}", "--allow", "run.max_steps"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = _rows(recipe)
    assert [row["step"] for row in rows] == [*range(1, last + 1)], "each once"
    assert (recipe.parent / "tiny" / "result.json").exists() and all(row["loss"] < 2 for row in rows)


@pytest.mark.slow
def test_a_host_is_killed_and_another_comes(recipe: Path) -> None:
    rdzv = f"localhost:{_free_port()}"
    first = _host(recipe, "first", rdzv)
    _trains_on(recipe, 1)  # so that it keeps the store, without which there is no job
    second = _host(recipe, "second", rdzv)
    _trains_on(recipe, 2)
    for process in [*_workers_of(second), second.pid]:
        os.kill(process, signal.SIGKILL)
    second.wait()
    _trains_on(recipe, 1)
    third = _host(recipe, "third", rdzv)
    _trains_on(recipe, 2)
    _assert_it_ended_well(recipe, [first, third])


@pytest.mark.slow
def test_the_cable_between_hosts_is_pulled_and_put_back(recipe: Path, cable: tuple[str, str]) -> None:
    near, far = [("ip", "netns", "exec", name) for name in cable]
    rdzv = "10.231.77.1:29513"
    hosts = [_host(recipe, "first", rdzv, *near)]
    _trains_on(recipe, 1)
    hosts.append(_host(recipe, "second", rdzv, *far))
    _trains_on(recipe, 2)
    _ip("-n", cable[0], "link", "set", cable[0], "down")
    _trains_on(recipe, 1)
    _ip("-n", cable[0], "link", "set", cable[0], "up")
    _trains_on(recipe, 2)
    _assert_it_ended_well(recipe, hosts)
