"""What is said of a place where hosts cannot meet, and what torchrun is told of one where they can."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PREPARE = """
import sys
from meeting import MeetingError, prepare
from torch.distributed.run import parse_args
args = parse_args(["--rdzv-backend", "c10d", "--rdzv-endpoint", sys.argv[1], "--rdzv-conf", "join_timeout=2", "x.py"])
try:
    prepare(args)
except MeetingError as error:
    sys.exit(str(error))
print(args.local_addr, args.rdzv_conf)
"""


@pytest.fixture
def taken() -> Iterator[int]:
    """A port whose program accepts connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _prepare(endpoint: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "launch")}
    command = [sys.executable, "-c", PREPARE, endpoint]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_port_that_another_program_has(taken: int) -> None:
    ran = _prepare(f"localhost:{taken}")
    assert ran.returncode == 1
    expected = (
        f"DIST_REC_RDZV=localhost:{taken}: the port is taken by another program; expected a free one on localhost"
    )
    assert ran.stderr.strip() == expected


def test_a_host_where_nobody_listens() -> None:
    """192.0.2.0/24 is for documents."""
    ran = _prepare("192.0.2.1:29500")
    assert ran.returncode == 1
    assert ran.stderr.startswith(
        "DIST_REC_RDZV=192.0.2.1:29500: nobody listens there; expected the same call on 192.0.2.1"
    )


def test_the_host_of_the_place_knows_that_it_is(taken: int) -> None:
    """Also by an address that its name does not have, as on a second network."""
    ran = _prepare(f"127.0.0.77:{taken}")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[0].startswith("127.")
