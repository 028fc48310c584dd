"""`dist-rec distill audit`: its lines, and an exit code for scripts."""

import sys
from pathlib import Path

import pytest
import yaml

from dist_rec import cli
from tests.distill.late import telling, write_late


def _said(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str | Path
) -> tuple[int, str, str]:
    """`dist-rec distill ARGUMENTS` in this process: its exit code, output and errors."""
    monkeypatch.setattr(sys, "argv", ["dist-rec", "distill", *map(str, arguments)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capfd.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_a_line_for_each_task_and_what_a_leak_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "recipe.yaml"
    data = write_late(tmp_path / "data")
    recipe.write_text(yaml.safe_dump({"data": {"path": str(data)}, "distill": {"weight": 1.0}}))
    code, out, err = _said(capfd, monkeypatch, "audit", recipe)
    assert (code, err) == (0, "") and out.startswith("convert: feedback alone tells it with AUC 0.")
    assert out.count("\n") == 1

    other = f"data.path={write_late(tmp_path / 'leaking', telling)}"
    code, out, err = _said(capfd, monkeypatch, "audit", recipe, "--set", other)
    assert (
        code == 1 and out.count("\n") == 1 and err.startswith("error: distill: feedback alone tells convert with AUC")
    )
    code, out, err = _said(capfd, monkeypatch, "audit", recipe, "--set", other, "--set", "distill.allow_leak=[convert]")
    assert (code, err) == (0, "")

    code, _, err = _said(capfd, monkeypatch, "audit", recipe, "--set", "distill.tasks={buy: 1.0}")
    assert code == 2 and "distill.tasks: no such task as buy" in err
