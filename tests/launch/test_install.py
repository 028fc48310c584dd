import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that the script reads, in a folder without a .venv."""
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    shutil.copy(ROOT / "setup.py", tmp_path)
    _free_disk(tmp_path, 100)
    return tmp_path


def _inherited() -> dict[str, str]:
    """Without what the tests themselves were installed with."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DIST_REC_") and name != "PYTHON"}


def _install(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The programs in `bin` of the checkout come before the machine's own, whose free disk is not of the test."""
    inherited = {**_inherited(), "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}", "DIST_REC_DEVICE": "cpu"}
    command = [str(checkout / "launch" / "install.sh")]
    return subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True)


def _script(place: Path, text: str) -> str:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"#!/bin/sh\n{text}\n")
    place.chmod(0o755)
    return str(place)


def _free_disk(checkout: Path, gigabytes: int) -> None:
    _script(checkout / "bin" / "df", f"echo Filesystem; echo /dev/x 100 90 {gigabytes * 2**20} 90% /")


def test_no_fitting_python(checkout: Path) -> None:
    ran = _install(checkout, PYTHON="/no/python")
    assert ran.returncode == 1 and "needs Python 3.10 to 3.13, found none as /no/python" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_python_named_to_make_is_the_one_that_is_taken(checkout: Path) -> None:
    """A variable of the same name in the Makefile would take its place."""
    shutil.copy(ROOT / "Makefile", checkout)
    environment = {**_inherited(), "DIST_REC_DEVICE": "cpu", "PYTHON": "/no/python"}
    ran = subprocess.run(["make", "setup"], cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode != 0 and "found none as /no/python" in ran.stderr


def test_a_python_without_venv(checkout: Path) -> None:
    bare = _script(
        checkout / "bin" / "bare", 'case "$2" in *ensurepip*) exit 1 ;; *print*) echo python3.11-venv ;; esac'
    )
    ran = _install(checkout, PYTHON=bare)
    assert ran.returncode == 1 and "has no venv module" in ran.stderr and "python3.11-venv" in ran.stderr


def test_an_unknown_kind_of_machine(checkout: Path) -> None:
    ran = _install(checkout, DIST_REC_DEVICE="tpu")
    assert ran.returncode == 1 and "must be cpu or cuda, got 'tpu'" in ran.stderr


@pytest.mark.parametrize("stack", ["2.15", "../requirements", "2.1"])
def test_unknown_versions(checkout: Path, stack: str) -> None:
    ran = _install(checkout, DIST_REC_STACK=stack)
    assert ran.returncode == 1 and f"DIST_REC_STACK must be 2.14 or 2.13, got '{stack}'" in ran.stderr


PIP = """
case "$*" in
*ensurepip*|*"-m venv"*|*version_info*) exit 0 ;;
*"index versions torch"*) echo "Available versions: $BUILDS" ;;
*"pip "*) echo "$*" >>"$CALLS" ;;
esac
"""


@pytest.mark.parametrize(
    ("environment", "builds", "installed", "said"),
    [
        ({}, "2.15.0, 2.14.1+cpu, 2.14.1, 2.13.0+cpu", "2.14/cpu.txt", ""),
        (
            {},
            "2.15.0, 2.14.1, 2.13.0+cpu, 2.13.0",
            "2.13/cpu.txt",
            "taking the versions around torch 2.13 (DIST_REC_ST",
        ),
        ({"DIST_REC_STACK": "2.13"}, "2.14.1+cpu, 2.13.0+cpu", "2.13/cpu.txt", ""),
        (
            {"DIST_REC_STACK": "2.14"},
            "2.14.1, 2.13.0+cpu",
            ".venv/cpu.txt",
            "taking the build with CUDA's libraries, 5 GB",
        ),
        ({"DIST_REC_DEVICE": "cuda"}, "2.14.1, 2.13.0", "2.14/cuda.txt", ""),
    ],
    ids=["newest", "newest with a CPU build", "asked for", "asked for without a CPU build", "cuda"],
)
def test_which_versions_are_taken(
    checkout: Path, environment: dict[str, str], builds: str, installed: str, said: str
) -> None:
    """With a python that writes down what pip is called with."""
    calls = checkout / "calls"
    _script(checkout / ".venv" / "bin" / "python", PIP)
    for source in (checkout / "dist_rec/data/_host.cpp", checkout / "kernels/native/_native.cpp"):
        source.parent.mkdir(parents=True)
        source.touch()
    ran = _install(checkout, **environment, BUILDS=builds, CALLS=str(calls))
    assert ran.returncode == 0, ran.stderr
    assert f"{installed} -r" in calls.read_text(), calls.read_text()
    assert said in ran.stdout and ("taking" in ran.stdout) == bool(said)
    calls.write_text("")
    again = {name: value for name, value in environment.items() if name != "DIST_REC_STACK"}
    assert _install(checkout, **again, BUILDS=builds, CALLS=str(calls)).returncode == 0
    assert not calls.read_text(), "the second call does nothing: it remembers what was asked for"


def test_too_little_disk(checkout: Path) -> None:
    _free_disk(checkout, 1)
    ran = _install(checkout)
    assert ran.returncode == 1 and "needs about 4 GB" in ran.stderr and "found 1 GB" in ran.stderr


def test_the_kind_of_machine_is_seen(checkout: Path) -> None:
    """With a GPU listed it asks for the disk that CUDA takes."""
    _script(checkout / "bin" / "nvidia-smi", "echo 'GPU 0: something'")
    _free_disk(checkout, 6)
    ran = _install(checkout, DIST_REC_DEVICE="")
    assert ran.returncode == 1 and "for the cuda packages, found 6 GB" in ran.stderr


def test_no_network(checkout: Path) -> None:
    """The tail of pip's log, then one sentence."""
    nowhere = "http://127.0.0.1:9/simple"
    unreachable = dict.fromkeys(("PIP_INDEX_URL", "DIST_REC_TORCH_INDEX"), nowhere)
    quiet = {"PIP_RETRIES": "0", "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    ran = _install(checkout, **unreachable, **quiet)
    assert ran.returncode == 1
    said = ran.stderr.splitlines()[-1]
    assert said.startswith("setup: no package index that has these packages could be reached"), ran.stderr
    assert not (checkout / ".venv" / "dist_rec.stamp").exists()
