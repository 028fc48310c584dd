"""A model in a process of one's own: the numbers of `dist-rec predict`, and nothing left behind."""

import json
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

import dist_rec
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.errors import DataError
from dist_rec.predict.columns import More
from dist_rec.predict.folder import part_name
from dist_rec.predict.predict import Wanted, predict_files
from dist_rec.predict.predictor import load_model
from dist_rec.training.ranks import Ranks
from dist_rec.training.report import config_yaml
from tests.data.requests import make_rows, make_table
from tests.training.runs import make_config, quiet_console


def _in_files(config: Config, checkpoint: Path, data: Path, out: Path, ranks: Ranks) -> pa.Table:
    wanted = Wanted(data / "test", out, More(True, True), part_requests=100)
    predict_files(config, checkpoint, wanted, ranks, quiet_console())
    return pq.read_table(out / part_name(0))


def test_it_predicts_what_the_command_predicts(
    config: Config, last: Path, data: Path, tmp_path: Path, alone: Ranks
) -> None:
    wanted = _in_files(config, last, data, tmp_path / "out", alone)
    rows = make_rows(15, seed=2)
    with load_model(last) as model:
        assert model.tasks == ["click", "buy"] and "candidate.click" not in model.columns.names
        unlabelled = [{name: row[name] for name in model.columns.names} for row in rows]
        for requests in (make_table(rows), rows, unlabelled):
            assert model.predict(requests, logits=True, embeddings=True).equals(wanted)
        assert model.predict(rows).equals(wanted.select(model.predict(rows).column_names))
        few = model.predict(rows[3:5])
        assert few.column("candidate.item").to_pylist() == [row["candidate.item"] for row in rows[3:5]]


def test_no_requests_are_an_empty_table_with_the_same_columns(last: Path) -> None:
    with load_model(last) as model:
        found = model.predict([], logits=True, embeddings=True)
        assert found.num_rows == 0
        assert found.schema == model.predict(make_rows(2), logits=True, embeddings=True).schema


def test_it_needs_no_data_and_leaves_the_process_as_it_was(config: Config, last: Path, tmp_path: Path) -> None:
    shutil.copytree(last, tmp_path / "last")
    made = tmp_path / "last" / "made_with.json"
    tree = json.loads(made.read_text())
    tree["recipe"]["data"]["path"] = "/nowhere"
    made.write_text(json.dumps(tree))
    torch.manual_seed(3)
    random.seed(3)
    before = torch.get_rng_state(), random.getstate()
    recipe = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"verify": False})})
    with load_model(tmp_path / "last", recipe) as model, load_model(last) as other:
        assert model.predict(make_rows(4)).equals(other.predict(make_rows(4)))
        assert dist.is_initialized()
    assert not dist.is_initialized()
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    model.close()
    with pytest.raises(ValueError, match="expected an open predictor"):
        model.predict(make_rows(1))


def test_threads_may_share_one(last: Path) -> None:
    rows = make_rows(12)
    with load_model(last) as model:
        wanted, found = model.predict(rows), list[pa.Table]()
        threads = [threading.Thread(target=lambda: found.append(model.predict(rows))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4 and all(table.equals(wanted) for table in found)


def test_a_recipe_may_be_given_as_a_file(config: Config, last: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(config_yaml(config))
    with load_model(str(last), tmp_path / "recipe.yaml", device="cpu") as model:
        assert model.predict(make_rows(1)).num_rows == 1


def test_histories_are_filtered_as_in_an_evaluation(data: Path, last: Path, tmp_path: Path, alone: Ranks) -> None:
    rules = [{"reason": "bot", "field": "item", "values": list(range(25))}]
    drops = {"filter": {"rules": rules, "actions": {"bot": "drop"}}}
    config = make_config(data, tmp_path, data=drops)
    wanted = _in_files(config, last, data, tmp_path / "out", alone)
    with load_model(last, config) as model, load_model(last) as plain:
        found = model.predict(make_rows(15, seed=2), logits=True, embeddings=True)
        assert found.equals(wanted)
        assert not found.equals(plain.predict(make_rows(15, seed=2), logits=True, embeddings=True))


def test_nothing_that_a_checkpoint_names_is_imported(last: Path, config: Config, tmp_path: Path) -> None:
    shutil.copytree(last, tmp_path / "last")
    made = tmp_path / "last" / "made_with.json"
    tree = json.loads(made.read_text())
    tree["recipe"]["model"]["head"]["loss"] = "antigravity:Loss"
    made.write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=r"model\.head\.loss=antigravity:Loss; nothing that a checkpoint names"):
        load_model(tmp_path / "last")
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("harm", "message"), [("gone", "not a checkpoint"), ("changed", "damaged: its SHA-256"), ("cut", "was it copied")]
)
def test_a_checkpoint_that_is_none_is_said(last: Path, tmp_path: Path, harm: str, message: str) -> None:
    place = tmp_path / "last"
    if harm != "gone":
        shutil.copytree(last, place)
        (file,) = place.glob("__0_*")
        whole = file.read_bytes()
        file.write_bytes(whole[:-9] if harm == "cut" else whole[:99] + bytes([whole[99] ^ 1]) + whole[100:])
    with pytest.raises(ConfigError, match=message):
        load_model(place)
    assert not dist.is_initialized()


def test_a_wrong_request_is_told_and_the_next_one_is_answered(last: Path) -> None:
    rows: list[dict[str, Any]] = make_rows(2)
    with load_model(last) as model:
        with pytest.raises(DataError, match=r"row 1, field history\.item: expected .* got 99"):
            model.predict([rows[0], rows[1] | {"history.item": [99] * len(rows[1]["history.item"])}])
        assert model.predict(rows).num_rows == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_said(last: Path) -> None:
    with pytest.raises(ConfigError, match="no GPU is visible"):
        load_model(last, device="cuda")


def test_it_is_a_name_of_the_package() -> None:
    assert dist_rec.load_model is load_model
