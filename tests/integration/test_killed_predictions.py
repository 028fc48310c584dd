"""Predictions whose processes are killed: what they write in the end is as if nothing had been."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dist_rec.config import ParallelConfig
from dist_rec.predict.job import MANIFEST
from dist_rec.training.ranks import start_ranks
from dist_rec.training.report import config_yaml
from tests.training.runs import make_config, run, write_dataset

ROOT = Path(__file__).parents[2]
PARTS = 100


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, the weights of a run, and requests in uneven row groups."""
    place = tmp_path_factory.mktemp("job")
    data = write_dataset(place / "data", {"train": [8] * 6, "valid": [8], "test": [7, 150, 1, 242]})
    config = make_config(data, place, run={"max_steps": 2}, data={"eval_batch_size": 2, "workers": 1})
    with start_ranks(ParallelConfig()) as ranks:
        run(config, ranks)
    (place / "recipe.yaml").write_text(config_yaml(config))
    assert _predict(job=place, out=place / "whole").wait() == 0
    return place


def _predict(job: Path, out: Path, ranks: int | None = None, restarts: int = 0) -> "subprocess.Popen[str]":
    command = [sys.executable]
    if ranks is not None:
        command += [str(ROOT / "launch" / "ranks.py"), "--standalone", "--nproc-per-node", str(ranks)]
        command += ["--max-restarts", str(restarts)]
    command += ["-m", "dist_rec.cli", "predict", str(job / "recipe.yaml"), "--data", str(job / "data" / "test")]
    command += ["--checkpoint", str(job / "run" / "checkpoints" / "last"), "--out", str(out)]
    command += ["--part-requests", "4", "--logits", "--embeddings"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _parts(out: Path) -> int:
    return len([*out.glob("part-*.parquet")])


def _wait_for_parts(out: Path, count: int, process: "subprocess.Popen[str]") -> None:
    while _parts(out) < count:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("after", [1, 40])
@pytest.mark.slow
def test_a_process_that_is_killed_is_gone_on_with_by_several(job: Path, tmp_path: Path, after: int) -> None:
    out = tmp_path / "out"
    process = _predict(job, out)
    _wait_for_parts(out, after, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = _parts(out)
    assert after <= there < PARTS and b'"is_complete": false' in (out / MANIFEST).read_bytes()
    again = _predict(job, out, ranks=3)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    # A part that was renamed and not yet recorded is made again, and of no part there is nothing to say.
    known = [f"{count} of {PARTS} parts were there from before" in said for count in (there, there - 1)]
    assert any(known) or there == 1, said
    assert _files(out) == _files(job / "whole")
    last = _predict(job, out)
    said, _ = last.communicate()
    assert last.returncode == 0 and "finished before; 400 requests" in said and "nothing to do" in said


@pytest.mark.slow
def test_a_rank_that_is_killed_is_started_again_with_the_others(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    launcher = _predict(job, out, ranks=2, restarts=1)
    _wait_for_parts(out, 20, launcher)
    os.kill(_children(launcher.pid)[-1], signal.SIGKILL)
    said, _ = launcher.communicate()
    assert launcher.returncode == 0, said
    assert "parts were there from before" in said
    assert _files(out) == _files(job / "whole")
