"""The socket of a server; its process: tests/integration/test_server.py."""

import socket
import threading
from pathlib import Path

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.serve.server.run import listening_at, run
from dist_rec.serve.server.settings import Settings


def test_connections_do_not_wait_for_acknowledgements() -> None:
    with listening_at("127.0.0.1", 0) as listening:
        with socket.create_connection(listening.getsockname()):
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        with pytest.raises(OSError):
            listening_at("127.0.0.1", listening.getsockname()[1])


def test_a_first_export_that_is_none_ends_it(tmp_path: Path) -> None:
    assert threading.current_thread() is threading.main_thread(), "signals are handled there"
    with pytest.raises(ConfigError, match="not an export"):
        run(tmp_path, Settings(port=0, disk=str(tmp_path / "states")))
    run_again = Settings(port=0, disk=str(tmp_path / "states"))
    with pytest.raises(ConfigError, match="not an export"):
        run(tmp_path, run_again)  # the folder of states is free again
