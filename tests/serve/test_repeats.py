"""New events that came twice are appended once, and others that do not follow what is kept are refused."""

from collections.abc import Mapping
from typing import Any

import pytest

from dist_rec.serve.columns import event_columns, newest
from dist_rec.serve.repeats import appended_before
from dist_rec.serve.request_rows import Refused
from dist_rec.serve.user_states import Known
from tests.serve.exports import SCHEMA, events_of, make_requests, table_of

ONE = make_requests(1)[0]
CAME = {"history": len(ONE["history.item"]), "searches": len(ONE["searches.query"])}
KEPT = table_of([ONE]).select(event_columns(SCHEMA))


def before(count: int, after: Mapping[str, int], kept: int | None = None, **change: Any) -> bool:
    """Whether the newest `count` events were appended, where the newest `kept` are there."""
    new = table_of([{**ONE, **events_of(ONE, slice(-count, None)), **change}])
    return appended_before(Known(None, newest(KEPT, SCHEMA, kept), CAME), new, after)


def test_the_next_ones_and_those_that_were_appended() -> None:
    assert not before(2, CAME)
    for count in (1, 2):
        assert before(count, {name: of - count for name, of in CAME.items()})
    assert before(3, {name: of - 3 for name, of in CAME.items()}, kept=2), "the oldest of them has left"


def test_one_sequence() -> None:
    new = {name: [] for name in KEPT.column_names if name.startswith("history")}
    assert not before(1, {"searches": CAME["searches"]}, **new)
    assert before(1, {"searches": CAME["searches"] - 1}, **new)


@pytest.mark.parametrize("away", [-2, 1])
def test_neither_says_how_many_there_are(away: int) -> None:
    after = {name: of + away for name, of in CAME.items()}
    with pytest.raises(Refused, match=r"after: expected .*which have come, or the whole history, got ") as caught:
        before(1, after)
    assert caught.value.history_needed and all(str(of) in caught.value.expected for of in CAME.values())


def test_as_many_others_are_no_repetition() -> None:
    with pytest.raises(Refused, match="which have come"):
        before(1, {name: of - 1 for name, of in CAME.items()}, **{"history.item": [(ONE["history.item"][-1] + 1) % 50]})
