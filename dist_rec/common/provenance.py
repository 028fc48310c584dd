"""Where a number comes from: the commit, the packages, the machine and the command behind a run or a benchmark."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("dist_rec", "torch", "torchrec", "fbgemm_gpu", "fbgemm_gpu_cpu", "triton")
UNKNOWN = "unknown"
GIT_TIMEOUT_S = 20


def provenance() -> dict[str, str]:
    """Commit, software, hardware, date and command line of this process, for a table or a list.

    Takes some milliseconds for git. Initialises CUDA where there is a GPU.
    """
    return {
        "commit": commit(),
        "software": ", ".join(f"{name} {number}" for name, number in versions().items()),
        "hardware": hardware(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
    }


def provenance_lines() -> list[str]:
    """`provenance()` as the items of a Markdown list."""
    return [f"- {name}: {value}" for name, value in provenance().items()]


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed, by name."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit(file: Path = Path(__file__)) -> str:
    """The short commit of the git checkout that tracks `file`, with "-dirty" where tracked files were changed since.

    "unknown" outside of a checkout, as in an installed package, and where git is missing.
    """
    # A package in a virtual environment may lie inside a checkout of something else, which does not track the package.
    if _git(file, "ls-files", "--error-unmatch", file.name) is None:
        return UNKNOWN
    head, changed = (
        _git(file, "rev-parse", "--short", "HEAD"),
        _git(file, "status", "--porcelain", "--untracked-files=no"),
    )
    if not head:  # before the first commit
        return UNKNOWN
    return f"{head}-dirty" if changed else head


def _git(file: Path, *arguments: str) -> str | None:
    """What git prints; None if it fails."""
    command = ["git", "--no-optional-locks", *arguments]
    try:
        ran = subprocess.run(
            command, cwd=file.parent, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None


def hardware() -> str:
    """The model of the CPU, its cores that this process may use, torch's threads and every visible GPU."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [cpu_model(), f"{usable} cores", f"{torch.get_num_threads()} thread(s)"]
    if torch.cuda.is_available():
        parts += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        parts.append(f"CUDA {torch.version.cuda}")
    return ", ".join(parts)


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name, family and model of the first CPU; only what the platform knows where there is no /proc/cpuinfo."""
    try:
        lines = [line.partition(":") for line in cpuinfo.read_text().split("\n\n")[0].splitlines()]
    except OSError:
        return platform.processor() or platform.machine() or UNKNOWN
    said = {name.strip(): value.strip() for name, _, value in lines}
    name = said.get("model name", platform.machine() or UNKNOWN)
    # Some machines hide the name of their CPU, none the numbers.
    numbers = [f"{key.removeprefix('cpu ')} {said[key]}" for key in ("cpu family", "model") if key in said]
    return f"{name} ({' '.join(numbers)})" if numbers else name
