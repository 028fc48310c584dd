"""New runs that start from the weights of a checkpoint, on any number of ranks on both sides."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.training import evaluate
from dist_rec.training.checkpoint import load_checkpoint, save_checkpoint
from dist_rec.training.made_with import MadeWith
from dist_rec.training.manifest import Manifest
from dist_rec.training.pipeline import CountedBatches
from dist_rec.training.ranks import Ranks
from dist_rec.training.run_log import RunLog
from dist_rec.training.setup import Run, open_run
from dist_rec.training.splits import dataset_schema
from dist_rec.training.warm_start import WarmStart, check_init, shapes_of, unloaded_model
from tests.helpers.ranks import run_ranks
from tests.training.feedback_data import taught_config, write_feedback
from tests.training.runs import (
    assert_same_weights,
    evaluate_split,
    fresh,
    losses,
    make_config,
    quiet_console,
    run,
    saved_state,
    saved_weights,
    these_ranks,
)

Tables = dict[str, dict[str, Any]]
ROW_WISE: Tables = {"item": {"sharding": ["row_wise"]}, "kind": {"sharding": ["data_parallel"]}}
COLUMN_WISE: Tables = {"item": {"sharding": ["column_wise"]}, "user": {"sharding": ["row_wise"]}}


def _config(data: Path, out: Path, tables: Tables, **changes: Any) -> Config:
    short = {"data": {"batch_size": 4, "eval_batch_size": 1, "valid": []}, "run": {"max_steps": 3}}
    return make_config(data, out, embedding={"tables": tables}, **(short | changes))


def _grown(tables: Tables, **rows: int) -> Tables:
    return {name: tables.get(name, {}) | ({"rows": rows[name]} if name in rows else {}) for name in {**tables, **rows}}


def _opened(config: Config, ranks: Ranks, folder: str = "opened") -> Run:
    with RunLog(Path(config.run.out) / folder, is_main=ranks.is_main, console=quiet_console()) as log:
        return open_run(config, ranks, log, None)


def _start(config: Config, name: str) -> dict[str, Tensor]:
    """The weights that a run starts with: opened on two ranks, saved before a step."""
    run_ranks(_save_start, 2, config, name)
    return _by_name(saved_state(Path(config.run.out) / name)["model"])


def _save_start(config: Config, name: str) -> None:
    ranks = these_ranks()
    opened = _opened(config, ranks)
    save_checkpoint(Path(config.run.out) / name, opened.model, None, ranks)


def _train(config: Config, folder: str) -> None:
    run(config, these_ranks(), folder)


def _start_alone(config: Config, name: str, ranks: Ranks) -> dict[str, Tensor]:
    opened = _opened(config, ranks, f"{name}-opened")
    save_checkpoint(Path(config.run.out) / name, opened.model, None, ranks)
    return _by_name(saved_state(Path(config.run.out) / name)["model"])


def _by_name(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """However tables are spread."""
    return {name.split("embeddings.")[-1].split("replicated.")[-1]: value for name, value in weights.items()}


def _init(checkpoint: Path, **more: Any) -> dict[str, Any]:
    return {"init": {"checkpoint": str(checkpoint), **more}}


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two ranks, of a run with its own way of spreading every table."""
    out = tmp_path_factory.mktemp("two")
    run_ranks(_train, 2, _config(data, out, ROW_WISE), "run")
    return out / "run" / "checkpoints" / "last"


@pytest.fixture
def one(data: Path, tmp_path: Path, alone: Ranks) -> Path:
    run(_config(data, tmp_path / "one", ROW_WISE, checkpoint={"every_steps": 2}), alone)
    return tmp_path / "one" / "run" / "checkpoints" / "last"


@pytest.mark.parametrize("tables", [ROW_WISE, COLUMN_WISE])
def test_weights_are_those_of_the_checkpoint(
    data: Path, tmp_path: Path, alone: Ranks, two: Path, one: Path, tables: Tables
) -> None:
    for number, checkpoint in enumerate((one, two)):
        expected = _by_name(saved_state(checkpoint)["model"])
        config = _config(data, tmp_path, tables, **_init(checkpoint))
        assert_same_weights(_start(config, f"on-two-{number}"), expected)
        assert_same_weights(_start_alone(config, f"on-one-{number}", alone), expected)


@pytest.mark.parametrize("tables", [ROW_WISE, COLUMN_WISE, {"item": {"sharding": ["table_wise"]}}])
def test_a_table_that_has_grown(data: Path, tmp_path: Path, alone: Ranks, two: Path, tables: Tables) -> None:
    before = _by_name(saved_state(two)["model"])
    tables = _grown(tables, item=61, kind=7)
    config = _config(data, tmp_path, tables, **_init(two))
    cold = _config(data, tmp_path, tables)
    for name, found, new in (
        ("two", _start(config, "two"), _start(cold, "two-cold")),
        ("one", _start_alone(config, "one", alone), _start_alone(cold, "one-cold", alone)),
    ):
        for table, ids, rows in (("item", 50, 61), ("kind", 5, 7)):
            weight = found[f"{table}.weight"]
            assert weight.shape == (rows, 8), name
            assert torch.equal(weight[:ids], before[f"{table}.weight"]), (name, table)
            assert torch.equal(weight[ids:], new[f"{table}.weight"][ids:]), "as a run without a checkpoint starts"
        others = [key for key in before if key not in ("item.weight", "kind.weight")]
        assert_same_weights({key: found[key] for key in others}, {key: before[key] for key in others})


def test_the_row_of_hidden_events_stays_the_last(data: Path, tmp_path: Path, alone: Ranks) -> None:
    hides = {"data": {"filter": {"rules": [{"reason": "bot", "field": "item", "values": [1]}]}}}
    run(make_config(data, tmp_path, **hides, run={"max_steps": 2}), alone)
    checkpoint = tmp_path / "run" / "checkpoints" / "last"
    before = _by_name(saved_state(checkpoint)["model"])
    assert before["item.weight"].shape == (51, 8)
    tables = {"item": {"rows": 60, "sharding": ["row_wise"]}, "kind": {"rows": 9, "sharding": ["data_parallel"]}}
    config = make_config(data, tmp_path, embedding={"tables": tables}, **hides, **_init(checkpoint))
    for found in (_start(config, "hidden-two"), _start_alone(config, "hidden-one", alone)):
        for table, ids, rows in (("item", 50, 60), ("kind", 5, 9)):
            weight, old = found[f"{table}.weight"], before[f"{table}.weight"]
            assert weight.shape == (rows + 1, 8)
            assert torch.equal(weight[:ids], old[:ids]) and torch.equal(weight[rows], old[ids])
    plain = make_config(data, tmp_path, **_init(checkpoint))
    assert_same_weights(_start_alone(plain, "plain", alone), before)  # with the row, though nothing is hidden


def test_the_first_loss_and_metrics_are_those_of_the_checkpoint(
    data: Path, tmp_path: Path, alone: Ranks, one: Path
) -> None:
    config = _config(data, tmp_path, ROW_WISE, **_init(one), run={"max_steps": 2})
    opened = _opened(config, alone)
    assert opened.steps_done == 0 and opened.optimizer.state_dict()["counters"].tolist()[:3] == [0, 0, 0]
    model, _ = fresh(config, alone)
    load_checkpoint(one, model, None, alone)
    assert evaluate_split(config, opened.model, alone) == evaluate_split(config, model, alone)
    batch = next(CountedBatches(opened.loader, alone)).to(alone.device)
    first = float(model(batch)[0].detach())
    run(config, alone, "warm")
    run(config.model_copy(update={"init": None}), alone, "cold")
    assert losses(config, "warm")[0] == pytest.approx(first, rel=1e-6) != losses(config, "cold")[0]


def test_names_that_changed_and_names_left_out(data: Path, tmp_path: Path, alone: Ranks, one: Path) -> None:
    before = saved_state(one)["model"]
    swap = {"model.ranker.head.mlps.0.*": "model.ranker.head.mlps.1.*", "tables.kind": "tables.item"}
    init = _init(one, rename=swap, leave_out=["model.ranker.head.mlps.0.*", "tables.kind"])
    with pytest.raises(ConfigError, match=r"both model.ranker.head.mlps.0.0.weight and .*mlps.1.0.weight|both "):
        _opened(_config(data, tmp_path, ROW_WISE, **init), alone)
    swap = {
        "model.ranker.head.mlps.0.*": "model.ranker.head.mlps.1.*",
        "model.ranker.head.mlps.1.*": "model.ranker.head.mlps.0.*",
    }
    config = _config(data, tmp_path, ROW_WISE, **_init(one, rename=swap, leave_out=["tables.k*", "*.norm.bias"]))
    found, cold = _start_alone(config, "swapped", alone), _config(data, tmp_path, ROW_WISE)
    of_cold, expected = _start_alone(cold, "cold", alone), _by_name(before)
    for end in ("0.weight", "0.bias", "3.weight", "3.bias"):
        for a, b in ((0, 1), (1, 0)):
            now, was = f"ranker.head.mlps.{a}.{end}", f"ranker.head.mlps.{b}.{end}"
            assert torch.equal(found[now], expected[was])
    for name in ("kind.weight", "ranker.body.encoders.history.norm.bias"):
        assert torch.equal(found[name], of_cold[name])
    assert not torch.equal(of_cold["kind.weight"], expected["kind.weight"])
    assert torch.equal(found["item.weight"], expected["item.weight"])


def test_the_log_says_what_was_taken(data: Path, tmp_path: Path, alone: Ranks, one: Path) -> None:
    config = _config(data, tmp_path, _grown(ROW_WISE, item=52), **_init(one, leave_out=["tables.kind"]))
    assert config.init is not None
    lines = WarmStart.find(config.init, config, dataset_schema(config)).told()
    assert lines[0].endswith(f"weights of {one}, after step 3; tables with new rows: item")
    assert lines[1:] == [
        "1 weights start fresh: tables.kind",
        "1 weights of the checkpoint are not used: tables.kind",
    ]


def test_weights_belong_to_names_in_any_order(data: Path, tmp_path: Path, alone: Ranks, one: Path) -> None:
    """Labels, fields, sequences and tables in another order."""
    other = tmp_path / "other"
    other.mkdir()
    for split in ("train", "valid", "test"):
        (other / split).symlink_to(data / split)
    tree = yaml.safe_load((data / "schema.yaml").read_text())
    tree["candidate"]["labels"].reverse()
    tree["candidate"]["ids"].reverse()
    tree["sequences"].reverse()
    tree["tables"] = dict(reversed(tree["tables"].items()))
    (other / "schema.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    config = _config(other, tmp_path, ROW_WISE, **_init(one))
    opened = _opened(config, alone)
    assert opened.schema.candidate.labels == ["click", "buy"]
    model, _ = fresh(_config(data, tmp_path, ROW_WISE), alone)
    load_checkpoint(one, model, None, alone)
    expected = evaluate_split(_config(data, tmp_path, ROW_WISE), model, alone)
    assert evaluate.evaluate_split(opened.model, config, opened.schema, ["test"], alone) == expected


def test_checkpoints_say_where_their_run_started(data: Path, tmp_path: Path, alone: Ranks, one: Path) -> None:
    config = _config(data, tmp_path, ROW_WISE, **_init(one), checkpoint={"every_steps": 2})
    run(config, alone, "warm")
    made = MadeWith.read(tmp_path / "warm" / "checkpoints" / "step-2")
    assert made.started_from is not None
    assert made.started_from.model_dump() == {"checkpoint": str(one), "step": 3, "sha256": Manifest.read(one).sha256}
    run(config, alone, "again", tmp_path / "warm" / "checkpoints" / "step-2")
    assert_same_weights(saved_weights(config, "again"), saved_weights(config, "warm"))
    assert MadeWith.read(tmp_path / "again" / "checkpoints" / "last").started_from == made.started_from
    path = one / "made_with.json"
    tree = json.loads(path.read_text())
    assert tree.pop("started_from") is None and tree["recipe"].pop("init") is None
    path.write_text(json.dumps(tree))  # as before there were such runs
    assert MadeWith.read(one).started_from is None


def test_a_teacher_starts_as_the_weights_do(tmp_path: Path, alone: Ranks) -> None:
    data = write_feedback(tmp_path / "feedback")
    run(taught_config(data, tmp_path), alone)
    checkpoint = tmp_path / "run" / "checkpoints" / "last"
    config = taught_config(data, tmp_path, distill={"teacher": "ema"}, **_init(checkpoint))
    found = _start_alone(config, "taught", alone)
    copied = {name: value for name, value in found.items() if name.startswith("objective.teacher.copy.")}
    assert copied
    for name, value in copied.items():
        assert torch.equal(value, found[name.replace("objective.teacher.copy.", "ranker.")])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embedding": {"tables": {"item": {"rows": 49}}}}, "tables.item: the table has shrunk: expected at least 50"),
        ({"embedding": {"tables": {"user": {"dim": 4}}}}, "tables.user: expected rows of width 4, got 8"),
        (
            {"embedding": {"tables": {"item": {"ids": "hashed"}}}},
            "tables.item: expected the same kind of ids, got range",
        ),
        (
            {"model": {"head": {"hidden": [8]}}, "differ": ["model.head.*"]},
            "head.mlps.0.0.bias: expected shape (8,), g",
        ),
        ({"model": {"longer": {"heads": 1}}}, "model.longer.heads: 2 when it was saved, 1 now"),
        ({"differ": ["model.longer.heads"]}, "init.differ: nothing that differs fits model.longer.heads"),
        ({"leave_out": ["tables.itm"]}, "init.leave_out: no weight of the model fits tables.itm"),
        ({"rename": {"tables.itm": "tables.item"}}, "init.rename: nothing in the checkpoint is called tables.itm"),
        ({"rename": {"tables.item": "tables.itm"}}, "would be called tables.itm, which the model does not have"),
        ({"rename": {"tables.item": "tables.itm"}}, "tables.item: expected shape (50, 8), got nothing of that name"),
        ({"freeze": ["tables.itm"]}, "init.freeze: no weight that is trained fits tables.itm"),
        ({"freeze": ["model.*"]}, "dense weights fit model.*; expected at least one that is trained"),
    ],
)
def test_what_does_not_fit_is_refused(
    data: Path, tmp_path: Path, alone: Ranks, changes: dict[str, Any], words: str
) -> None:
    run(make_config(data, tmp_path, run={"max_steps": 1}), alone)
    names = ("differ", "leave_out", "rename", "freeze")
    init = _init(tmp_path / "run" / "checkpoints" / "last", **{k: v for k, v in changes.items() if k in names})
    config = make_config(data, tmp_path, **{k: v for k, v in changes.items() if k not in names}, **init)
    with pytest.raises(ConfigError) as caught:
        check_init(config, dataset_schema(config), resumed=False)
    assert words in str(caught.value)


def test_a_damaged_checkpoint_is_refused(data: Path, tmp_path: Path, alone: Ranks, one: Path) -> None:
    path = one / "__0_0.distcp"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    config = _config(data, tmp_path, ROW_WISE, **_init(one))
    with pytest.raises(ConfigError, match=r"__0_0.distcp: damaged"):
        _opened(config, alone)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match="was it copied whole"):
        check_init(config, dataset_schema(config), resumed=False)
    check_init(config, dataset_schema(config), resumed=True)  # the checkpoint is not read


def test_a_model_without_memory_draws_no_random_numbers(data: Path, tmp_path: Path) -> None:
    config = make_config(data, tmp_path)
    before = torch.get_rng_state()
    model = unloaded_model(dataset_schema(config), config)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(weight.is_meta for weight in model.parameters())
    assert shapes_of(model)["tables.item"] == (50, 8) and "model.ranker.head.mlps.0.0.bias" in shapes_of(model)
