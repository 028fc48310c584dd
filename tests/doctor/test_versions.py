import sys
from pathlib import Path

import pytest

from dist_rec.doctor import versions
from dist_rec.doctor.versions import AT_LEAST, PARTNERS, STACKS, TESTED, Finding, Machine, check_versions

ROOT = Path(__file__).resolve().parents[2]


def _good(stack: str, without: str) -> dict[str, str]:
    return {name: version for name, version in {**STACKS[stack], **TESTED, **AT_LEAST}.items() if name != without}


GOOD_CPU = {**_good("2.13", "fbgemm-gpu"), "torch": "2.13.0+cpu"}
GOOD_CUDA = _good("2.13", "fbgemm-gpu-cpu")
NEW_CPU, NEW_CUDA = _good("2.14", "fbgemm-gpu"), _good("2.14", "fbgemm-gpu-cpu")
GPU, NO_GPU = Machine(gpus=2, cuda_works=True), Machine()


def _check(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], machine: Machine = NO_GPU) -> dict[str, Finding]:
    """What is not ok."""
    monkeypatch.setattr(versions, "installed_version", installed.get)
    return {finding.name: finding for finding in check_versions(machine) if finding.verdict != "ok"}


@pytest.mark.parametrize(
    ("installed", "machine"), [(GOOD_CPU, NO_GPU), (GOOD_CUDA, GPU), (NEW_CPU, NO_GPU), (NEW_CUDA, GPU)]
)
def test_the_tested_sets_fit(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], machine: Machine) -> None:
    assert _check(monkeypatch, installed, machine) == {}


def _one(findings: dict[str, Finding], name: str, verdict: str) -> Finding:
    assert list(findings) == [name] and findings[name].verdict == verdict, findings
    return findings[name]


def test_torchrec_of_another_minor_version(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _one(_check(monkeypatch, {**GOOD_CPU, "torchrec": "1.7.0"}), "torchrec", "fail")
    assert found.expected == "1.8.* (for torch 2.13.0+cpu)"
    assert found.fix == f"{sys.executable} -m pip install --no-deps torchrec==1.8.0"


def test_a_fitting_family_that_is_not_the_tested_one_only_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**GOOD_CPU, "torch": "2.12.1+cpu", "torchrec": "1.7.0", "fbgemm-gpu-cpu": "1.7.0"}
    findings = _check(monkeypatch, other)
    assert {name: finding.verdict for name, finding in findings.items()} == dict.fromkeys(
        ("torch", "torchrec", "fbgemm-gpu-cpu", "triton"), "warn"
    )


def test_fbgemm_of_another_minor_version(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _one(_check(monkeypatch, {**GOOD_CPU, "fbgemm-gpu-cpu": "1.9.0"}), "fbgemm-gpu-cpu", "fail")
    assert found.fix.endswith("pip install --no-deps fbgemm-gpu-cpu==1.8.0")


def test_both_fbgemm_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _one(_check(monkeypatch, {**GOOD_CPU, "fbgemm-gpu": "1.8.0"}), "fbgemm", "fail")
    assert "overwrite each other" in found.expected
    assert "uninstall -y fbgemm-gpu fbgemm-gpu-cpu && " in found.fix and found.fix.endswith("fbgemm-gpu-cpu==1.8.0")


@pytest.mark.parametrize(
    ("installed", "machine", "right"),
    [
        ({**GOOD_CUDA, "torch": "2.13.0+cpu"}, NO_GPU, "fbgemm-gpu-cpu"),
        ({**GOOD_CPU, "torch": "2.13.0"}, GPU, "fbgemm-gpu"),
    ],
)
def test_fbgemm_of_the_other_kind(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], machine: Machine, right: str
) -> None:
    found = _one(_check(monkeypatch, installed, machine), "fbgemm", "fail")
    assert found.expected.startswith(right + " ")
    assert "uninstall" in found.fix and found.fix.endswith(f"{right}==1.8.0")


def test_a_cpu_build_of_torch_on_a_machine_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _one(_check(monkeypatch, GOOD_CPU, Machine(gpus=1)), "torch", "fail")
    assert found.fix.endswith("pip install torch==2.13.0")


def test_a_driver_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "driver" in _one(_check(monkeypatch, GOOD_CUDA, Machine(gpus=1, cuda_works=False)), "torch", "fail").fix


@pytest.mark.parametrize(
    ("missing", "verdict"), [("torchrec", "fail"), ("torchmetrics", "fail"), ("pyarrow", "fail"), ("triton", "warn")]
)
def test_what_is_missing(monkeypatch: pytest.MonkeyPatch, missing: str, verdict: str) -> None:
    installed = {name: version for name, version in GOOD_CPU.items() if name != missing}
    found = _one(_check(monkeypatch, installed), missing, verdict)
    assert found.found == "not installed" and missing in found.fix


def test_nothing_installed_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _check(monkeypatch, {})
    assert "+cpu --extra-index-url" in found["torch"].fix


def test_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _one(_check(monkeypatch, {**GOOD_CPU, "pydantic": "1.10.2"}), "pydantic", "fail").expected == ">= 2.7"


def test_odd_version_numbers_do_not_end_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _check(monkeypatch, {**GOOD_CPU, "torch": "2.14.0.dev20260801+cu130", "torchrec": "unknown"})
    assert found["torchrec"].expected.startswith("1.9.*")


@pytest.mark.parametrize(
    ("torch", "said"), [("2.15.0", "for torch 2.11 to 2.14, its newest, 1.9, for 2.14"), ("2.10.0", "2.11")]
)
def test_a_torch_that_no_torchrec_exists_for(monkeypatch: pytest.MonkeyPatch, torch: str, said: str) -> None:
    """And no version is advised that does not exist."""
    found = _one(_check(monkeypatch, {**NEW_CUDA, "torch": torch}, GPU), "torch", "fail")
    assert said in found.expected and found.fix.endswith("pip install torch==2.14.1")


@pytest.mark.parametrize(("torch", "torchrec"), PARTNERS.items())
def test_the_partner_of_every_torch(monkeypatch: pytest.MonkeyPatch, torch: str, torchrec: str) -> None:
    found = _check(monkeypatch, {**NEW_CPU, "torch": f"{torch}.0", "torchrec": "1.0.0"})
    assert found["torchrec"].fix.split("==")[1].startswith(torchrec)


def _pins(*folders: Path) -> dict[str, str]:
    pins: dict[str, str] = {}
    for line in (line for folder in folders for path in folder.glob("*.txt") for line in path.read_text().splitlines()):
        name, separator, version = line.split("#")[0].strip().partition("==")
        if separator:
            pins[name] = version.removesuffix("+cpu")
    return pins


def test_the_pins_are_those_that_the_doctor_knows() -> None:
    requirements = ROOT / "launch" / "requirements"
    shared = _pins(requirements)
    assert {name: shared.get(name) for name in TESTED} == TESTED and AT_LEAST.keys() <= shared.keys()
    assert {folder.name: _pins(folder) for folder in requirements.iterdir() if folder.is_dir()} == STACKS


def test_the_bounds_are_those_of_setup() -> None:
    setup = (ROOT / "setup.py").read_text()
    assert [name for name, bound in AT_LEAST.items() if f'"{name}>={bound}"' not in setup] == []
