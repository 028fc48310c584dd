"""The stages of benchmarks/gpu.sh, with a python that only writes down what it is to run."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES, MINUTES = 11, 13
PYTHON = """#!/bin/sh
case "$*" in
*is_available*) exit "${NO_GPU:-0}" ;;
*find_spec*) echo "-n 2" ;;
*warm_cache*) [ -z "${NO_WARM:-}" ] || exit 1; echo "took $*" ;;
*) echo "$*" >>"$CALLS"; echo "ran $*" ;;
esac
case "$*" in
*"${BROKEN:-nothing}"*) exit 3 ;;
*"${SLOW:-nothing}"*) exec sleep 300 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "gpu.sh", tmp_path / "benchmarks")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def _run(checkout: Path, *stages: str, **environment: str) -> tuple[int, str, list[str]]:
    calls = checkout / "calls"
    calls.write_text("")
    paths = {"PYTHON": str(checkout / "python"), "CALLS": str(calls), "OUT": str(checkout / "out")}
    command = ["bash", str(checkout / "benchmarks" / "gpu.sh"), *stages]
    ran = subprocess.run(
        command, env={**os.environ, **paths, **environment}, capture_output=True, text=True, check=False
    )
    return ran.returncode, ran.stdout + ran.stderr, calls.read_text().splitlines()


def test_a_stage_that_fails_stops_no_other_and_is_run_again(checkout: Path) -> None:
    code, said, calls = _run(checkout, BROKEN="bench_ops lookup")
    assert code == 1 and "lookup     exit 3" in said and "all-peers  ok" in said, said
    assert len(calls) == STAGES and calls[0].startswith("-m pytest -q -m gpu -n 2")
    code, said, calls = _run(checkout)
    assert code == 0 and len(calls) == 1 and "bench_ops lookup" in calls[0], "the others ended well before"
    assert "ran -m benchmarks.bench_ops lookup" in (checkout / "out" / "lookup.log").read_text()
    assert len(_run(checkout, AGAIN="1")[2]) == STAGES


def test_only_the_stages_that_are_named(checkout: Path) -> None:
    code, _, calls = _run(checkout, "slots", "sync")
    assert code == 0 and [call.split()[1] for call in calls] == ["benchmarks.gpu_steps", "benchmarks.gpu_slots"]


def test_a_stage_that_does_not_exist_is_an_error(checkout: Path) -> None:
    code, said, _ = _run(checkout, "slot")
    assert code == 2 and "expected names of stages, got 'slot'; they are: kernels training sync delayed" in said, said


def test_a_stage_that_takes_too_long_is_said_and_keeps_its_log(checkout: Path) -> None:
    script = checkout / "benchmarks" / "gpu.sh"
    script.write_text(script.read_text().replace("stage slots 30", "stage slots 1"))
    code, said, _ = _run(checkout, "slots", SLOW="gpu_slots")
    assert code == 1 and "slots      cut off by its limit" in said
    assert "ran -m benchmarks.gpu_slots" in (checkout / "out" / "slots.log").read_text()


def test_without_a_gpu_nothing_runs(checkout: Path) -> None:
    code, _, calls = _run(checkout, NO_GPU="1")
    assert code == 1 and calls == []


def test_warm_kernels_are_taken_before_the_first_stage(checkout: Path) -> None:
    said = _run(checkout, "slots", WARM="here", TRITON_CACHE_DIR="there")[1]
    assert said.splitlines()[0] == "took -m benchmarks.warm_cache take here --into there"
    code, said, calls = _run(checkout, "slots", AGAIN="1", NO_WARM="1")
    assert code == 0 and len(calls) == 1 and said.startswith("the warm Triton cache could not be taken"), said


def test_the_limits_leave_time_to_start_the_machine() -> None:
    limits = re.findall(r"^stage [a-z0-9-]+ (\d+) ", (ROOT / "benchmarks" / "gpu.sh").read_text(), re.MULTILINE)
    assert len(limits) == STAGES and sum(map(int, limits)) == 60 * MINUTES


def test_every_test_for_a_gpu_is_in_a_stage(checkout: Path) -> None:
    """And every file that a stage names is there."""
    named = [word for call in _run(checkout, "kernels", "training")[2] for word in call.split() if "tests/" in word]
    assert all((ROOT / name).exists() for name in named)
    files = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")]
    marked = [
        path for path in files if re.search(r"^[^#\n]*(mark\.gpu\b|\bDEVICES\b)", (ROOT / path).read_text(), re.M)
    ]
    missing = [path for path in marked if not any(path.is_relative_to(name) for name in named)]
    assert len(marked) > 6 and missing == []
