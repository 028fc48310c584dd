"""Scores beside the data: nothing else changes, a filter can use them, and nothing is half written."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dist_rec.cli import app
from dist_rec.common.strict import ConfigError
from dist_rec.data.columns import ragged_values
from dist_rec.data.errors import DataError
from dist_rec.data.inspect import inspect_dataset
from dist_rec.data.schema_file import load_schema
from dist_rec.probe.fit import fit_probe
from dist_rec.probe.labels import WeakLabels
from dist_rec.probe.probe import EventProbe
from dist_rec.probe.score import score_dataset
from tests.probe.data import DOMAIN, FAST, make_data


@pytest.fixture(scope="module")
def probe(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fitted") / "probe"
    fit_probe(data, WeakLabels("history.is_forget"), config=FAST).save(out)
    return out


def test_only_scores_are_new(data: Path, probe: Path, tmp_path: Path) -> None:
    above = score_dataset(data, probe, tmp_path / "scored")
    for path in data.rglob("*.parquet"):
        old, new = pq.ParquetFile(path), pq.ParquetFile(tmp_path / "scored" / path.relative_to(data))
        assert [new.metadata.row_group(i).num_rows for i in range(new.num_row_groups)] == [
            old.metadata.row_group(i).num_rows for i in range(old.num_row_groups)
        ]
        assert new.schema_arrow.names == [*old.schema_arrow.names, "history.score", "candidate.score"]
        assert new.read(old.schema_arrow.names).equals(old.read())
        assert new.schema_arrow.field("history.score").type == pa.list_(pa.float16())
    schema = load_schema(tmp_path / "scored")
    assert schema.sequences[0].score and schema.candidate.score
    assert (tmp_path / "scored" / "stats.json").read_bytes() == (data / "stats.json").read_bytes()
    table = pq.read_table(tmp_path / "scored" / "test").combine_chunks()
    scores, wanted = ragged_values(table, "history.score").values, ragged_values(table, "history.category").values
    assert scores[np.isin(wanted, DOMAIN)].mean() > 0.8 > 0.3 > scores[~np.isin(wanted, DOMAIN)].mean()
    exact, _ = EventProbe.load(probe, load_schema(data)).score(table, load_schema(data), candidates=False)
    np.testing.assert_allclose(scores, exact, atol=1e-3)
    assert set(above) == {"history", "candidate"} and 0.1 < above["history"] < 0.3
    inspect_dataset(tmp_path / "scored")  # every file is valid


def test_in_its_own_place_and_again(probe: Path, tmp_path: Path) -> None:
    folder = make_data(tmp_path / "data")
    with pytest.raises(DataError, match="expected a new or empty folder"):
        score_dataset(folder, probe, folder)  # somebody rewrote its files
    score_dataset(folder, probe, folder, force=True)
    first = pq.read_table(folder / "test")
    score_dataset(folder, probe, folder)
    assert pq.read_table(folder / "test").equals(first), "an old score is replaced"


def test_a_failure_leaves_the_data(probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_data(tmp_path / "data")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    calls: list[int] = []

    def fails(self: EventProbe, *arguments: object, **options: object) -> None:
        calls.append(1)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        return real(self, *arguments, **options)

    real = EventProbe.score
    monkeypatch.setattr(EventProbe, "score", fails)
    with pytest.raises(DataError, match="No space left"):
        score_dataset(folder, probe, folder, force=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_commands(data: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("\n".join(map(str, DOMAIN)))
    given = ["--labels", f"category={tmp_path / 'ids.txt'}", "--level", "session", "--session", "gap_s=900"]
    given += ["--session", "share=0.4", "--out", str(tmp_path / "probe")]
    told = CliRunner().invoke(app, ["filter", "fit", str(data), *given])
    assert told.exit_code == 0 and "by F1" in told.output, told.output
    given = ["--probe", str(tmp_path / "probe"), "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(app, ["filter", "score", str(data), *given])
    assert told.exit_code == 0 and "of history above" in told.output, told.output
    assert isinstance(
        CliRunner().invoke(app, ["filter", "score", str(data), "--probe", str(data), "--out", "x"]).exception,
        ConfigError,
    )
