"""Names of weights, and which weight of a checkpoint goes where."""

import pytest

from dist_rec.run_config import InitConfig
from dist_rec.training.weight_names import Entry, idle, match, name_of, named, renamed

SAVED = {name: Entry(name, (2, 3)) for name in ("tables.item", "model.a.x", "model.a.y", "model.head")}


def test_a_table_has_one_name_wherever_it_lies() -> None:
    assert name_of("embedding.collections.dim_8.embeddings.item.weight") == "tables.item"
    assert name_of("embedding.replicated.item.weight") == "tables.item"
    assert name_of("ranker.head.mlps.0.0.weight") == "model.ranker.head.mlps.0.0.weight"


def test_patterns() -> None:
    assert named("model.a.x", ["tables.*", "model.*.x"]) and not named("model.a.x", ["model.a"])
    assert idle(["model.*", "tables.x"], ["model.a"]) == ["tables.x"]


@pytest.mark.parametrize(
    ("patterns", "after"),
    [
        ({"model.a.*": "model.b.*"}, "model.b.x.y"),
        ({"model.*.x.*": "model.*.z.*"}, "model.a.z.y"),
        ({"model.c.*": "model.b.*", "*": "up.*"}, "up.model.a.x.y"),
        ({"model.a.x": "model.b"}, "model.a.x.y"),
        ({}, "model.a.x.y"),
    ],
)
def test_what_a_star_stood_for_stays(patterns: dict[str, str], after: str) -> None:
    assert renamed("model.a.x.y", patterns) == after


def test_every_name_is_taken_fresh_or_missing() -> None:
    found = match(
        InitConfig(checkpoint="c", rename={"model.a.*": "model.b.*"}, leave_out=["model.head"]),
        SAVED,
        ["tables.item", "model.b.x", "model.b.y", "model.head", "model.new"],
    )
    assert {name: entry.key for name, entry in found.taken.items()} == {
        "tables.item": "tables.item",
        "model.b.x": "model.a.x",
        "model.b.y": "model.a.y",
    }
    assert (found.fresh, found.missing, found.unused, found.problems) == (
        ["model.head"],
        ["model.new"],
        ["model.head"],
        [],
    )


@pytest.mark.parametrize(
    ("rename", "problem"),
    [
        ({"model.b.*": "model.c.*"}, "nothing in the checkpoint is called model.b.*"),
        ({"model.a.x": "model.head"}, "both model.a.x and model.head of the checkpoint would be called model.head"),
        (
            {"model.a.x": "model.z"},
            "model.a.x of the checkpoint would be called model.z, which the model does not have",
        ),
    ],
)
def test_renames_that_cannot_be(rename: dict[str, str], problem: str) -> None:
    found = match(InitConfig(checkpoint="c", rename=rename), SAVED, ["model.head"])
    assert found.problems == [f"init.rename: {problem}"]
