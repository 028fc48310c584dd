"""`dist-rec serve` and its options; a server that runs: tests/integration/test_server.py."""

from importlib import util
from pathlib import Path
from typing import Any

import pytest

from dist_rec import serve_cli
from dist_rec.serve.server.settings import Settings
from tests.helpers.command import DistRec


def test_the_settings_are_the_options(dist_rec: DistRec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dist_rec.serve.server import run

    ran: list[Any] = []
    monkeypatch.setattr(run, "run", lambda *arguments: ran.append(arguments))
    dist_rec("serve", str(tmp_path))
    dist_rec("serve", str(tmp_path), "--port", "9", "--max-wait-ms", "0.5", "--disk", "~/states", "--precision", "bf16")
    assert ran[0] == (tmp_path, Settings())
    assert ran[1][1] == Settings(port=9, max_wait_ms=0.5, disk="~/states", precision="bf16")


def test_wrong_options_are_told(dist_rec: DistRec, tmp_path: Path) -> None:
    done = dist_rec("serve", str(tmp_path), "--port", "70000")
    assert done.code == 2 and "port: " in done.err
    done = dist_rec("serve", str(tmp_path), "--redis", "redis://a", "--disk", "b")
    assert done.code == 2 and "expected disk or redis, got both" in done.err


def test_without_the_extra_it_says_what_to_install(
    dist_rec: DistRec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(serve_cli, "find_spec", lambda name: None if name == "uvicorn" else util.find_spec(name))
    done = dist_rec("serve", str(tmp_path))
    assert done.code == 2 and "a server needs uvicorn; install it with: pip install 'dist-rec[serve]'" in done.err
