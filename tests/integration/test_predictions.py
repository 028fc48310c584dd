"""Predictions for data of every kind: files on one and two ranks, and one process in Python, give the same numbers."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_rec.config import Config, ParallelConfig
from dist_rec.data.schema import Schema
from dist_rec.data.writer import write_schema, write_split
from dist_rec.predict.columns import More
from dist_rec.predict.job import Prediction
from dist_rec.predict.predict import Wanted, predict_files
from dist_rec.predict.predictor import load_model
from dist_rec.training.ranks import Ranks, start_ranks
from tests.data.build.small import START, build, config
from tests.data.kind_rows import kind_rows, kinds_schema, write_kinds
from tests.data.later import later_rows, later_schema
from tests.data.ngram.schemas import ngram_schema
from tests.data.open_rows import open_rows, open_schema
from tests.data.requests import make_rows, make_table
from tests.helpers.ranks import run_ranks
from tests.training.runs import make_config, quiet_console, run, these_ranks

ALL = More(logits=True, embeddings=True)
Rows = list[dict[str, Any]]


def _predict(config: Config, checkpoint: Path, wanted: Wanted, ranks: Ranks) -> None:
    predict_files(config, checkpoint, wanted, ranks, quiet_console())


def _on_ranks(config: Config, checkpoint: Path, wanted: Wanted) -> None:
    _predict(config, checkpoint, wanted, these_ranks())


def _predicted(config: Config, checkpoint: Path, requests: Path, out: Path) -> pa.Table:
    """On one rank and on two."""
    tables = []
    for ranks in (1, 2):
        place = out / f"on-{ranks}"
        run_ranks(_on_ranks, ranks, config, checkpoint, Wanted(requests, place, ALL, 5))
        whole = Prediction.read(place)
        assert whole is not None and whole.is_complete and len(whole.parts) > 1
        tables.append(pa.concat_tables([pq.read_table(place / part.name) for part in whole.parts]))
    assert tables[0].equals(tables[1])
    return tables[0]


def _trained(config: Config) -> Path:
    with start_ranks(ParallelConfig()) as ranks:
        run(config, ranks)
    return Path(config.run.out) / "run" / "checkpoints" / "last"


def _write(folder: Path, schema: Schema, rows: dict[str, Rows]) -> Path:
    write_schema(folder, schema)
    for split, of in rows.items():
        write_split(folder / split, make_table(of, schema), schema, rows_per_group=8)
    return folder


def _kinds(folder: Path) -> tuple[Path, Rows]:
    return write_kinds(folder, {"train": 48, "valid": 8, "test": 12}), kind_rows(12, 2)


def _open(kind: str, folder: Path, held: int) -> tuple[Path, Rows]:
    rows = {"train": open_rows(48), "valid": open_rows(8, 1), "test": open_rows(12, 2)}
    return _write(folder, open_schema(kind, held), rows), rows["test"]


def _hashed(folder: Path) -> tuple[Path, Rows]:
    return _open("hashed", folder, 40)


def _dynamic(folder: Path) -> tuple[Path, Rows]:
    """Ids that training has not met share a row. There are as many buckets as two ranks can share."""
    return _open("dynamic", folder, 600)


def _ngrams(folder: Path) -> tuple[Path, Rows]:
    rows = {"train": make_rows(48), "valid": make_rows(8, 1), "test": make_rows(12, 2)}
    return _write(folder, ngram_schema(), rows), rows["test"]


def _later(folder: Path) -> tuple[Path, Rows]:
    """Labels that take time, and feedback: neither is known of a request."""
    rows = {"train": later_rows(48), "valid": later_rows(8, 1), "test": later_rows(12, 2)}
    return _write(folder, later_schema(), rows), rows["test"]


@pytest.mark.parametrize(
    "make",
    [_kinds, _hashed, _dynamic, *(pytest.param(of, marks=pytest.mark.slow) for of in (_ngrams, _later))],
    ids=lambda make: make.__name__[1:],
)
def test_data_of_every_kind(tmp_path: Path, make: Any) -> None:
    data, rows = make(tmp_path / "data")
    config = make_config(data, tmp_path, run={"max_steps": 3})
    checkpoint = _trained(config)
    found = _predicted(config, checkpoint, data / "test", tmp_path / "out")
    with load_model(checkpoint) as model:
        wanted = [{name: row[name] for name in model.columns.names} for row in rows]
        assert not any("click" in name or "feedback" in name or "matured" in name for name in model.columns.names)
        assert model.predict(wanted, logits=True, embeddings=True).equals(found)


def test_attributes_that_changed_are_data_that_changed(tmp_path: Path) -> None:
    data, _ = _kinds(tmp_path / "data")
    config = make_config(data, tmp_path, run={"max_steps": 1})
    checkpoint = _trained(config)
    with start_ranks(ParallelConfig()) as ranks:
        wanted = Wanted(data / "test", tmp_path / "out")
        _predict(config, checkpoint, wanted, ranks)
        files = Prediction.read(wanted.out).job.data  # pyright: ignore[reportOptionalMemberAccess]
        kept = [name for name in files if name.startswith("../attributes/")]
        assert {name.split("/")[2] for name in kept} == set(kinds_schema().attributes)


EVENTS = [
    {"user": n % 7, "item": n % 11, "time": START - 90 + n // 3, "kind": "ab"[n % 2], "order": n} for n in range(90)
]
SHOWN = [
    {"user": n % 8, "item": n % 9, "time": START + n % 30, "page": n, "place": n % 3, "click": int(n % 4 == 0)}
    for n in range(90)
]


@pytest.mark.parametrize("trained", ["once", "copies"])
@pytest.mark.slow
def test_histories_that_are_stored_once_are_lists_in_python(tmp_path: Path, trained: str) -> None:
    """The same model from the same requests in copies."""
    context = {"context": {"user": "user"}}
    built = {
        histories: build(tmp_path / histories, config(histories=histories, requests=context), EVENTS, SHOWN)
        for histories in ("copies", "once")
    }
    recipes = {name: make_config(data, tmp_path / f"run-{name}", run={"max_steps": 2}) for name, data in built.items()}
    checkpoint = _trained(recipes[trained])
    found = {
        name: _predicted(recipes[trained], checkpoint, data / "test", tmp_path / f"out-{name}")
        for name, data in built.items()
    }
    assert found["once"].equals(found["copies"])
    copies = pa.concat_tables([pq.read_table(path) for path in sorted((built["copies"] / "test").glob("*.parquet"))])
    with load_model(checkpoint) as model:
        assert model.predict(copies, logits=True, embeddings=True).equals(found["once"])
