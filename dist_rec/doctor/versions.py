"""Compares installed versions with versions that work together, and names the command that repairs a mismatch.

Reads metadata only, since the import of a broken package may fail."""

import importlib.metadata
import sys
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail"]

# Versions that are tested together, by torch's: those of launch/requirements/ (which a test checks).
STACKS = {
    "2.14": {
        "torch": "2.14.1",
        "torchrec": "1.9.2",
        "fbgemm-gpu-cpu": "1.9.0",
        "fbgemm-gpu": "1.9.0",
        "triton": "3.8.0",
    },
    "2.13": {
        "torch": "2.13.0",
        "torchrec": "1.8.0",
        "fbgemm-gpu-cpu": "1.8.0",
        "fbgemm-gpu": "1.8.0",
        "triton": "3.7.1",
    },
}
NEWEST = "2.14"
TESTED = {"torchmetrics": "1.0.3", "tensordict": "0.15.3"}  # with any of them
# TorchRec and FBGEMM of each torch, which they are released for (fbgemm_gpu's own table). Others do not exist.
PARTNERS = {"2.11": "1.6", "2.12": "1.7", "2.13": "1.8", "2.14": "1.9"}
# Lower bounds of all other packages, as in setup.py.
AT_LEAST = {
    "numpy": "1.26",
    "pyarrow": "16",
    "duckdb": "1.3",
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
    if torch_version is not None and _minor(torch_version) in PARTNERS:
        findings += [_check_torchrec(torch_version), _check_fbgemm(torch_version, machine)]
    findings += [_check_pin(name, "fail", version) for name, version in TESTED.items()]
    findings.append(_check_pin("triton", "fail" if machine.gpus else "warn", _stack(torch_version)["triton"]))
    return findings + [_check_bound(name, bound) for name, bound in AT_LEAST.items()]


def _check_python() -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", "ok", found)
    return Finding("python", "warn", found, "3.10 to 3.13", "PYTHON=/path/to/python3.12 launch/install.sh")


def _check_torch(found: str | None, machine: Machine) -> Finding:
    gpu_build = machine.gpus > 0
    stack = _stack(found)
    fix = _install_torch(stack["torch"], cuda=gpu_build)
    if found is None:
        return Finding("torch", "fail", "not installed", stack["torch"], fix)
    if _minor(found) not in PARTNERS:
        oldest, newest = next(iter(PARTNERS)), NEWEST
        exists = f"TorchRec exists for torch {oldest} to {newest}, its newest, {PARTNERS[newest]}, for {newest}"
        return Finding("torch", "fail", found, exists, fix)
    if gpu_build and found.endswith("+cpu"):
        expected = f"a CUDA build, for the {machine.gpus} GPU(s) here"
        return Finding("torch", "fail", found, expected, _replace("torch", fix))
    if gpu_build and not machine.cuda_works:
        driver = "install an NVIDIA driver >= 580 (torch 2.13 and 2.14 are built for CUDA 13)"
        return Finding("torch", "fail", found, "torch.cuda.is_available()", driver)
    return _ok_or_untested("torch", found, stack["torch"], fix)


def _check_torchrec(torch_version: str) -> Finding:
    found, expected = installed_version("torchrec"), PARTNERS[_minor(torch_version)]
    right = _stack(torch_version)["torchrec"]
    if found is not None and _minor(found) == expected:
        return _ok_or_untested("torchrec", found, right)
    fix = _pip(f"install --no-deps torchrec=={_release(expected, right)}")
    return Finding("torchrec", "fail", found or "not installed", f"{expected}.* (for torch {torch_version})", fix)


def _check_fbgemm(torch_version: str, machine: Machine) -> Finding:
    """Exactly one of the two FBGEMM packages (they write the same folder), of the kind and minor version of torch."""
    cpu, cuda = installed_version("fbgemm-gpu-cpu"), installed_version("fbgemm-gpu")
    right, wrong = "fbgemm-gpu-cpu", "fbgemm-gpu"
    # PyPI's torch is a CUDA build without a label; without a GPU the CPU library suffices beside it.
    if machine.gpus and not torch_version.endswith("+cpu"):
        right, wrong = wrong, right
    expected, tested = PARTNERS[_minor(torch_version)], _stack(torch_version)[right]
    install = _pip(f"install --no-deps {right}=={_release(expected, tested)}")
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
    return _ok_or_untested(right, found, tested)


def _check_pin(name: str, verdict: Verdict, tested: str) -> Finding:
    """A package with a tested version; `verdict` if it is missing, a warning for another version."""
    found = installed_version(name)
    if found is None:
        return Finding(name, verdict, "not installed", tested, _pip(f"install --no-deps {name}=={tested}"))
    return _ok_or_untested(name, found, tested)


def _check_bound(name: str, bound: str) -> Finding:
    found = installed_version(name)
    if found is not None and _numbers(found) >= _numbers(bound):
        return Finding(name, "ok", found)
    return Finding(name, "fail", found or "not installed", f">= {bound}", _pip(f"install '{name}>={bound}'"))


def _ok_or_untested(name: str, found: str, tested: str, fix: str = "") -> Finding:
    if _public(found) == tested:
        return Finding(name, "ok", found)
    return Finding(name, "warn", found, tested, fix or _pip(f"install --no-deps {name}=={tested}"))


def _stack(torch_version: str | None) -> dict[str, str]:
    """The tested versions for this torch; the newest where it is in none."""
    return STACKS.get(_minor(torch_version or NEWEST), STACKS[NEWEST])


def _release(minor: str, tested: str) -> str:
    """The tested release if it has this minor version, else the first release of the minor version."""
    return tested if _minor(tested) == minor else f"{minor}.0"


def _install_torch(version: str, cuda: bool) -> str:
    if cuda:
        return _pip(f"install torch=={version}")
    return _pip(f"install torch=={version}+cpu --extra-index-url {CPU_INDEX}")


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
