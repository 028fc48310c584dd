"""Runs every check and prints a table of results, and what to do about failures."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dist_rec.doctor.versions import Finding, Machine, Verdict, check_versions

TIMEOUT_S = 120
_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_REINSTALL = "repair the versions above first; if all are ok, install again: rm -rf .venv && launch/install.sh"
_COMPILE = (
    "have a C++17 compiler (g++ 12 or clang 16) and Python's headers in reach and install again: rm "
    ".venv/dist_rec.stamp && launch/install.sh"
)
# Name of the probe, title, what does the work meanwhile.
_EXTENSIONS = (
    ("dedup", "host dedup", "pyarrow deduplicates meanwhile, several times more slowly"),
    ("native", "kernels of a CPU", "plain PyTorch computes meanwhile, more slowly; nothing changes on a GPU"),
)
# Name of the probe, title, what to do about a failure.
_PROBES = (
    ("operators", "import torchrec, fbgemm_gpu", _REINSTALL),
    ("embedding", "embedding forward and backward", _REINSTALL),
    (
        "triton",
        "triton kernel",
        "repair triton's version above. For a GPU, Triton builds a launcher: have a C compiler in reach (apt install "
        "gcc, or CC=...), Python's headers (apt install python3-dev) and libcuda.so.1 (docker run --gpus all)",
    ),
)


def run_doctor() -> bool:
    """Prints all findings and remedies; False if something would break a run."""
    console = Console(soft_wrap=True)
    with console.status("looking at versions, operators, Triton and collectives ..."):
        findings = examine()
    _print(console, findings)
    failed = [finding for finding in findings if finding.verdict == "fail"]
    warned = [finding for finding in findings if finding.verdict == "warn"]
    for finding in failed + warned:
        console.print(f"[{_STYLE[finding.verdict]}]{finding.verdict}[/] {finding.name}: to do:")
        console.print(f"    {finding.fix}", markup=False, highlight=False)
    if failed:
        console.print(f"A run would break: {len(failed)} check(s) failed.")
    elif warned:
        console.print(f"Runs should work; {len(warned)} thing(s) differ from what is tested.")
    else:
        console.print("Everything fits.")
    return not failed


def examine() -> list[Finding]:
    """Versions first, then the probes, since a wrong version explains most failing probes."""
    gpus = _count_gpus()
    seen = _run_probes([["torch"]])[0]
    cuda_devices = int(seen.text.split(" ", 1)[0]) if seen.worked else 0
    findings = check_versions(Machine(gpus=gpus, cuda_works=cuda_devices > 0))
    findings.append(_finding("import torch", [seen], _REINSTALL))
    if not seen.worked:
        return findings  # every other probe would repeat the same error
    findings += [_finding(title, _run_probes([[name]]), fix) for name, title, fix in _PROBES]
    findings += [
        _finding(title, _run_probes([[name]]), f"{meanwhile}; {_COMPILE}", otherwise="warn")
        for name, title, meanwhile in _EXTENSIONS
    ]
    findings.append(_check_ranks("gloo", 2))
    if cuda_devices:
        findings.append(_check_ranks("nccl", min(cuda_devices, 2)))
    return findings


def _check_ranks(backend: str, count: int) -> Finding:
    """Runs with GPUs use both: NCCL between devices, gloo between hosts."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes = _run_probes([["rank", backend, str(rank), str(count), f"{folder}/store"] for rank in range(count)])
    variable = f"{backend.upper()}_SOCKET_IFNAME"
    advice = "look at its firewall, or name a working interface"
    title = f"{count} rank{'s' * (count > 1)}, {backend}"
    return _finding(title, outcomes, f"ranks on this host must reach each other: {advice}: export {variable}=lo")


class _Outcome:
    """Result of one probe process: its line, or the last line of its error."""

    def __init__(self, returncode: int | None, out: str, err: str) -> None:
        self.worked = returncode == 0
        self.text = out.strip() if self.worked else _reason(returncode, err)


def _reason(returncode: int | None, err: str) -> str:
    if returncode is None:
        return f"no answer within {TIMEOUT_S} s"
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    ended = f"killed by signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
    return lines[-1] if lines and returncode > 0 else ended


def _run_probes(calls: Sequence[Sequence[str]]) -> list[_Outcome]:
    """Runs probes at the same time, each in its own process, and waits for all of them."""
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder, str(number)) for number in range(len(calls))]
        processes = [_start(call, place) for call, place in zip(calls, places)]
        deadline = time.monotonic() + TIMEOUT_S
        codes = [_wait(process, deadline) for process in processes]
        return [
            _Outcome(code, place.with_suffix(".out").read_text(), place.with_suffix(".err").read_text())
            for code, place in zip(codes, places)
        ]


def _start(call: Sequence[str], place: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not _count_gpus():
        environment["TRITON_INTERPRET"] = "1"
    with place.with_suffix(".out").open("wb") as out, place.with_suffix(".err").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "dist_rec.doctor.probes", *call], stdout=out, stderr=err, env=environment
        )


def _wait(process: subprocess.Popen[bytes], deadline: float) -> int | None:
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def _finding(title: str, outcomes: Sequence[_Outcome], fix: str, *, otherwise: Verdict = "fail") -> Finding:
    wrong = [outcome.text for outcome in outcomes if not outcome.worked]
    return Finding(title, otherwise, wrong[0], fix=fix) if wrong else Finding(title, "ok", outcomes[0].text)


def _count_gpus() -> int:
    """Number of GPUs that the driver lists; torch may be unable to use them."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU") for line in listed.splitlines())


def _print(console: Console, findings: Sequence[Finding]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("check", "", "found", "expected"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        style = _STYLE[finding.verdict]
        table.add_row(finding.name, f"[{style}]{finding.verdict}[/]", _plain(finding.found), _plain(finding.expected))
    console.print(table)


def _plain(text: str) -> str:
    """Escapes [brackets], which rich would read as markup."""
    return text.replace("[", r"\[")
