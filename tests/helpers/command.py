"""`dist-rec` in this process, and what it said."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


DistRec = Callable[..., Said]


def in_this_process(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> DistRec:
    """`dist-rec ARGUMENTS` as a function."""
    from dist_rec import cli

    def call(*arguments: str | Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["dist-rec", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capfd.readouterr()
        return Said(int(end.value.code or 0), said.out, said.err)

    return call
