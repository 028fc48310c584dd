from pathlib import Path
from typing import Any

import yaml

from dist_rec.data.kinds import check_fitted
from dist_rec.data.schema_file import load_schema
from tests.data.build.small import ANCHORS, START, config, write_csv
from tests.data.kind_rows import kinds_schema, write_kinds
from tests.data.requests import make_dataset
from tests.helpers.command import DistRec

EVENTS = [{"user": 9, "item": n % 3, "time": START - n, "kind": "a", "order": 0} for n in range(1, 9)]


def logs(folder: Path, **changes: Any) -> Path:
    write_csv(folder / "events.csv", EVENTS)
    write_csv(folder / "shown.csv", ANCHORS)
    path = folder / "build.yaml"
    path.write_text(yaml.safe_dump(config(**changes)))
    return path


def test_build_writes_beside_the_build_file(tmp_path: Path, dist_rec: DistRec) -> None:
    said = dist_rec("data", "build", logs(tmp_path), "--memory", "300MB", "--threads", "1")
    assert said.code == 0, said.err
    assert "small: requests" in said.out and f"launch/local.sh {tmp_path / 'small' / 'recipe.yaml'}" in said.out
    assert load_schema(tmp_path / "small").name == "small"
    looked = dist_rec("data", "inspect", tmp_path / "small", "--page", tmp_path / "page")
    assert looked.code == 0 and (tmp_path / "page" / "inspect.html").is_file()


def test_a_wrong_build_leaves_nothing(tmp_path: Path, dist_rec: DistRec) -> None:
    said = dist_rec("data", "build", logs(tmp_path, events={"user": "usr"}), tmp_path / "out")
    assert said.code == 2 and "sequences.history.user: source 'events' has no column 'usr'; did you mean" in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build.yaml", "events.csv", "shown.csv"]


def test_build_keeps_what_it_did_not_make(tmp_path: Path, dist_rec: DistRec) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    said = dist_rec("data", "build", logs(tmp_path), tmp_path / "out")
    assert said.code == 2 and "one that dist_rec did not make, with mine" in said.err
    assert dist_rec("data", "build", tmp_path / "build.yaml", tmp_path / "out", "--force").code == 0


def test_a_build_file_that_is_not_there(tmp_path: Path, dist_rec: DistRec) -> None:
    said = dist_rec("data", "build", tmp_path / "nothing.yaml")
    assert said.code == 2 and "no such file; expected a build file" in said.err


def test_flat_logs_are_built(tmp_path: Path, dist_rec: DistRec) -> None:
    said = dist_rec("data", "synth", tmp_path / "log", "--flat", "--requests", "100", "--max-length", "30")
    assert said.code == 0 and f"next: dist-rec data build {tmp_path / 'log' / 'build.yaml'}" in said.out, said.err
    assert dist_rec("data", "build", tmp_path / "log" / "build.yaml", tmp_path / "out").code == 0
    refused = dist_rec("data", "synth", tmp_path / "other", "--flat", "--kind", "three")
    assert refused.code == 2 and "expected --kind history with --flat" in refused.err


def test_fit_says_a_line_for_every_number(tmp_path: Path, dist_rec: DistRec) -> None:
    candidate = {"ids": ["item"], "labels": ["click"], "numbers": {"price": {"scale": "log"}, "stay": {"bins": 3}}}
    sequences = [{"name": "searches", "ids": ["query"]}]
    schema = kinds_schema(candidate=candidate, feature_groups={}, attributes={}, sequences=sequences)
    data = write_kinds(tmp_path / "data", {"days": 20}, schema)
    said = dist_rec("data", "fit", data, "--train", "days", "--seed", "3")
    assert said.code == 0 and len(said.out.splitlines()) == 3 + 2, said.err
    assert "candidate.stay: " in said.out and "% missing, from " in said.out and ", 4 bounds, mean " in said.out
    check_fitted(load_schema(data))
    refused = dist_rec("data", "fit", data)
    assert refused.code == 2 and "train: expected a folder of Parquet files" in refused.err


def test_nothing_to_fit(tmp_path: Path, dist_rec: DistRec) -> None:
    said = dist_rec("data", "fit", make_dataset(tmp_path / "data", 8))
    assert said.code == 2 and "expected a schema with numbers, got none to fit" in said.err
