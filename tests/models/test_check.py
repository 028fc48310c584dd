"""What the models cannot do on a schema is told before one is built."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.common.strict import ConfigError
from dist_rec.data.schema import Schema
from dist_rec.models.check import check_model, check_split
from tests.data.kind_rows import kinds_schema
from tests.data.requests import make_schema, seen_schema
from tests.models.batches import DIM, MODELS, model_config

SEEN = {
    "tokens": {"position": "absolute"},
    "longer": {"merge": 1, "k": 0, "inner_trans": False, "globals": ["candidate"], "self_layers": 2, "rotary": True},
}


def _check(schema: Schema, **changes: Any) -> None:
    check_model(schema, model_config(**changes), dict.fromkeys(schema.tables, DIM))


@pytest.mark.parametrize("name", MODELS)
def test_what_the_other_tests_build_is_let_through(name: str) -> None:
    _check(make_schema(), **MODELS[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": {"position": "recency"}}, "model.tokens.position: .* expected absolute or none"),
        ({"longer": {"merge": 2}}, "expected merge: 1, k: 0, queries: recent, got merge: 2, k: 0, queries: recent"),
        ({"longer": {"k": 4}}, "got merge: 1, k: 4"),
        ({"longer": {"k": 4, "queries": "learnable"}}, "queries: learnable"),
        ({"longer": {"globals": ["candidate", "user"]}}, "model.longer.globals: .*'user' needs context fields"),
    ],
)
def test_refuses_what_cannot_work_with_seen(changes: dict[str, Any], message: str) -> None:
    config = {part: {**SEEN[part], **changes.get(part, {})} for part in SEEN}
    with pytest.raises(ConfigError, match=message):
        _check(seen_schema(), **config)


def test_numbers_have_to_be_fitted() -> None:
    _check(kinds_schema())
    history = {"name": "history", "ids": ["item"], "numbers": {"price": {}}}
    with pytest.raises(ConfigError, match=r"not known yet: history.price; run `dist-rec data fit"):
        _check(make_schema(sequences=[history]))


def test_features_of_the_request_are_context() -> None:
    longer = {"globals": ["candidate", "user"]}
    _check(make_schema(context=[], request={"grouping_key": "g", "time": "t", "cyclic": True}), longer=longer)
    with pytest.raises(ConfigError, match="'user' needs context fields"):
        _check(make_schema(context=[]), longer=longer)


def test_longer_needs_an_input_of_the_head() -> None:
    with pytest.raises(ConfigError, match=r"model.head.inputs: longer gives globals and sequence_mean"):
        _check(make_schema(), head={"inputs": ["candidate"]})


SPLIT = {**MODELS["hyformer"], "tokens": {"width": 24}, "non_sequential": {"split": 4}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hyformer": {"heads": 2, "sequences": {"historie": {}}}},
            "no sequence historie in the schema; known: history",
        ),
        (
            {"hyformer": {"merge_sequences": True, "sequences": {"history": {"recent": 3}, "searches": {"recent": 3}}}},
            "merge_sequences joins all into one with the settings of the first, history; expected nothing for searches",
        ),
        ({"tokens": {"width": 24}}, r"model.tokens.width=24: .* T = 2 queries \+ 3 non-sequential = 5; .* 20 or 25"),
        ({"non_sequential": {"split": 4}}, r"T = 2 queries \+ 4 non-sequential = 6"),
        ({**SPLIT, "hyformer": {"heads": 2, "query_inputs": ["candidate"]}}, "candidate needs groups of fields"),
        ({"non_sequential": {"split": 33}}, r"split=33: there are only 24 columns"),
    ],
)
def test_refuses_what_hyformer_cannot_do_on_this_schema(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _check(make_schema(), **{**MODELS["hyformer"], **changes})


@pytest.mark.parametrize("encoder", [{"encoder": "longer"}, {"encoder": "full"}])
def test_hyformer_with_seen_needs_states_that_know_no_later_event(encoder: dict[str, Any]) -> None:
    settings = {**MODELS["hyformer"], "tokens": {"width": 20, "position": "none"}}
    settings["hyformer"] = {"heads": 2, "sequences": {"history": encoder}}
    with pytest.raises(ConfigError, match=r"hyformer.sequences.history: .* expected encoder: full with causal: true"):
        _check(seen_schema(), **settings)


def test_rankmixer_needs_a_width_that_its_tokens_divide() -> None:
    with pytest.raises(
        ConfigError, match=r"model.rankmixer.width=22: .* T = 2 sequences \+ 3 non-sequential = 5; .* 20 or 25"
    ):
        _check(make_schema(), interaction="rankmixer", rankmixer={"width": 22})


def test_weights_of_tasks_that_are_not_there() -> None:
    with pytest.raises(ConfigError, match=r"model.head.task_weights.bye: no such task; the schema's are: click, buy"):
        _check(make_schema(), head={"task_weights": {"bye": 2.0}})


@given(total=st.integers(1, 60), count=st.integers(1, 70))
@settings(max_examples=100, deadline=None)
def test_a_slice_without_a_column_is_refused(total: int, count: int) -> None:
    """Slices of ceil(total / count) columns may use up all columns before the last slice."""
    size = -(-total // count)
    if (count - 1) * size < total:
        check_split(count, total)
        return
    with pytest.raises(ConfigError, match=rf"model.non_sequential.split={count}: there are only {total} columns"):
        check_split(count, total)


def test_a_refused_split_names_one_that_works() -> None:
    with pytest.raises(ConfigError, match=r"split=5: .* 11 columns .* slices of 3 .* 4 tokens"):
        check_split(5, 11)
    check_split(4, 11)
