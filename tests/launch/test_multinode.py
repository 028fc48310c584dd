"""Hosts that come, go and come back. Two launchers on this machine are two hosts to torchrun; two network namespaces
are two hosts with a cable between them that can be pulled."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers.launched import MEETS, alive, kill_all, noted, project, start, until

FAST = {"DIST_REC_JOIN_S": "60", "DIST_REC_LAST_CALL_S": "2", "DIST_REC_RANKS": "1"}


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Path]:
    project(tmp_path, MEETS)
    (tmp_path / "notes").mkdir()
    (tmp_path / "recipe.yaml").touch()
    yield tmp_path / "notes"
    kill_all(tmp_path / "notes")


def _multinode(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(folder / "launch" / "multinode.sh"), *options]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DIST_REC_")}
    environment = {**inherited, **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"DIST_REC_RDZV": "a:1"}, "DIST_REC_NNODES: expected the number of hosts, such as 4, or 1:4"),
        ({"DIST_REC_RDZV": "a:1", "DIST_REC_NNODES": "4:1"}, "DIST_REC_NNODES must be a number of hosts"),
        ({"DIST_REC_NNODES": "2"}, "DIST_REC_RDZV: expected HOST:PORT of one of the hosts, the same on all, got"),
        ({"DIST_REC_NNODES": "2", "DIST_REC_RDZV": "node1"}, "DIST_REC_RDZV must be HOST:PORT, got 'node1'"),
        (
            {"DIST_REC_NNODES": "2", "DIST_REC_RDZV": "no-such-host.invalid:1", "DIST_REC_JOIN_S": "1"},
            "the host 'no-such-host.invalid' has no address",
        ),
        (
            {"DIST_REC_NNODES": "2", "DIST_REC_RDZV": "a:1", "DIST_REC_JOIN_S": "0"},
            "DIST_REC_JOIN_S must be a positive",
        ),
        ({"DIST_REC_NNODES": "2", "DIST_REC_RDZV": "a:1", "DIST_REC_RESTARTS": "x"}, "must be a whole number, got 'x'"),
    ],
    ids=["no hosts", "wrong hosts", "no place", "no port", "unknown host", "no time", "restarts"],
)
def test_what_is_wrong_is_told_at_the_door(notes: Path, environment: dict[str, str], said: str) -> None:
    ran = _multinode(notes.parent, str(notes.parent / "recipe.yaml"), **environment)
    assert ran.returncode == 1 and said in ran.stderr, ran.stderr
    assert "Traceback" not in ran.stderr


def test_it_always_goes_on_from_the_newest_checkpoint(notes: Path) -> None:
    (notes.parent / "dist_rec" / "cli.py").write_text("import sys; print(*sys.argv[1:], flush=True)")
    there = {"DIST_REC_NNODES": "1", "DIST_REC_RDZV": f"localhost:{_free_port()}", "DIST_REC_RANKS": "1"}
    recipe = str(notes.parent / "recipe.yaml")
    ran = _multinode(notes.parent, recipe, "--set", "a=b", **there)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == f"train {recipe} --set a=b --resume auto"
    ran = _multinode(notes.parent, recipe, "--resume", "folder", **there)
    assert ran.stdout.splitlines()[-1] == f"train {recipe} --resume folder"


def _host(
    notes: Path, name: str, rdzv: str, *, within: tuple[str, ...] = (), **settings: str
) -> subprocess.Popen[bytes]:
    environment = {**FAST, "NOTES": str(notes), "DIST_REC_RDZV": rdzv, **settings}
    command = [*within, str(notes.parent / "launch" / "multinode.sh"), str(notes.parent / "recipe.yaml")]
    return start(command, output=notes.parent / f"{name}.log", **environment)


def _workers_of(launcher: subprocess.Popen[bytes]) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(launcher.pid)], capture_output=True, text=True, check=False
    )
    return [int(line) for line in listed.stdout.split()]


@pytest.mark.slow
def test_a_host_is_lost_and_comes_back(notes: Path) -> None:
    rdzv, elastic = f"localhost:{_free_port()}", {"DIST_REC_NNODES": "1:2"}
    first = _host(notes, "first", rdzv, **elastic)
    until(lambda: noted(notes, "world-1-*"))
    second = _host(notes, "second", rdzv, **elastic)
    until(lambda: len(noted(notes, "world-2-*")) == 2)
    alone = len(noted(notes, "world-1-*"))
    for process in [second.pid, *_workers_of(second)]:
        os.kill(process, signal.SIGKILL)
    second.wait()
    until(lambda: len(noted(notes, "world-1-*")) > alone)
    assert "restart 1 of 3: rank " in (notes.parent / "first.log").read_text()
    third = _host(notes, "third", rdzv, **elastic)
    until(lambda: len(noted(notes, "world-2-*")) == 4)
    (notes / "finish").touch()
    assert (first.wait(60), third.wait(60)) == (0, 0)
    assert len(noted(notes, "finished-2")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("code", [2, 137], ids=["a mistake", "no restarts left"])
def test_the_other_host_ends_with_the_same_code(notes: Path, code: int) -> None:
    """Whichever of them keeps the store, and however long its own workers would have waited."""
    end = "sys.exit(2)" if code == 2 else "os.kill(os.getpid(), 9)"
    waits = f"if rank == '0': time.sleep(1); {end}\ntime.sleep(600)"
    cli = notes.parent / "dist_rec" / "cli.py"
    cli.write_text(cli.read_text().replace("while True:", f"{waits}\nwhile True:"))
    rdzv, settings = (
        f"localhost:{_free_port()}",
        {"DIST_REC_NNODES": "2", "DIST_REC_RESTARTS": "3" if code == 2 else "0"},
    )
    hosts = [_host(notes, name, rdzv, **settings) for name in ("first", "second")]
    assert [host.wait(90) for host in hosts] == [code, code]
    logs = "".join((notes.parent / f"{name}.log").read_text() for name in ("first", "second"))
    assert logs.count(f"another host has ended the job, with exit code {code}") == 1, logs


@pytest.mark.slow
def test_all_hosts_say_that_they_were_interrupted(notes: Path) -> None:
    rdzv, settings = f"localhost:{_free_port()}", {"DIST_REC_NNODES": "2"}
    hosts = [_host(notes, name, rdzv, **settings) for name in ("first", "second")]
    until(lambda: len(noted(notes, "world-2-life-0")) == 2)
    for host in hosts:
        host.send_signal(signal.SIGUSR1)
    assert [host.wait(60) for host in hosts] == [75, 75]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def cable() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them."""
    names = (f"dra{os.getpid()}", f"drb{os.getpid()}")
    with ExitStack() as stack:
        try:
            for name in names:
                _ip("netns", "add", name)
                stack.callback(_ip, "netns", "del", name)
            _ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
            for number, name in enumerate(names, 1):
                _ip("link", "set", name, "netns", name)
                _ip("-n", name, "addr", "add", f"10.231.77.{number}/24", "dev", name)
                _ip("-n", name, "link", "set", name, "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"this machine lets nobody make network namespaces: {error}")
        yield names


@pytest.mark.slow
def test_a_host_is_cut_off_and_comes_back(notes: Path, cable: tuple[str, str]) -> None:
    """The hosts know each other by address alone. The one without the store waits for it, and is back by itself."""
    near, far = [("ip", "netns", "exec", name) for name in cable]
    rdzv, elastic = "10.231.77.1:29511", {"DIST_REC_NNODES": "1:2", "DIST_REC_RESTARTS": "10"}
    first = _host(notes, "first", rdzv, within=near, **elastic)
    second = _host(notes, "second", rdzv, within=far, **elastic)
    until(lambda: len(noted(notes, "world-2-*")) == 2)
    before = len(noted(notes, "world-1-*"))
    _ip("-n", cable[0], "link", "set", cable[0], "down")
    until(lambda: len(noted(notes, "world-1-*")) > before, timeout_s=240)
    _ip("-n", cable[0], "link", "set", cable[0], "up")
    until(lambda: len(noted(notes, "world-2-*")) >= 4, timeout_s=240)
    (notes / "finish").touch()
    assert (first.wait(60), second.wait(60)) == (0, 0)
    assert not any(map(alive, noted(notes, "world-*")))
