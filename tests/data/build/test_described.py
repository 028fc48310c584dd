from pathlib import Path

import pytest
import yaml

from dist_rec.config import load_config
from dist_rec.data.schema_file import load_schema
from dist_rec.door import check_run
from tests.data.build.small import ANCHORS, START, VALID, build, config

EVENTS = [{"user": 9, "item": 1, "time": START + 29, "kind": "a", "order": 0}]


def test_schema_and_recipe_are_read_by_a_run(tmp_path: Path) -> None:
    tree = config(requests={"context": {"user": "user"}, "given": {"bought": "click"}})
    tree["feature_groups"] = {"who": ["context.user"], "what": ["candidate.item"]}
    out = build(tmp_path / "x", tree, EVENTS, ANCHORS)
    schema = load_schema(out)
    assert schema.request.grouping_key == "user_key" and schema.request.time == "time"
    assert schema.tables == {"user": 2, "item": 2} and schema.candidate.given == {"bought": "click"}
    assert schema.sequences[0].side == {"kind": 2} and schema.feature_groups["what"] == ["candidate.item"]
    recipe = load_config(out / "recipe.yaml")
    assert recipe.data.path == str(out) and recipe.run.name == "small"
    assert recipe.data.observed_at == VALID and recipe.data.written_at == START + 29, "labels take time"


def test_windows_are_trained_on_with_what_was_known_when_they_ended(tmp_path: Path) -> None:
    day = 86_400
    rows = [{**ANCHORS[0], "time": START + n * day, "item": n} for n in (0, 1, 1.5, 4, 5)]  # no request on two days
    bought = [{"user": 9, "item": 1, "time": START + day + 5, "kind": "a", "order": 0}]
    out = build(tmp_path / "x", config(split={"by": "windows", "every": "1d"}), [*EVENTS, *bought], rows)
    recipe = load_config(out / "recipe.yaml")
    assert recipe.data.windows == ["2023-11-14", "2023-11-15", "2023-11-16", "2023-11-18", "2023-11-19"]
    midnight = START - START % day
    assert recipe.data.observed_at == [midnight + n * day for n in (1, 2, 4, 5)]
    assert recipe.data.written_at == START + day + 5
    assert recipe.model.head.immature == "delayed_feedback_model"
    check_run(recipe, None)


def test_without_labels_that_take_time_nothing_is_said_of_it(tmp_path: Path) -> None:
    out = build(tmp_path / "x", config(requests={"labels": {"click": "click"}}), EVENTS, ANCHORS)
    data = yaml.safe_load((out / "recipe.yaml").read_text())["data"]
    assert set(data) == {"path", "batch_size"}


def test_the_recipe_fits_the_schema(tmp_path: Path) -> None:
    for name, context in (("with", {"user": "user"}), ("without", {})):
        tree = config(requests={"context": context, "labels": {"click": "click"}})
        check_run(load_config(build(tmp_path / name, tree, EVENTS, ANCHORS) / "recipe.yaml"), None)


@pytest.mark.parametrize(
    ("folders", "train", "wanted"),
    [
        (("train", "valid", "test"), ["train"], {}),
        (("a", "b", "c"), ["b"], {"train": ["b"], "valid": ["a"], "test": ["c"]}),
        (("a", "b", "c"), ["a", "b", "c"], {"folds": ["a", "b", "c"]}),
        (("a", "b"), ["a", "b"], {"train": ["a", "b"], "valid": [], "test": []}),
    ],
)
def test_the_recipe_reads_the_folders_of_a_column(
    tmp_path: Path, folders: tuple[str, ...], train: list[str], wanted: dict[str, list[str]]
) -> None:
    rows = [{**row, "user": n, "folder": folders[n % len(folders)]} for n, row in enumerate(ANCHORS)]
    split = {"by": "column", "column": "folder", "train": train}
    out = build(tmp_path / "x", config(split=split, requests={"labels": {"click": "click"}}), EVENTS, rows)
    data = load_config(out / "recipe.yaml").data.model_dump(include={"train", "valid", "test", "folds"})
    assert {name: data[name] for name in wanted} == wanted
