from pathlib import Path
from typing import Any

import pytest

from dist_rec.data.id_field import IdField
from dist_rec.data.later import FeedbackSchema
from dist_rec.data.schema_file import load_schema
from dist_rec.data.writer import write_schema
from tests.data.later import later_schema
from tests.data.open_rows import open_schema
from tests.data.requests import make_schema, seen_schema

GROUPS = {"user": ["context.user"], "item": ["candidate.item", "candidate.kind"]}


def test_bare_name_is_its_own_table() -> None:
    assert make_schema().context == [IdField(name="user", table="user")]


def test_feature_sets_are_shared_by_equal_fields() -> None:
    schema = make_schema()
    assert {name: feature_set.keys for name, feature_set in schema.layout.feature_sets.items()} == {
        "context": ("context.user",),
        "history": ("history.item", "history.kind"),
        "searches": ("searches.query",),
    }
    owners = {owner: feature_set.name for owner, feature_set in schema.layout.owners.items()}
    assert owners == {"context": "context", "history": "history", "searches": "searches", "candidate": "history"}
    assert schema.layout.tables["history.kind"] == "kind" and list(schema.layout.sizes.values()) == [1000, 50, 5, 9]
    assert schema.layout is schema.layout, "worked out once"


def test_candidate_with_other_fields_has_its_own_feature_set() -> None:
    schema = make_schema(candidate={"ids": ["item"], "labels": ["click"]})
    assert list(schema.layout.feature_sets) == ["context", "history", "searches", "candidate"]


def _given(given: dict[str, str]) -> dict:
    return {"ids": ["item", "kind"], "labels": ["click", "buy", "back"], "given": given}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": ["city"]}, "context.city: table 'city' is not declared; declared: item, kind, user, query"),
        ({"tables": {"item": 0, "kind": 1, "user": 1, "query": 1}}, "table item: expected 1 to 2"),
        ({"request": {"grouping_key": "user"}}, "request.time must name the column"),
        (
            {"candidate": {"ids": ["item"], "labels": ["click"], "visible_events": True}},
            "needs exactly one sequence, got 2",
        ),
        ({"candidate": {"ids": ["item"], "labels": []}}, "at least 1 item"),
        (
            {"candidate": {"ids": ["item"], "side": {"slot": 40_000}, "labels": ["click"]}},
            "1 to 32768 values, got 40000",
        ),
        (
            {"sequences": [{"name": "items", "ids": ["item"]}]},
            "sequences: 'items' cannot be a name here",
        ),
        (
            {"sequences": [{"name": "a.b", "ids": ["item"]}]},
            "sequences: 'a.b' cannot be a name here; expected one without dots that is no attribute of torch's "
            "ModuleDict, for example a_b_1",
        ),
        ({"sequences": [{"name": "clicks", "ids": ["item"], "side": {"type": 3}}]}, "clicks.side: 'type' cannot"),
        ({"candidate": {"ids": ["item"], "side": {"": 3}, "labels": ["click"]}}, "candidate.side: '' cannot"),
        ({"tables": {"keys": 3}}, "tables: 'keys' cannot be a name here"),
        ({"sequences": [{"name": "candidate", "ids": ["item"]}]}, "not be 'candidate' or 'context'"),
        (
            {"feature_groups": {"user": ["context.usr"]}},
            "feature_groups.user: 'context.usr' is no context or candidate field; these are: context.user, "
            "candidate.item, candidate.kind",
        ),
        (
            {"feature_groups": {"a": ["context.user"], "b": ["candidate.item", "context.user"]}},
            "feature_groups.b: 'context.user' is in group a already",
        ),
        (
            {"feature_groups": {"a": ["candidate.item", "candidate.item"]}},
            "feature_groups.a: 'candidate.item' is in group a already",
        ),
        ({"feature_groups": {"a": []}}, "feature_groups.a: expected at least one field, got none"),
        ({"feature_groups": {"a": ["candidate.item"]}}, "these are in none: context.user, candidate.kind"),
        ({"context": ["user", "user"]}, "context: expected every name once, got 'user'"),
        ({"sequences": [{"name": "h", "ids": ["item", "item"]}]}, "h: expected every name once, got 'item'"),
        (
            {"candidate": {"ids": ["item"], "side": {"item": 3}, "labels": ["a"]}},
            "candidate: expected every name once, got 'item'",
        ),
    ],
)
def test_wrong_schemas(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_schema(**changes)


@pytest.mark.parametrize(
    "schema",
    [
        make_schema(),
        seen_schema(),
        make_schema(feature_groups=GROUPS, candidate=_given({"buy": "click", "back": "click"})),
        later_schema(),
    ],
    ids=["full", "seen", "groups and conditions", "feedback"],
)
def test_survives_yaml(schema, tmp_path: Path) -> None:
    write_schema(tmp_path, schema)
    assert load_schema(tmp_path) == schema


def _with_ngrams(**at: Any) -> Any:
    """`make_schema()` with n-grams at fields of the history, or elsewhere by key."""
    fields = [{"name": name, "ngram": at.pop(name, None)} for name in ("item", "kind")]
    return make_schema(sequences=[{"name": "history", "ids": fields, "time": at.pop("time", True)}], **at)


NGRAM = {"orders": [2], "heads": 2, "rows": [5, 7]}


def test_n_grams_have_a_set_and_a_table_of_their_own_and_share_the_ids_of_others() -> None:
    layout = _with_ngrams(kind=NGRAM).layout
    assert layout.owners["history"] == layout.owners["candidate"], "tokens are shared as without n-grams"
    assert layout.owners["history.kind.ngram"].keys == ("history.kind.ngram",)
    assert layout.tables["history.kind.ngram"] == "history_kind_ngram" and layout.sizes["history.kind.ngram"] == 12
    of = layout.ngrams["history.kind.ngram"]
    assert (of.sequence, of.field, of.place, of.key, of.base, of.hidden) == (
        *("history", "kind", 1, "history.kind", "kind"),
        None,
    )
    schema = _with_ngrams(kind=NGRAM, hidden=True)
    assert schema.layout.ngrams["history.kind.ngram"].hidden == 5 and schema.rows_of("history_kind_ngram") == 12


def test_candidates_may_have_n_grams_from_the_same_table() -> None:
    layout = _with_ngrams(kind=NGRAM | {"candidate_bigram": True}).layout
    assert list(layout.candidate_ngrams) == ["history.kind.ngram.candidate"]
    assert layout.candidate_ngrams["history.kind.ngram.candidate"].candidate_place == 1
    assert layout.tables["history.kind.ngram.candidate"] == layout.tables["history.kind.ngram"]
    assert not _with_ngrams(kind=NGRAM).layout.candidate_ngrams


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"candidate": {"ids": [{"name": "item", "ngram": NGRAM}], "labels": ["a"]}}, "n-grams are over events"),
        ({"context": [{"name": "user", "ngram": NGRAM}]}, "n-grams are over events"),
        ({"item": NGRAM | {"gap_seconds": 5}, "time": False}, "gap_seconds needs times"),
        (
            {"item": NGRAM, "tables": {"item": 5, "kind": 5, "user": 9, "history_item_ngram": 3}},
            "expected another name",
        ),
        (
            {"item": NGRAM | {"candidate_bigram": True}, "candidate": {"ids": ["kind"], "labels": ["a"]}},
            "candidate_bigram needs a field of the candidates of the same name and table; these have kind",
        ),
        ({"item": NGRAM | {"rows": [5]}}, "expected one number, or 2"),
    ],
)
def test_n_grams_that_cannot_be(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _with_ngrams(**given)


def test_groups_are_those_declared_or_one_per_field() -> None:
    assert make_schema(feature_groups=GROUPS).token_groups == GROUPS
    with_slot = make_schema(candidate={"ids": ["item"], "side": {"slot": 4}, "labels": ["click"]})
    names = ["context.user", "candidate.item", "candidate.slot"]
    assert with_slot.grouped_fields == names and with_slot.token_groups == {name: [name] for name in names}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delayed": {"back": {"horizon": 0}}}, "greater than or equal to 1"),
        ({"feedback": {}}, "feedback: expected at least one of ids, side and time, got none"),
        ({"feedback": {"side": {"dwell": 3}, "most": 0}}, "greater than or equal to 1"),
        ({"feedback": {"ids": ["city"]}}, "feedback.city: table 'city' is not declared; declared: item, kind"),
        ({"feedback": {"ids": ["item"], "side": {"item": 3}}}, "feedback: expected every name once, got 'item'"),
        ({"feedback": {"side": {"type": 3}}}, "feedback.side: 'type' cannot be a name here"),
        ({"feedback": {"side": {"dwell": 40_000}}}, "feedback.dwell: a side value takes 1 to 32768 values, got 40000"),
        (
            {"feedback": {"ids": [{"name": "item", "ngram": {"rows": 9}}]}},
            "feedback.item: n-grams are over events; expected ngram at a sequence",
        ),
    ],
)
def test_what_comes_later_declared_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        later_schema(**changes)


@pytest.mark.parametrize(
    "candidate",
    [{"feedback": {"ids": ["item"], "time": True}}, {"delayed": {"click": {"horizon": 5}}}],
    ids=["feedback", "horizon"],
)
def test_what_is_timed_needs_the_time_of_the_request(candidate: dict[str, Any]) -> None:
    changes: dict[str, Any] = {"request": {"grouping_key": "user"}, "sequences": [{"name": "history", "ids": ["item"]}]}
    with pytest.raises(ValueError, match=r"times and labels with a horizon need request\.time"):
        make_schema(candidate={"ids": ["item"], "labels": ["click"]} | candidate, **changes)
    untimed = {"feedback": {"ids": ["item"]}, "delayed": {"click": {}}}
    assert make_schema(candidate={"ids": ["item"], "labels": ["click"]} | untimed, **changes).request.time is None


def test_no_sequence_is_called_as_feedback_is() -> None:
    sequences = [{"name": "feedback", "ids": ["item"]}]
    with pytest.raises(ValueError, match="not be 'candidate' or 'context' or 'feedback', got"):
        make_schema(sequences=sequences, candidate={"ids": ["item"], "labels": ["a"], "feedback": {"ids": ["item"]}})
    ngram = [{"name": "item", "ngram": NGRAM}]
    schema = make_schema(sequences=[{"name": "feedback", "ids": ngram}])
    assert schema.feedback_read is None and list(schema.layout.ngrams) == ["feedback.item.ngram"]


@pytest.mark.parametrize(
    ("ids", "feature_set"), [(["item", "kind"], "history"), (["query"], "searches"), (["kind"], "feedback")]
)
def test_feedback_shares_the_feature_set_of_equal_fields(ids: list[str], feature_set: str) -> None:
    layout = later_schema({"ids": ids}).layout
    assert layout.owners["feedback"].name == feature_set
    assert list(layout.feature_sets) == list(dict.fromkeys(["context", "history", "searches", feature_set]))
    assert set(layout.owners["feedback"].keys) <= set(layout.sizes)


def test_a_server_has_the_keys_of_training() -> None:
    schema = later_schema({"ids": ["kind"], "side": {"dwell": 5}}, hidden=True)
    served = schema.as_served()
    assert schema.feedback_read is schema.candidate.feedback and served.feedback_read is None
    assert served.layout == schema.layout and list(served.layout.sizes) == list(schema.layout.sizes)
    feedback = served.candidate.feedback
    assert (
        feedback is not None
        and not feedback.read
        and feedback.model_copy(update={"read": True}) == (schema.candidate.feedback)
    )
    assert make_schema().as_served() == make_schema() and served.as_served() == served


def test_without_feedback_nothing_of_it_is_left() -> None:
    """Also where the layout had been made before."""
    schema = later_schema({"ids": ["user"]}, hidden=True)
    assert "feedback.user" in schema.layout.sizes and schema.rows_of("user") == 1_001
    without = schema.with_feedback(None)
    assert without == later_schema(None, hidden=True) and without.layout == later_schema(None, hidden=True).layout
    assert without.rows_of("user") == 1_000
    again = without.with_feedback(FeedbackSchema.model_validate({"ids": ["user"]}))
    assert again == schema and again.layout == schema.layout and again.rows_of("user") == 1_001


def test_feedback_that_is_hidden() -> None:
    for hidden in (False, True):
        schema = later_schema({"ids": ["user"], "side": {"dwell": 5}}, hidden=hidden)
        assert schema.candidate.feedback is not None
        assert schema.side_values(schema.candidate.feedback) == {"dwell": 5 + hidden}
        assert schema.layout.sizes["feedback.user"] == 1_000 + hidden
        assert schema.layout.sizes["context.user"] == schema.rows_of("user"), "they share the table"
    with pytest.raises(ValueError, match=r"feedback\.dwell: a side value takes 1 to 32767 values, got 32768"):
        later_schema({"side": {"dwell": 2**15}}, hidden=True)


def test_tables_without_a_range_of_ids() -> None:
    tables = {"kind": 5, "query": 9, "item": {"rows": 40, "ids": "hashed"}, "user": {"rows": 700, "ids": "dynamic"}}
    schema = make_schema(tables=tables)
    assert schema.tables == {"kind": 5, "query": 9, "item": 40, "user": 700}
    assert schema.open_ids == {"item": "hashed", "user": "dynamic"}
    assert type(schema).model_validate(schema.model_dump()) == schema
    assert (schema.rows_of("item"), schema.rows_of("user")) == (40, 702)
    hidden = make_schema(tables=tables, hidden=True)
    assert (hidden.rows_of("item"), hidden.rows_of("user")) == (41, 702), "a dynamic table has both extra rows anyway"
    assert make_schema(tables=tables | {"item": {"rows": 40}}).open_ids == {"user": "dynamic"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"open_ids": {"city": "hashed"}}, "open_ids: table 'city' is not declared; declared: item, kind, user, query"),
        ({"open_ids": {"item": "hash"}}, "Input should be 'hashed' or 'dynamic'"),
        ({"tables": {"item": {"ids": "hashed"}}}, "table item: expected a number of ids, or rows and ids"),
        (
            {
                "open_ids": {"item": "hashed"},
                "sequences": [{"name": "history", "ids": [{"name": "item", "ngram": {"rows": 9}}]}],
                "candidate": {"ids": ["item"], "labels": ["click"]},
            },
            "history.item.ngram: n-grams are of ids with a range, and table item has none",
        ),
    ],
)
def test_wrong_tables_without_a_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_schema(**changes)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"attributes": {"kind": {"like": {"list": "item"}}}}, "attributes.kind.like"),
        ({"request": {"grouping_key": "user", "time": "time", "lists": {"tags": "item"}}}, "context.tags"),
    ],
)
def test_what_is_pooled_by_number_needs_a_range(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(ValueError, match=f"{place}: expected a table with ids: range, got hashed ids of item"):
        open_schema("hashed", **changes)
