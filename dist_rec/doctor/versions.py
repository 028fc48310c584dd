"""Compares installed versions with versions that work together, and names the command that repairs a mismatch.

Reads metadata only, since the import of a broken package may fail."""

import importlib.metadata
import sys
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail"]

# The versions of the tests, equal to launch/requirements/ (which a test checks).
TESTED = {
    "torch": "2.13.0",
    "torchrec": "1.8.0",
    "fbgemm-gpu-cpu": "1.8.0",
    "fbgemm-gpu": "1.8.0",
    "triton": "3.7.1",
    "torchmetrics": "1.0.3",
    "tensordict": "0.15.3",
}
# Lower bounds of all other packages, as in setup.py.
AT_LEAST = {
    "numpy": "1.26",
    "pyarrow": "16",
    "pydantic": "2.7",
    "pyyaml": "6",
    "rich": "13",
    "typer": "0.19",
    "torchdata": "0.11",
    "tensorboard": "2.16",
    "matplotlib": "3.8",
}
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table. `fail`: a run would break; `warn`: it should work, but is not tested so."""

    name: str
    verdict: Verdict
    found: str
    expected: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Machine:
    """The machine that the versions have to match."""

    gpus: int = 0  # as nvidia-smi counts them
    cuda_works: bool = False  # as torch sees it


def installed_version(package: str) -> str | None:
    """The version in the package's metadata, or None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_versions(machine: Machine) -> list[Finding]:
    """Compares every package with the tested set and with the others."""
    torch_version = installed_version("torch")
    findings = [_check_python(), _check_torch(torch_version, machine)]
    if torch_version is not None:
        findings += [_check_torchrec(torch_version), _check_fbgemm(torch_version, machine)]
    findings += [_check_pin(name, "fail") for name in ("torchmetrics", "tensordict")]
    findings.append(_check_pin("triton", "fail" if machine.gpus else "warn"))
    return findings + [_check_bound(name, bound) for name, bound in AT_LEAST.items()]


def _check_python() -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        return Finding("python", "ok", found)
    return Finding("python", "warn", found, "3.10 to 3.12", "PYTHON=/path/to/python3.11 launch/install.sh")


def _check_torch(found: str | None, machine: Machine) -> Finding:
    gpu_build = machine.gpus > 0
    fix = _install_torch(cuda=gpu_build)
    if found is None:
        return Finding("torch", "fail", "not installed", TESTED["torch"], fix)
    if gpu_build and found.endswith("+cpu"):
        expected = f"a CUDA build, for the {machine.gpus} GPU(s) here"
        return Finding("torch", "fail", found, expected, _replace("torch", fix))
    if gpu_build and not machine.cuda_works:
        driver = "install an NVIDIA driver >= 580 (torch 2.13 is built for CUDA 13)"
        return Finding("torch", "fail", found, "torch.cuda.is_available()", driver)
    return _ok_or_untested("torch", found, fix)


def _check_torchrec(torch_version: str) -> Finding:
    found, expected = installed_version("torchrec"), _partner(torch_version)
    if found is not None and _minor(found) == expected:
        return _ok_or_untested("torchrec", found)
    fix = _pip(f"install --no-deps torchrec=={_release(expected, 'torchrec')}")
    return Finding("torchrec", "fail", found or "not installed", f"{expected}.* (for torch {torch_version})", fix)


def _check_fbgemm(torch_version: str, machine: Machine) -> Finding:
    """Exactly one of the two FBGEMM packages (they write the same folder), of the kind and minor version of torch."""
    cpu, cuda = installed_version("fbgemm-gpu-cpu"), installed_version("fbgemm-gpu")
    right, wrong = "fbgemm-gpu-cpu", "fbgemm-gpu"
    # PyPI's torch is a CUDA build without a label; without a GPU the CPU library suffices beside it.
    if machine.gpus and not torch_version.endswith("+cpu"):
        right, wrong = wrong, right
    expected = _partner(torch_version)
    install = _pip(f"install --no-deps {right}=={_release(expected, right)}")
    if cpu and cuda:
        found, alone = f"fbgemm-gpu {cuda} and fbgemm-gpu-cpu {cpu}", f"{right} alone: they overwrite each other"
        return Finding("fbgemm", "fail", found, alone, _replace("fbgemm-gpu fbgemm-gpu-cpu", install))
    found = installed_version(right)
    if found is None:
        other = installed_version(wrong)
        came = "not installed" if other is None else f"{wrong} {other}"
        fix = install if other is None else _replace(wrong, install)
        return Finding("fbgemm", "fail", came, f"{right} {expected}.* (for torch {torch_version})", fix)
    if _minor(found) != expected:
        return Finding(right, "fail", found, f"{expected}.* (for torch {torch_version})", install)
    return _ok_or_untested(right, found)


def _check_pin(name: str, verdict: Verdict) -> Finding:
    """A package with a tested version; `verdict` if it is missing, a warning for another version."""
    found = installed_version(name)
    if found is None:
        return Finding(name, verdict, "not installed", TESTED[name], _install_tested(name))
    return _ok_or_untested(name, found)


def _check_bound(name: str, bound: str) -> Finding:
    found = installed_version(name)
    if found is not None and _numbers(found) >= _numbers(bound):
        return Finding(name, "ok", found)
    return Finding(name, "fail", found or "not installed", f">= {bound}", _pip(f"install '{name}>={bound}'"))


def _ok_or_untested(name: str, found: str, fix: str = "") -> Finding:
    if _public(found) == TESTED[name]:
        return Finding(name, "ok", found)
    return Finding(name, "warn", found, TESTED[name], fix or _install_tested(name))


def _install_tested(name: str) -> str:
    return _pip(f"install --no-deps {name}=={TESTED[name]}")


def _partner(torch_version: str) -> str:
    """torch 2.N needs TorchRec and FBGEMM 1.(N-5) (by fbgemm_gpu's own table; both are released with torch)."""
    return f"1.{_numbers(torch_version)[1] - 5}"


def _release(minor: str, package: str) -> str:
    """The tested release if it has this minor version, else the first release of the minor version."""
    return TESTED[package] if _minor(TESTED[package]) == minor else f"{minor}.0"


def _install_torch(cuda: bool) -> str:
    if cuda:
        return _pip(f"install torch=={TESTED['torch']}")
    return _pip(f"install torch=={TESTED['torch']}+cpu --extra-index-url {CPU_INDEX}")


def _replace(package: str, install: str) -> str:
    return f"{_pip(f'uninstall -y {package}')} && {install}"


def _pip(arguments: str) -> str:
    return f"{sys.executable} -m pip {arguments}"


def _public(version: str) -> str:
    return version.partition("+")[0]


def _minor(version: str) -> str:
    return ".".join(str(number) for number in _numbers(version)[:2])


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 13, 0) of '2.13.0+cpu'; a part that is no plain number ('0a1', 'dev2026') ends it."""
    numbers: list[int] = []
    for part in _public(version).split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers) + (0,) * (2 - len(numbers))
