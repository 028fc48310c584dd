"""Names in the order of the checkpoint, and meanings that must be the same."""

from pathlib import Path
from typing import Any

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.schema import Schema
from dist_rec.run_config import InitConfig
from dist_rec.training.made_with import MadeWith
from dist_rec.training.warm_schema import warm_schema
from tests.data.requests import make_schema
from tests.training.runs import make_config

SAVED = make_schema(request={"grouping_key": "user", "time": "time", "numbers": {"age": {"encoding": "value"}}})


def _schema(change: Any = None) -> Schema:
    tree = SAVED.model_dump(mode="json")
    if change is not None:
        change(tree)
    return Schema.model_validate(tree)


def _fitted(mean: float) -> Any:
    def change(tree: dict[str, Any]) -> None:
        fitted = {"mean": mean, "std": 1.0, "bounds": [0.0, 1.0], "missing": 0.0}
        tree["request"]["numbers"]["age"]["fitted"] = fitted

    return change


def _found(now: Schema, saved: Schema = SAVED, differ: tuple[str, ...] = (), **recipe: Any) -> Schema:
    was: Config = make_config(Path("data"), Path("out"))
    made = MadeWith.now(saved, was, 1, 3)
    config = make_config(Path("data"), Path("out"), **recipe)
    return warm_schema(made, now, config, InitConfig(checkpoint="c", differ=list(differ)))


def test_names_of_the_checkpoint_come_first_and_in_its_order() -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["candidate"]["labels"] = ["new", "buy", "click"]
        tree["candidate"]["ids"].reverse()
        tree["context"].insert(0, {"name": "city", "table": "city"})
        tree["tables"] = {"city": 7, **dict(reversed(tree["tables"].items())), "item": 90}
        tree["sequences"].reverse()

    found = _found(_schema(change))
    assert found.candidate.labels == ["click", "buy", "new"]
    assert [field.name for field in found.candidate.ids] == ["item", "kind"]
    assert [field.name for field in found.context] == ["user", "city"]
    assert [of.name for of in found.sequences] == ["history", "searches"]
    assert found.tables == {"item": 90, "kind": 5, "user": 1000, "query": 9, "city": 7}


def test_what_a_fit_found_and_the_row_hidden_are_the_checkpoints() -> None:
    saved = _schema(_fitted(2.0)).model_copy(update={"hidden": True})
    found = _found(_schema(_fitted(5.0)), saved)
    fitted = found.request.numbers["age"].fitted
    assert fitted is not None and fitted.mean == 2.0 and found.hidden


@pytest.mark.parametrize(
    ("change", "recipe", "name"),
    [
        (lambda tree: tree["candidate"]["labels"].remove("click"), {}, "label click"),
        (lambda tree: tree["candidate"]["ids"].pop(), {}, "candidate, field kind"),
        (lambda tree: tree["sequences"][0]["side"].update(action=6), {}, "sequence history, field action"),
        (lambda tree: tree["request"]["numbers"]["age"].update(encoding="piecewise"), {}, "number context.age"),
        (None, {"model": {"tokens": {"position": "absolute"}}}, "model.tokens.position"),
    ],
)
def test_another_meaning_is_refused_or_allowed_by_name(change: Any, recipe: dict[str, Any], name: str) -> None:
    now = _schema(change)
    with pytest.raises(ConfigError, match=f"c: its weights mean something else .*\n  {name}: .* when it was saved"):
        _found(now, **recipe)
    assert _found(now, differ=(name,), **recipe).candidate.labels == now.candidate.labels


def test_a_name_that_allows_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"init.differ: nothing that differs fits label \*"):
        _found(SAVED, differ=("label *",))
