import sys
from pathlib import Path

import pytest
import torch

from benchmarks.ladder import memory


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_sees_what_a_call_takes_and_gives_back() -> None:
    memory.growth(lambda: None)
    growth = memory.growth(lambda: torch.ones(16 * 2**20))
    assert growth is not None and 60e6 < growth < 90e6
    again = memory.growth(lambda: None)
    assert again is not None and again < 30e6


def test_nothing_is_known_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "no" / "clear_refs")
    assert memory.growth(lambda: None) is None
