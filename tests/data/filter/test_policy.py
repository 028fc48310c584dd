import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.data.errors import DataError
from dist_rec.data.filter.actions import Action, Reason
from dist_rec.data.filter.config import FilterConfig
from dist_rec.data.filter.events import Events
from dist_rec.data.filter.policy import FilterPolicy, Rules
from dist_rec.data.schema import Schema
from dist_rec.data.some_rows import SomeRows
from dist_rec.registry import FILTERS
from tests.data.requests import make_rows, make_schema, make_table

ROWS = make_rows(7)


def _policy(schema: Schema | None = None, **config: Any) -> Rules:
    checked = FilterConfig.model_validate(config)
    return FILTERS.make(checked.policy, checked, schema or make_schema())


def _events(owner: str, schema: Schema | None = None, rows: list[dict[str, Any]] | None = None) -> Events:
    schema = schema or make_schema()
    rows = ROWS if rows is None else rows
    return Events(SomeRows(make_table(rows, schema), np.arange(len(rows))), schema, owner)


def _all(name: str) -> list[int]:
    return [value for row in ROWS for value in row[name]]


@pytest.mark.parametrize("owner", ["history", "candidate"])
@pytest.mark.parametrize("kind", ["values", "text", "npy", "far"])
def test_values_of_a_field(owner: str, kind: str, tmp_path: Path) -> None:
    """Of ids beyond any flag table too."""
    wanted, outside = [3, 4, 17], [2**40, -5, 2**64 - 1]
    if kind == "text":
        (tmp_path / "ids.txt").write_text("3\n17\n4\n")
    np.save(tmp_path / "ids.npy", np.array(wanted))
    of = {
        "values": {"values": wanted},
        "far": {"values": [*wanted, *outside]},
        "text": {"file": str(tmp_path / "ids.txt")},
        "npy": {"file": str(tmp_path / "ids.npy")},
    }[kind]
    reasons = _policy(rules=[{"reason": "sensitive", "field": "item", **of}]).reasons(_events(owner))
    assert reasons.tolist() == [8 * (item in wanted) for item in _all(f"{owner}.item")]


def test_a_rule_for_some_of_the_owners() -> None:
    policy = _policy(rules=[{"reason": "bot", "field": "item", "values": list(range(50)), "of": ["candidate"]}])
    assert not policy.reasons(_events("history")).any() and policy.reasons(_events("candidate")).all()
    assert not policy.reasons(_events("searches")).any()


@pytest.mark.parametrize("field", ["user", "context.user", "key"])
def test_a_field_of_the_request_is_for_all_its_events(field: str) -> None:
    """Context, or the grouping key, which may be any 64 bits."""
    key = -(2**60)
    schema = make_schema(request={"grouping_key": "key", "time": "time"})
    rows = [row | {"key": key + row["user"]} for row in ROWS]
    values = [key + 2, key + 5] if field == "key" else [2, 5]
    policy = _policy(schema, rules=[{"reason": "privacy", "field": field, "values": values}])
    for owner, first in (("history", "history.item"), ("searches", "searches.query"), ("candidate", "candidate.item")):
        chosen = policy.reasons(_events(owner, schema, rows)) > 0
        assert chosen.tolist() == [row["user"] in (2, 5) for row in rows for _ in row[first]]


def test_age() -> None:
    policy = _policy(rules=[{"reason": "low_quality", "older_than_days": 500 / 86_400}])
    assert (policy.reasons(_events("history")) > 0).tolist() == [1000 - time > 500 for time in _all("history.time")]
    assert not policy.reasons(_events("candidate")).any()


def test_columns_score_and_reason() -> None:
    """Reasons of the data count without a rule, beside those of rules."""
    sequences = [{"name": "history", "ids": ["item"], "score": True, "reason": True}]
    schema = make_schema(sequences=sequences, candidate={"ids": ["item"], "labels": ["click"], "score": True})
    rng = np.random.default_rng(0)
    rows = []
    for row in ROWS:
        events, candidates = len(row["history.item"]), len(row["candidate.item"])
        scores = {"history.score": rng.random(events).tolist(), "candidate.score": rng.random(candidates).tolist()}
        names = ("user", "time", "history.item", "candidate.item", "candidate.click")
        rows.append({n: row[n] for n in names} | scores | {"history.reason": rng.integers(0, 32, events).tolist()})
    rules = [{"reason": "bot", "field": "item", "values": [1, 2, 3]}]
    policy = _policy(schema, score={"above": 0.5, "reason": "unlearn"}, rules=rules)
    events = _events("history", schema, rows)
    expected = [
        reason | 2 * (np.float16(score) > 0.5) | 4 * (item in (1, 2, 3))
        for row in rows
        for reason, score, item in zip(row["history.reason"], row["history.score"], row["history.item"], strict=True)
    ]
    assert policy.reasons(events).tolist() == expected
    assert events.reason is not None and events.reason.tolist() == [r for row in rows for r in row["history.reason"]]
    candidates = policy.reasons(_events("candidate", schema, rows))
    assert set(candidates.tolist()) <= {0, 2, 4, 6} and (candidates & 2).any()


def test_of_several_reasons_the_strongest_action_counts() -> None:
    actions = {"privacy": "drop", "unlearn": "keymask", "bot": "hide", "sensitive": "mask", "low_quality": "keep"}
    policy = _policy(actions=actions, rules=[{"reason": "bot", "field": "item", "values": [1]}])
    named = {reason: Action[actions[str(reason.name).lower()].upper()] for reason in Reason}
    for bits, action in enumerate(policy.strongest.tolist()):
        assert action == max((of for reason, of in named.items() if bits & reason), default=Action.KEEP)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "expected something to decide by"),
        ({"score": {"above": 0.5, "reason": "bot"}}, "`score: true` for some events, got none"),
        (
            {"rules": [{"reason": "bot", "field": "brand", "values": [1]}]},
            r"rules\[0\].field: no event or request.*kind",
        ),
        ({"rules": [{"reason": "bot", "field": "item", "values": [1], "of": ["clicks"]}]}, "'clicks' is none of"),
        ({"rules": [{"reason": "bot", "older_than_days": 3, "of": ["searches"]}]}, "times, but searches has none"),
        (
            {"rules": [{"reason": "bot", "field": "item", "values": [1], "of": ["history", "searches"]}]},
            "searches has no",
        ),
        ({"rules": [{"reason": "bot", "field": "item", "values": [50, 10**6]}]}, "from 0 to 49, got 2, all outside"),
        ({"rules": [{"reason": "bot", "field": "page", "values": [300], "of": ["history"]}]}, "page from 0 to 299"),
    ],
)
def test_a_filter_that_can_match_nothing(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _policy(**config)


def test_a_name_of_events_and_of_the_request_says_which() -> None:
    schema = make_schema(context=["user", "kind"])
    rows = [row | {"kind": row["user"] % 5} for row in ROWS]
    rule = {"reason": "bot", "field": "kind", "values": [3]}
    with pytest.raises(ConfigError, match="'kind' is a field of history, candidate and one of the request"):
        _policy(schema, rules=[rule])
    of_request = _policy(schema, rules=[rule | {"field": "context.kind"}])
    of_events = _policy(schema, rules=[rule | {"of": ["history", "candidate"]}])
    for owner in ("history", "candidate"):
        events = _events(owner, schema, rows)
        assert (of_events.reasons(events) > 0).tolist() == [kind == 3 for kind in _all(f"{owner}.kind")]
        of_users = [row["user"] % 5 == 3 for row in rows for _ in row[f"{owner}.item"]]
        assert (of_request.reasons(events) > 0).tolist() == of_users
    assert (of_request.reasons(_events("searches", schema, rows)) > 0).any()


def test_a_threshold_is_not_rounded_to_half_precision() -> None:
    candidate = {"ids": ["item"], "labels": ["click"], "score": True}
    schema = make_schema(candidate=candidate)
    rows = [row | {"candidate.score": [1.0] * len(row["candidate.item"])} for row in ROWS]
    names = set(make_table([], schema).column_names)
    rows = [{name: value for name, value in row.items() if name in names} for row in rows]
    policy = _policy(schema, score={"above": 0.9999, "reason": "bot"})
    assert policy.reasons(_events("candidate", schema, rows)).all()


def test_a_large_file_of_hashes_is_made_once_and_found_quickly(tmp_path: Path) -> None:
    """Owners share the rule; what goes to the reader processes is the file, once."""
    ids = np.random.default_rng(0).integers(-(2**62), 2**62, 100_000)
    np.save(tmp_path / "ids.npy", ids)
    schema = make_schema(request={"grouping_key": "key", "time": "time"})
    policy = _policy(schema, rules=[{"reason": "privacy", "field": "key", "file": str(tmp_path / "ids.npy")}])
    first = policy.rules["history"]
    assert all(rules[0] is first[0] for rules in policy.rules.values())
    assert len(pickle.dumps(policy)) < 9 * len(ids)
    rows = [row | {"key": int(ids[5]) if row["user"] == 2 else row["user"]} for row in ROWS]
    chosen = policy.reasons(_events("history", schema, rows)) > 0
    assert chosen.tolist() == [row["user"] == 2 for row in rows for _ in row["history.item"]]


@pytest.mark.parametrize("field", ["user", "key"])
def test_a_file_without_ids_is_warned_of(field: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may grow until the run goes on; or it is an accident."""
    (tmp_path / "ids.txt").write_text("# none yet\n")
    schema = make_schema(request={"grouping_key": "key", "time": "time"})
    rules = [{"reason": "privacy", "field": field, "file": str(tmp_path / "ids.txt")}]
    policy = _policy(schema, rules=rules)
    assert "ids.txt has no ids, so the rule filters nothing" in caplog.text
    rows = [row | {"key": row["user"]} for row in ROWS]
    assert not policy.reasons(_events("history", schema, rows)).any()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt: cannot be read"):
        _policy(rules=[{"reason": "bot", "field": "item", "file": str(tmp_path / "none.txt")}])


class OddUsers(FilterPolicy):
    def reasons(self, events: Events) -> np.ndarray:
        odd = (events.of_request("user") % 2).astype(np.uint8)
        return odd[events.request] * np.uint8(Reason.PRIVACY)


def test_a_policy_of_ones_own() -> None:
    policy = _policy(policy=f"{__name__}:OddUsers", actions={"privacy": "drop"})
    actions = policy.decide(_events("history"))
    assert actions.tolist() == [Action.DROP * (row["user"] % 2) for row in ROWS for _ in row["history.item"]]
