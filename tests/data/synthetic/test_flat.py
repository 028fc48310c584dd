import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from dist_rec.data.build.build import build_dataset, load_build
from dist_rec.data.errors import DataError
from dist_rec.data.synthetic import flat
from dist_rec.data.synthetic.flat import synthesize_flat
from dist_rec.data.synthetic.history import SynthConfig, plant
from dist_rec.data.writer import split_in_order

SMALL = SynthConfig(requests=500, max_length=200, items=300, categories=8, users=40)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("flat") / "log"
    synthesize_flat(out, SMALL)
    return out


def test_what_is_built_is_what_was_planted(made: Path, tmp_path: Path) -> None:
    """Every history, candidate and label, in the same order."""
    build_dataset(load_build(made / "build.yaml"), tmp_path / "built", folder=made)
    numbers = {}
    for table in ("item", "category", "segment"):
        rows = pq.read_table(tmp_path / "built" / "_build" / f"{table}.parquet").to_pylist()
        numbers[table] = {int(row["value"]): row["id"] for row in rows}
    requests, truth = plant(SMALL, by_time=True)
    for split, part in split_in_order(requests).items():
        wanted = pa.concat_tables(truth.tables(part)).to_pydict()
        found = pq.read_table(tmp_path / "built" / split).to_pydict()
        assert found["time"] == wanted["time"]
        assert found["segment"] == [numbers["segment"].get(of, 0) for of in wanted["segment"]]
        for name in ("history.item", "history.category", "candidate.item", "candidate.category"):
            known = numbers[name.partition(".")[2]]
            assert found[name] == [[known.get(of, 0) for of in row] for row in wanted[name]], name
        for name in ("history.time", "history.action", "candidate.click"):
            assert found[name] == wanted[name], name


def test_the_log_is_in_order_of_time_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "EVENTS_PER_FILE", 300)
    synthesize_flat(tmp_path / "log", SMALL)
    files = sorted((tmp_path / "log" / "events").iterdir())
    assert len(files) > 3
    seconds = [time // 1000 for file in files for time in pa_csv.read_csv(file).column("ts_ms").to_pylist()]
    assert seconds == sorted(seconds)


def test_stats_are_those_of_the_planted_requests(made: Path) -> None:
    stats = json.loads((made / "stats.json").read_text())
    assert [stats[split]["rows"] for split in ("train", "valid", "test")] == [400, 50, 50]
    assert stats["test"]["best_auc"] > 0.8


def test_a_folder_of_others_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("x")
    with pytest.raises(DataError, match="expected a new or empty folder, or a flat log that dist_rec made"):
        synthesize_flat(tmp_path, SMALL)
