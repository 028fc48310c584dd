"""What a run says of its origin: right in a checkout, honest outside of one."""

import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from dist_rec.common import provenance as module
from dist_rec.common.provenance import commit, cpu_model, hardware, provenance, provenance_lines, versions


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one commit of one file."""
    _git(tmp_path, "init", "-q")
    (tmp_path / "file.py").write_text("x = 1\n")
    _git(tmp_path, "add", "file.py")
    _git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_the_commit_of_a_clean_and_of_a_changed_checkout(checkout: Path) -> None:
    head = _git(checkout, "rev-parse", "--short", "HEAD")
    assert commit(checkout / "file.py") == head
    (checkout / "other.py").touch()
    assert commit(checkout / "file.py") == head, "a file that git does not know changes nothing"
    (checkout / "file.py").write_text("x = 2\n")
    assert commit(checkout / "file.py") == f"{head}-dirty"


def test_the_commit_of_another_project_around_the_package_is_not_taken(checkout: Path) -> None:
    (checkout / "site-packages").mkdir()
    (checkout / "site-packages" / "provenance.py").touch()
    assert commit(checkout / "site-packages" / "provenance.py") == "unknown"


def test_no_checkout_no_commit_and_no_git(tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit(tmp_path / "nowhere" / "file.py") == "unknown"
    _git(checkout, "update-ref", "-d", "HEAD")
    assert commit(checkout / "file.py") == "unknown"
    monkeypatch.setenv("PATH", "")
    assert commit(checkout / "file.py") == "unknown"


def test_versions_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert next(iter(versions())) == "python"
    # PyPI's wheel says +cu130 in the module and not in its metadata.
    assert versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", missing)
    assert list(versions()) == ["python"]


def test_the_model_of_the_cpu(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("cpu family\t: 6\nmodel\t\t: 85\nmodel name\t: A CPU\n\ncpu family\t: 7\nmodel name\t: Another\n")
    assert cpu_model(info) == "A CPU (family 6 model 85)"
    info.write_text("BogoMIPS\t: 50.00\n")
    assert cpu_model(info)
    assert cpu_model(tmp_path / "nothing")


def test_every_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, found in {"is_available": True, "device_count": 2, "get_device_name": None}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *index, found=found: f"GPU {index[0]}" if index else found)
    assert "cores, 1 thread(s), GPU 0, GPU 1, CUDA" in hardware()


def test_the_facts_in_one_table_and_as_a_list() -> None:
    facts = provenance()
    assert list(facts) == ["commit", "software", "hardware", "date", "command"]
    assert all(facts.values()) and facts["command"] == shlex.join(sys.orig_argv)
    assert provenance_lines()[0] == f"- commit: {facts['commit']}"
