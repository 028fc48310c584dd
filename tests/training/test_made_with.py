"""A checkpoint's names: another order of everything gives the same metrics, any other difference is said."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.columns import arrow_schema
from dist_rec.data.schema_file import load_schema
from dist_rec.training.evaluate import evaluate_checkpoint
from dist_rec.training.made_with import FILE, MadeWith
from dist_rec.training.ranks import Ranks
from dist_rec.training.splits import dataset_schema
from tests.training.feedback_data import taught_config, write_feedback
from tests.training.runs import losses, make_config, run, write_dataset


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "own")


def _change(data: Path, **changes: Any) -> None:
    tree = yaml.safe_load((data / "schema.yaml").read_text())
    for path, value in changes.items():
        *above, last = path.split("__")
        place = tree
        for step in above:
            place = place[int(step) if step.isdigit() else step]
        place[last] = value
    (data / "schema.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def _reversed(data: Path) -> None:
    """Every list and mapping whose order means nothing, the other way round."""
    tree = yaml.safe_load((data / "schema.yaml").read_text())
    tree["tables"] = dict(reversed(tree["tables"].items()))
    tree["context"].reverse()
    tree["sequences"].reverse()
    tree["candidate"]["labels"].reverse()
    for owner in (*tree["sequences"], tree["candidate"]):
        owner["ids"].reverse()
        owner["side"] = dict(reversed(owner.get("side", {}).items()))
    (data / "schema.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param(
            {"interaction": "rankmixer", "rankmixer": {"width": 10}, "head": {"inputs": ["mixed"], "hidden": [8]}},
            marks=pytest.mark.slow,
        ),
        {"head": {"inputs": ["globals", "sequence_mean", "context", "candidate"], "hidden": [8]}},
    ],
    ids=["longer", "rankmixer", "all inputs"],
)
def test_another_order_is_the_same_model(own_data: Path, tmp_path: Path, alone: Ranks, model: dict[str, Any]) -> None:
    config = make_config(own_data, tmp_path, model=model, run={"max_steps": 4}, checkpoint={"every_steps": 2})
    run(config, alone)
    checkpoints = tmp_path / "run" / "checkpoints"
    before = evaluate_checkpoint(config, checkpoints / "last", "test", alone)
    _reversed(own_data)
    assert load_schema(own_data).candidate.labels == ["buy", "click"]
    assert sorted(evaluate_checkpoint(config, checkpoints / "last", "test", alone)) == sorted(before)
    run(config, alone, "resumed", resume=checkpoints / "step-2")
    assert losses(config, "resumed") == losses(config, "run")[2:]


@pytest.mark.parametrize(
    ("schema", "recipe", "message"),
    [
        ({"tables__item": 60}, {}, "tables.item: 50 ids when it was saved, 60 ids now"),
        (
            {"candidate__labels": ["click", "purchase"]},
            {},
            "label purchase: nothing of that name when it was saved, defined now",
        ),
        ({"candidate__given": {"buy": "click"}}, {}, "label buy: defined when it was saved, given click now"),
        (
            {"sequences__0__side__action": 5},
            {},
            "sequence history, field action: 4 values when it was saved, 5 values now",
        ),
        ({"sequences__0__time": False}, {}, "sequence history, times: True when it was saved, False now"),
        ({"context": []}, {}, "context, field user: of table user when it was saved, nothing of that name now"),
        (
            {"feature_groups": {"all": ["context.user", "candidate.item", "candidate.kind"]}},
            {},
            "group all: nothing of that name",
        ),
        ({"request__cyclic": True}, {}, "request.cyclic: None when it was saved, 0.0 now"),
        (
            {"request__numbers": {"price": {"encoding": "buckets", "bounds": [1.0]}}},
            {},
            "number context.price: nothing of that name when it was saved, {'scale': 'linear', 'encoding': 'buckets'",
        ),
        ({}, {"model": {"longer": {"k": 4}}}, "model.longer.k: 3 when it was saved, 4 now"),
        (
            {"sequences": [{"name": "history", "ids": ["item", {"name": "kind", "ngram": {"rows": 7, "heads": 1}}]}]},
            {},
            "n-grams history.kind: nothing of that name when it was saved, {",
        ),
        ({}, {"model": {"tokens": {"position": "absolute"}}}, "model.tokens.position: recency when it was saved"),
        ({}, {"embedding": {"tables": {"item": {"dim": 4}}}}, "embedding.tables.item.dim: 8 when it was saved, 4 now"),
        (
            {},
            {"embedding": {"tables": {"item": {"sharding": ["data_parallel"]}}}},
            "embedding.tables.item is data_parallel: False when it was saved, True now",
        ),
    ],
)
def test_every_difference_is_said(
    own_data: Path, tmp_path: Path, alone: Ranks, schema: dict[str, Any], recipe: dict[str, Any], message: str
) -> None:
    made = MadeWith.now(load_schema(own_data), make_config(own_data, tmp_path), 1, 2)
    _change(own_data, **schema)
    with pytest.raises(ConfigError, match=r"here: does not fit this schema and recipe") as caught:
        made.schema_for(load_schema(own_data), make_config(own_data, tmp_path, **recipe), Path("here"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "recipe"),
    [
        ({"name": "renamed"}, {}),
        ({"candidate__oracle": False}, {}),
        ({}, {"optim": {"lr": 0.5}, "run": {"seed": 3}, "data": {"eval_batch_size": 7}}),
        ({}, {"model": {"recompute": ["cross"], "longer": {"dropout": 0.5}, "head": {"task_weights": {"click": 2.0}}}}),
        ({}, {"optim": {"optimizer": "sgd"}}),
    ],
)
def test_what_means_nothing_to_weights_may_differ(
    own_data: Path, tmp_path: Path, schema: dict[str, Any], recipe: dict[str, Any]
) -> None:
    made = MadeWith.now(load_schema(own_data), make_config(own_data, tmp_path), 1, 2)
    _change(own_data, **schema)
    now = load_schema(own_data)
    assert made.schema_for(now, make_config(own_data, tmp_path, **recipe), Path("here")) == now


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {"optimizer": "sgd"}}, "optim.optimizer: adamw when it was saved, sgd now"),
        ({"optim": {"accumulation_steps": 2}}, "optim.accumulation_steps: 1 when it was saved, 2 now"),
        ({"optim": {"correction": "extrapolate"}}, "optim.correction: none when it was saved, extrapolate now"),
        ({"embedding": {"optimizer": "sgd"}}, "embedding.optimizer: rowwise_adagrad when it was saved, sgd now"),
    ],
)
def test_a_run_that_goes_on_must_share_more(
    data: Path, tmp_path: Path, alone: Ranks, changes: dict[str, Any], message: str
) -> None:
    run(make_config(data, tmp_path, run={"max_steps": 4}, checkpoint={"every_steps": 2}), alone)
    step = tmp_path / "run" / "checkpoints" / "step-2"
    with pytest.raises(ConfigError, match=message):
        run(make_config(data, tmp_path, **changes, run={"max_steps": 4}), alone, "resumed", resume=step)


def test_it_is_written_and_read(own_data: Path, tmp_path: Path) -> None:
    made = MadeWith.now(load_schema(own_data), make_config(own_data, tmp_path), 2, 7)
    made.write(tmp_path)
    assert MadeWith.read(tmp_path) == made
    told = json.loads((tmp_path / FILE).read_text())
    assert told["step"] == 7 and told["ranks"] == 2 and {"python", "torch", "torchrec"} <= set(told["versions"])


def test_a_field_that_was_left_out_stays_out(own_data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(
        own_data, tmp_path, data={"leave_out": ["user"]}, run={"max_steps": 1}, model={"longer": {"globals": ["cls"]}}
    )
    run(config, alone)
    last = tmp_path / "run" / "checkpoints" / "last"
    assert evaluate_checkpoint(config, last, "test", alone)
    whole = config.model_copy(update={"data": config.data.model_copy(update={"leave_out": []})})
    with pytest.raises(ConfigError, match="context, field user: nothing of that name when it was saved"):
        evaluate_checkpoint(whole, last, "test", alone)
    shutil.rmtree(last)
    with pytest.raises(ConfigError, match="not a checkpoint"):
        evaluate_checkpoint(config, last, "test", alone)


@pytest.mark.parametrize(
    "changes", [{"run": {"select_best": "auc"}}, {"data": {"valid": ["test"]}}, {"data": {"train": ["test"]}}]
)
def test_a_run_that_goes_on_chooses_by_the_same(data: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    schema = load_schema(data)
    made = MadeWith.now(schema, make_config(data, tmp_path), 1, 2)
    other = make_config(data, tmp_path, **changes)
    assert made.schema_for(schema, other, Path("here")) == schema
    with pytest.raises(ConfigError, match=r"select_best|data\.valid|data\.train"):
        made.schema_for(schema, other, Path("here"), resumed=True)


FILTER = {"rules": [{"reason": "bot", "field": "item", "values": [1, 2, 3]}]}


def test_weights_with_hidden_and_recipes_without(data: Path, tmp_path: Path, alone: Ranks) -> None:
    """A recipe that hides nothing evaluates weights that have HIDDEN; the other way round there is no such row."""
    plain, hiding = (make_config(data, tmp_path, data={"filter": of}, run={"max_steps": 1}) for of in (None, FILTER))
    for name, config in (("plain", plain), ("hiding", hiding)):
        run(config, alone, name)
    folders = {name: tmp_path / name / "checkpoints" / "last" for name in ("plain", "hiding")}
    assert evaluate_checkpoint(plain, folders["hiding"], "test", alone)
    with pytest.raises(ConfigError, match="tables without HIDDEN when it was saved, now the filter hides events"):
        evaluate_checkpoint(hiding, folders["plain"], "test", alone)


def test_a_run_resumes_with_the_filter_it_had(data: Path, tmp_path: Path, alone: Ranks) -> None:
    more: dict[str, Any] = {"run": {"max_steps": 4}, "checkpoint": {"every_steps": 2}}
    config = make_config(data, tmp_path, data={"filter": FILTER}, **more)
    run(config, alone)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-2"
    run(config, alone, "resumed", resume=checkpoint)
    assert losses(config, "resumed") == losses(config, "run")[2:]
    other = make_config(data, tmp_path, data={"filter": FILTER | {"start_step": 3}}, **more)
    with pytest.raises(ConfigError, match=r"data.filter.start_step: 0 when it was saved, 3 now"):
        run(other, alone, "other", resume=checkpoint)


@pytest.fixture
def late(tmp_path: Path) -> Path:
    return write_feedback(tmp_path / "late")


@pytest.mark.parametrize(
    ("schema", "recipe", "message"),
    [
        ({"candidate__feedback__most": 3}, {}, "candidate.feedback: {"),
        ({"candidate__feedback__side": {"dwell": 7}}, {}, "candidate.feedback: {"),
        ({"candidate__feedback__ids": ["item"]}, {}, "candidate.feedback: {"),
        ({"tables__shown": 8}, {}, "tables.shown: 7 ids when it was saved, 8 ids now"),
        ({}, {"distill": {"weight": 0.5}}, "distill.weight: 1.0 when it was saved, 0.5 now"),
        ({}, {"distill": {"teacher": "live"}}, "distill.teacher: ema when it was saved, live now"),
        ({}, {"distill": {"teacher_rate": 0.5}}, "distill.teacher_rate: 0.05 when it was saved, 0.5 now"),
        ({}, {"distill": {"warmup_updates": 2}}, "distill.warmup_updates: 0 when it was saved, 2 now"),
        ({}, {"distill": {"rows": "immature"}}, "distill.rows: all when it was saved, immature now"),
        ({}, {"distill": {"tasks": {"click": 0.5}}}, "distill.tasks.click: nothing of that name when it was saved"),
        ({}, {"distill": None}, "distill.weight: 1.0 when it was saved, nothing of that name now"),
        ({}, {"data": {"observed_at": 1300}}, "data.observed_at: 1400 when it was saved, 1300 now"),
        ({}, {"data": {"observed_at": None}}, "data.observed_at: 1400 when it was saved, None now"),
    ],
)
def test_only_a_run_that_goes_on_needs_the_same_teacher(
    late: Path, tmp_path: Path, schema: dict[str, Any], recipe: dict[str, Any], message: str
) -> None:
    config = taught_config(late, tmp_path)
    made = MadeWith.now(dataset_schema(config), config, 1, 2)
    assert made.schema_for(dataset_schema(config), config, Path("here"), resumed=True) == dataset_schema(config)
    _change(late, **schema)
    other = taught_config(late, tmp_path, **recipe)
    with pytest.raises(ConfigError, match=r"here: does not fit this schema and recipe") as caught:
        made.schema_for(dataset_schema(other), other, Path("here"), resumed=True)
    assert message in str(caught.value)
    served = dataset_schema(other).with_feedback(None)
    built = made.schema_for(served, other, Path("here"))
    assert built.candidate.feedback is not None and not built.candidate.feedback.read
    assert built.with_feedback(None).candidate == served.candidate and built.sequences == served.sequences


def test_when_a_label_is_final_belongs_to_training(late: Path, tmp_path: Path) -> None:
    config = taught_config(late, tmp_path)
    made = MadeWith.now(dataset_schema(config), config, 1, 2)
    _change(late, candidate__delayed__buy__horizon=600)
    with pytest.raises(ConfigError, match="label buy, final: 500 when it was saved, 600 now"):
        made.schema_for(dataset_schema(config), config, Path("here"), resumed=True)
    assert made.schema_for(dataset_schema(config), config, Path("here")).candidate.delayed["buy"].horizon == 600
    _change(late, candidate__delayed={})
    built = made.schema_for(dataset_schema(config), config, Path("here"))
    assert not built.candidate.delayed["buy"].read and "candidate.buy.delay" not in arrow_schema(built).names


def test_corrections_of_delay_that_have_no_weights_are_free_in_evaluation(late: Path, tmp_path: Path) -> None:
    def of(immature: str) -> Config:
        return taught_config(late, tmp_path, distill=None, model={"head": {"hidden": [16], "immature": immature}})

    weighting, left_out, modelled = map(of, ("fake_negative_weighting", "leave_out", "delayed_feedback_model"))
    schema = dataset_schema(weighting)
    made = MadeWith.now(schema, weighting, 1, 2)
    made.schema_for(schema, left_out, Path("here"))
    for other, resumed in ((left_out, True), (modelled, False)):
        with pytest.raises(ConfigError, match=r"model\.head\.immature"):
            made.schema_for(schema, other, Path("here"), resumed=resumed)


@pytest.mark.slow
def test_with_and_without_a_teacher_a_checkpoint_is_the_same_to_evaluation(
    late: Path, tmp_path: Path, alone: Ranks
) -> None:
    """By a recipe with a teacher or without, of a run with one or without, whatever the schema says of feedback."""
    taught = taught_config(late, tmp_path)
    plain = taught.model_copy(update={"distill": None})
    for name, config in (("taught", taught), ("plain", plain)):
        run(config, alone, name)
    last = {name: tmp_path / name / "checkpoints" / "last" for name in ("taught", "plain")}
    for checkpoint in last.values():
        lines = evaluate_checkpoint(taught, checkpoint, "test", alone)
        assert evaluate_checkpoint(plain, checkpoint, "test", alone) == lines
        _change(late, candidate__feedback__most=1)
        assert evaluate_checkpoint(taught, checkpoint, "test", alone) == lines
    step = tmp_path / "taught" / "checkpoints" / "step-2"
    with pytest.raises(ConfigError, match=r"candidate\.feedback: \{.* when it was saved, \{.* now"):
        run(taught, alone, "resumed", resume=step)


def test_the_kind_of_ids_belongs_to_the_weights(own_data: Path, tmp_path: Path) -> None:
    hashed = make_config(own_data, tmp_path, embedding={"tables": {"item": {"ids": "hashed"}}})
    plain, schema = make_config(own_data, tmp_path), dataset_schema(hashed)
    made = MadeWith.now(schema, hashed, 1, 2)
    made.write(tmp_path)
    assert MadeWith.read(tmp_path).schema_.open_ids == {"item": "hashed"}
    assert made.schema_for(dataset_schema(hashed), hashed, Path("here")) == schema
    with pytest.raises(ConfigError, match=r"tables\.item: 50 hashed ids when it was saved, 50 ids now"):
        made.schema_for(dataset_schema(plain), plain, Path("here"))
