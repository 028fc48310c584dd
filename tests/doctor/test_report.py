import sys

import pytest
import torch

from dist_rec.doctor import report, versions
from dist_rec.doctor.versions import Finding


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the doctor will be told it found."""
    told: list[Finding] = []
    monkeypatch.setattr(report, "examine", lambda: told)
    return told


def test_this_environment_fits(capsys: pytest.CaptureFixture[str]) -> None:
    fits = report.run_doctor()
    shown = capsys.readouterr().out
    assert fits, shown
    assert "2 ranks, gloo" in shown and "triton kernel" in shown and "torchrec" in shown


def test_a_failure_ends_in_false_and_says_what_to_do(
    findings: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    findings += [
        Finding("torch", "ok", "2.13.0"),
        Finding("torchrec", "fail", "1.7.0", "1.8.*", "pip install [this] torchrec==1.8.0"),
    ]
    assert not report.run_doctor()
    shown = capsys.readouterr().out
    assert "fail torchrec" in shown and "pip install [this] torchrec==1.8.0" in shown and "1 check(s) failed" in shown


def test_a_warning_alone_does_not_fail(findings: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    findings += [Finding("triton", "warn", "3.9.0", "3.7.1", "pip install triton==3.7.1")]
    assert report.run_doctor()
    assert "differ from what is tested" in capsys.readouterr().out


def test_the_whole_examination_of_a_broken_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchrec of the wrong minor version, and probes that cannot start: reported line by line, no traceback."""
    real = versions.installed_version
    monkeypatch.setattr(versions, "installed_version", lambda name: "1.2.0" if name == "torchrec" else real(name))
    monkeypatch.setattr(
        report, "_run_probes", lambda calls: [report._Outcome(1, "", "Traceback\nImportError: no [lib]") for _ in calls]
    )
    failed = {finding.name: finding for finding in report.examine() if finding.verdict == "fail"}
    here = versions.STACKS[".".join(torch.__version__.split(".")[:2])]
    assert failed["torchrec"].fix.endswith(f"torchrec=={here['torchrec']}")
    assert failed["import torch"].found == "ImportError: no [lib]"


def test_a_missing_extension_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training works without it."""

    def run(calls: list[list[str]]) -> list[report._Outcome]:
        return [report._Outcome(int(call[0] == "dedup"), "0 GPU(s)", "ImportError: no _host") for call in calls]

    monkeypatch.setattr(report, "_run_probes", run)
    (found,) = (finding for finding in report.examine() if finding.name == "host dedup")
    assert found.verdict == "warn" and found.found == "ImportError: no _host" and "g++" in found.fix


@pytest.mark.parametrize(("gpus", "expected"), [(0, ["gloo 2"]), (1, ["gloo 2", "nccl 1"]), (8, ["gloo 2", "nccl 2"])])
def test_ranks_meet_through_every_backend_that_a_run_uses(
    monkeypatch: pytest.MonkeyPatch, gpus: int, expected: list[str]
) -> None:
    """With one GPU, too, a run needs NCCL."""
    met: list[str] = []

    def run(calls: list[list[str]]) -> list[report._Outcome]:
        met.extend(f"{call[1]} {call[3]}" for call in calls if call[0] == "rank" and call[2] == "0")
        return [report._Outcome(0, f"{gpus} GPU(s)", "") for _ in calls]

    monkeypatch.setattr(report, "_run_probes", run)
    report.examine()
    assert met == expected


def test_a_kernel_that_does_not_compile_names_everything_that_compiling_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(calls: list[list[str]]) -> list[report._Outcome]:
        return [report._Outcome(int(call[0] == "triton"), "1 GPU(s)", "fatal error: Python.h") for call in calls]

    monkeypatch.setattr(report, "_run_probes", run)
    (found,) = (finding for finding in report.examine() if finding.name == "triton kernel")
    assert found.verdict == "fail" and found.found == "fatal error: Python.h"
    assert all(needed in found.fix for needed in ("gcc", "python3-dev", "libcuda.so.1"))


@pytest.mark.parametrize(
    ("code", "err", "said"),
    [
        (None, "", "no answer within"),
        (-11, "", "killed by signal 11"),
        (3, "", "exit code 3"),
        (1, "a\nValueError: b\n", "ValueError: b"),
    ],
)
def test_how_a_probe_ended(code: int | None, err: str, said: str) -> None:
    assert said in report._Outcome(code, "", err).text


def test_a_probe_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "TIMEOUT_S", 1)
    monkeypatch.setattr(report, "_count_gpus", lambda: 0)  # it starts a process too
    monkeypatch.setattr(sys, "executable", "/bin/sleep")
    real = report.subprocess.Popen
    monkeypatch.setattr(report.subprocess, "Popen", lambda command, **options: real(["/bin/sleep", "60"], **options))
    assert "no answer" in report._run_probes([["torch"]])[0].text
