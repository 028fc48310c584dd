"""`dist-rec data fit`: a line for every number, and a schema that can be trained."""

import sys
from pathlib import Path

import pytest

from dist_rec import cli
from dist_rec.data.kinds import check_fitted
from dist_rec.data.schema_file import load_schema
from tests.data.kind_rows import kinds_schema, write_kinds
from tests.data.requests import make_dataset


def _said(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str | Path
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["dist-rec", "data", "fit", *map(str, arguments)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capfd.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_a_line_for_every_number(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = {"ids": ["item"], "labels": ["click"], "numbers": {"price": {"scale": "log"}, "stay": {"bins": 3}}}
    sequences = [{"name": "searches", "ids": ["query"]}]
    schema = kinds_schema(candidate=candidate, feature_groups={}, attributes={}, sequences=sequences)
    data = write_kinds(tmp_path / "data", {"days": 20}, schema)
    code, out, err = _said(capfd, monkeypatch, data, "--train", "days", "--seed", "3")
    assert (code, err) == (0, "") and len(out.splitlines()) == 3 + 2
    assert "candidate.stay: " in out and "% missing, from " in out and ", 4 bounds, mean " in out
    check_fitted(load_schema(data))
    code, out, err = _said(capfd, monkeypatch, data)
    assert (code, out) == (2, "") and err.startswith("error: ") and "train: expected a folder of Parquet files" in err


def test_nothing_to_fit(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = _said(capfd, monkeypatch, make_dataset(tmp_path / "data", 8))
    assert code == 2 and "expected a schema with numbers, got none to fit" in err
