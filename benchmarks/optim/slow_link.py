"""Two hosts on one machine, joined by a slow link: how much of the dense all-reduce does each kind of update hide?

The hosts are network namespaces joined by a veth pair; `tc` limits both directions with a token bucket. Needs Linux,
root and iproute2."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.optim.slow_link_rank import BACKWARD_S, BATCH, BUCKET_MB, FORWARD_S, LAYERS, WIDTH
from benchmarks.optim.slow_link_table import row, tables
from dist_rec.common.provenance import provenance_lines

RATIOS = (0.5, 1.0, 2.0)  # time of the all-reduce alone, in units of the step without it
GRADIENT_BYTES = LAYERS * (WIDTH * WIDTH + WIDTH) * 4
WINDOW = 128 * 1024  # bytes of a TCP connection under way: what a link of this kind needs, not megabytes in its queue
NAMES = ("dist-rec-a", "dist-rec-b")


def check_machine() -> str:
    """What this machine lacks, or nothing."""
    if sys.platform != "linux":
        return f"network namespaces are Linux's, this is {sys.platform}"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"found no `{tool}` on PATH; it comes with iproute2 (Debian: apt install iproute2)"
    if os.geteuid() != 0:
        return "network namespaces need root; call it with sudo -E"
    return ""


@contextmanager
def two_hosts() -> Iterator[None]:
    """Both namespaces, up and joined; taken away at the end, and before the start if an earlier run left them."""
    _remove()
    try:
        for name in NAMES:
            _call("ip", "netns", "add", name)
        _call("ip", "link", "add", "dr0", "type", "veth", "peer", "name", "dr1")
        for number, name in enumerate(NAMES):
            _call("ip", "link", "set", f"dr{number}", "netns", name)
            inside = ("ip", "netns", "exec", name, "ip")
            _call(*inside, "addr", "add", f"10.9.0.{number + 1}/24", "dev", f"dr{number}")
            _call(*inside, "link", "set", f"dr{number}", "up")
            _call(*inside, "link", "set", "lo", "up")
            for buffers in ("tcp_wmem", "tcp_rmem"):
                limit = f"net.ipv4.{buffers}=4096 {WINDOW} {WINDOW}"
                _call("ip", "netns", "exec", name, "sysctl", "-w", limit)
        yield
    finally:
        _remove()


def set_rate(mbit: float | None) -> None:
    """Limits both directions, or lifts the limit."""
    for number, name in enumerate(NAMES):
        inside, device = ("ip", "netns", "exec", name, "tc", "qdisc"), f"dr{number}"
        if mbit is None:
            subprocess.run([*inside, "del", "dev", device, "root"], check=False, capture_output=True)
        else:
            limit = ("tbf", "rate", f"{mbit:.0f}mbit", "burst", "256kb", "latency", "200ms")
            _call(*inside, "replace", "dev", device, "root", *limit)


def measure(steps: int, rounds: int, ids: int) -> dict[str, list[float]]:
    """Seconds per step of every kind, as rank 0 saw them; torchrun on both hosts."""
    with TemporaryDirectory() as folder:
        processes = [_start(number, steps, rounds, ids, Path(folder) / "seconds.json") for number in range(2)]
        codes = [process.wait(timeout=900) for process in processes]
        if any(codes):
            raise RuntimeError(f"the ranks ended with {codes}; their output is above")
        return json.loads((Path(folder) / "seconds.json").read_text())


def _start(number: int, steps: int, rounds: int, ids: int, out: Path) -> subprocess.Popen[bytes]:
    arguments = [
        "-m",
        "benchmarks.optim.slow_link_rank",
        "--steps",
        str(steps),
        "--rounds",
        str(rounds),
        "--ids",
        str(ids),
        "--out",
        str(out),
    ]
    return _torchrun(number, arguments)


def _torchrun(number: int, arguments: list[str]) -> subprocess.Popen[bytes]:
    """One rank on host `number`."""
    command = ["ip", "netns", "exec", NAMES[number], sys.executable, "-m", "torch.distributed.run"]
    command += ["--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1"]
    command += ["--master-addr", "10.9.0.1", "--master-port", "29700", *arguments]
    environment = os.environ | {
        "GLOO_SOCKET_IFNAME": f"dr{number}",
        "TP_SOCKET_IFNAME": f"dr{number}",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(command, env=environment)


def trace(recipe: str, mbit: float, out: Path) -> None:
    """`dist-rec train --trace` of a recipe across the link, drawn."""
    from benchmarks.plot_trace import draw, read

    with two_hosts(), TemporaryDirectory() as folder:
        set_rate(mbit)
        arguments = [
            "-m",
            "dist_rec.cli",
            "train",
            recipe,
            "--trace",
            "--set",
            f"run.out={folder}",
            "--set",
            "run.name=traced",
        ]
        for change in (
            "run.max_steps=60",
            "data.valid=[]",
            "data.test=[]",
            "optim.warmup_sync_steps=10",
            "optim.bucket_cap_mb=0.1",
        ):
            arguments += ["--set", change]
        processes = [_torchrun(number, arguments) for number in range(2)]
        if any([process.wait(timeout=580) for process in processes]):
            raise RuntimeError("training failed; its output is above")
        draw(read(Path(folder) / "traced" / "trace" / "rank0.json"), out)


def slow_link(steps: int, rounds: int, ids: int) -> tuple[list[str], list[dict[str, Any]]]:
    """Lines of the page and a row per link rate."""
    rows = []
    with two_hosts():
        free = measure(steps, rounds, ids)
        rows.append(row("unlimited", free, rounds))
        print(rows[-1], flush=True)
        compute = float(np.median(free["none"]))
        for ratio in RATIOS:
            mbit = GRADIENT_BYTES * 8 / (ratio * compute) / 1e6
            set_rate(mbit)
            rows.append(row(f"{mbit:.0f} Mbit/s", measure(steps, rounds, ids), rounds))
            print(rows[-1], flush=True)
    title = (
        f"{LAYERS} layers of {WIDTH} x {WIDTH}, which sleep for {1e3 * FORWARD_S:.0f} ms forward and "
        f"{1e3 * BACKWARD_S:.0f} ms backward in the place of a device, and a small sharded table: "
        f"{GRADIENT_BYTES / 1e6:.1f} MB of dense gradients in buckets of {BUCKET_MB:.0f} MB, {BATCH} samples per rank "
        f"({ids} of them with an id), AdamW, `TrainPipelineSparseDist` unless another is named; two hosts with one "
        f"rank of one thread each, gloo. {rounds} rounds of {steps} steps of every kind in turns. In ms."
    )
    lines = [*provenance_lines(), "", title, "", *tables(rows)]
    return lines, rows


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")


def _remove() -> None:
    for name in NAMES:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
