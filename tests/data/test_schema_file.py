from pathlib import Path
from typing import Any

import pytest

from dist_rec.common.ngram import NgramSpec
from dist_rec.common.strict import ConfigError, check
from dist_rec.config import DataConfig
from dist_rec.data.kinds import named_numbers
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema
from dist_rec.data.writer import write_schema
from tests.data.kind_rows import kinds_schema
from tests.data.open_rows import open_schema
from tests.data.requests import make_schema

NGRAM = {"orders": [2], "heads": 2, "rows": [5, 7]}


def _schema(ngram: dict[str, Any] | None = None, time: bool = True) -> Schema:
    """One history of items and kinds, with n-grams of kinds."""
    fields = [{"name": "item"}, {"name": "kind", "ngram": ngram}]
    return make_schema(sequences=[{"name": "history", "ids": fields, "time": time}])


def test_a_recipe_declares_other_n_grams(tmp_path: Path) -> None:
    write_schema(tmp_path, _schema(ngram=NGRAM))
    assert list(load_schema(tmp_path).layout.ngrams) == ["history.kind.ngram"]
    spec = NgramSpec(rows=9)
    changed = load_schema(tmp_path, ngram={"history.item": spec, "history.kind": None})
    assert {owner: of.spec for owner, of in changed.layout.ngrams.items()} == {"history.item.ngram": spec}
    with pytest.raises(ConfigError, match=r"'history.x' is no field of a sequence of .*: history.item, history.kind"):
        load_schema(tmp_path, ngram={"history.x": spec})
    write_schema(tmp_path, _schema(time=False))
    with pytest.raises(ConfigError, match=r"schema.yaml with data.ngram of the recipe:\n.*gap_seconds needs times"):
        load_schema(tmp_path, ngram={"history.item": NgramSpec(rows=9, gap_seconds=1)})


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"schema\.yaml: no such file"):
        load_schema(tmp_path)


def test_wrong_key_names_the_nearest(tmp_path: Path) -> None:
    write_schema(tmp_path, make_schema())
    path = tmp_path / "schema.yaml"
    path.write_text(path.read_text().replace("oracle:", "orakle:"))
    with pytest.raises(ConfigError, match=r"candidate\.orakle: unknown key; did you mean 'oracle'"):
        load_schema(tmp_path)


def test_leaves_out_a_context_field(tmp_path: Path) -> None:
    """The group may be a field that is left out: its column is still read, but the model does not get it."""
    schema = make_schema()
    write_schema(tmp_path, schema)
    name = schema.request.grouping_key
    assert name in [field.name for field in schema.context]
    left = load_schema(tmp_path, [name])
    assert [field.name for field in left.context] == [field.name for field in schema.context if field.name != name]
    assert left.request == schema.request and left.sequences == schema.sequences
    everything = [field.name for field in schema.context]
    assert "context" not in load_schema(tmp_path, everything).layout.owners


def test_leaves_out_only_what_is_there(tmp_path: Path) -> None:
    write_schema(tmp_path, make_schema())
    with pytest.raises(ConfigError, match=r"data\.leave_out: 'item' is no context field of .*; these are: user"):
        load_schema(tmp_path, ["item"])


def test_what_is_left_out_leaves_its_group(tmp_path: Path) -> None:
    both = {"context": ["user", {"name": "friend", "table": "user"}]}
    groups = {"user": ["context.user"], "rest": ["context.friend", "candidate.item", "candidate.kind"]}
    write_schema(tmp_path, make_schema(**both, feature_groups=groups))
    assert load_schema(tmp_path, ["user"]).feature_groups == {"rest": groups["rest"]}, "an empty group is gone"
    left = load_schema(tmp_path, ["friend"])
    assert left.feature_groups == {"user": ["context.user"], "rest": ["candidate.item", "candidate.kind"]}
    assert type(left).model_validate(left.model_dump()) == left, "what is left is a schema"
    write_schema(tmp_path, make_schema(**both))
    assert list(load_schema(tmp_path, ["user"]).token_groups) == ["context.friend", "candidate.item", "candidate.kind"]


def test_hidden_is_one_more_value_of_what_events_look_up(tmp_path: Path) -> None:
    """Not of tables of the context alone."""
    write_schema(tmp_path, make_schema())
    plain, hiding = load_schema(tmp_path), load_schema(tmp_path, hidden=True)
    assert {name: hiding.rows_of(name) - plain.rows_of(name) for name in plain.tables} == {
        "item": 1,
        "kind": 1,
        "query": 1,
        "user": 0,
    }
    assert hiding.layout.sizes["history.item"] == 51 and plain.layout.sizes["history.item"] == 50
    assert hiding.side_values(hiding.sequences[0]) == {"action": 5, "page": 301}
    assert plain.side_values(plain.sequences[0]) == {"action": 4, "page": 300}
    assert hiding.tables == plain.tables, "data have the same ids as before"


def test_the_widest_side_value_leaves_no_room_for_hidden(tmp_path: Path) -> None:
    sequences = [{"name": "history", "ids": ["item"], "side": {"page": 2**15}, "time": True}]
    write_schema(tmp_path, make_schema(sequences=sequences))
    assert load_schema(tmp_path).sequences[0].side == {"page": 2**15}
    with pytest.raises(ConfigError, match="a side value takes 1 to 32767 values, got 32768"):
        load_schema(tmp_path, hidden=True)


def test_a_recipe_may_change_the_kind_of_ids(tmp_path: Path) -> None:
    write_schema(tmp_path, open_schema("hashed"))
    assert load_schema(tmp_path) == open_schema("hashed"), "written and read"
    changed = load_schema(tmp_path, ids={"item": (7, "dynamic"), "user": (None, "range"), "kind": (8, None)})
    assert changed.open_ids == {"item": "dynamic"}
    assert changed.tables == {"item": 7, "user": 40, "kind": 8, "query": 9}
    assert load_schema(tmp_path, ids={"item": (7, None)}).open_ids == open_schema().open_ids


def test_a_recipe_chooses_encodings(tmp_path: Path) -> None:
    write_schema(tmp_path, kinds_schema())
    names = {"history.price": "value", "context.of_stay": "buckets", "attributes.item.year": "value"}
    schema = load_schema(tmp_path, numbers=check(DataConfig, {"path": ".", "numbers": names}, "recipe").numbers)
    found = named_numbers(schema)
    assert {name: found[name].encoding for name in names} == names
    before = named_numbers(load_schema(tmp_path))
    assert {name: of for name, of in found.items() if name not in names} == {
        name: of for name, of in before.items() if name not in names
    }
    assert all(found[name].fitted == before[name].fitted for name in names)
    with pytest.raises(ConfigError, match=r"data\.numbers: 'history.item' is no number of .*; these are: attri"):
        load_schema(tmp_path, numbers={"history.item": "value"})


def test_numbers_and_lists_of_requests_may_be_left_out(tmp_path: Path) -> None:
    write_schema(tmp_path, kinds_schema())
    left = load_schema(tmp_path, ["of_price", "of_rank", "tags"])
    assert list(left.request.numbers) == ["of_stay"] and left.request.cyclic and not left.request.lists
    assert left.feature_groups["who"] == ["context.user", "context.of_stay", "context.time"]
    assert type(left).model_validate(left.model_dump()) == left


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_schema(tmp_path, kinds_schema())
    assert load_schema(tmp_path) == kinds_schema()
