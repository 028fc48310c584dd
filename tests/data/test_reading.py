import numpy as np
import pytest
import torch

from dist_rec.data.filter.event_filter import Left
from dist_rec.data.reading import Reading
from dist_rec.data.some_rows import SomeRows
from tests.data.later import later_rows, later_schema, reading_of
from tests.data.requests import make_table

ROWS, SCHEMA = later_rows(9), later_schema(hidden=True)
PICKED = [7, 2, 2, 0]


def _flat(name: str, newest: int | None = None) -> list[int]:
    return [of for row in PICKED for of in (ROWS[row][name] if newest is None else ROWS[row][name][-newest:])]


@pytest.mark.parametrize("newest", [None, 2])
def test_only_sequences_are_cut(newest: int | None) -> None:
    reading = Reading(Left(SomeRows(make_table(ROWS, SCHEMA), np.array(PICKED))), SCHEMA, newest)
    for owner, name, most in (("history", "page", newest), ("candidate", "click", None), ("feedback", "dwell", None)):
        assert reading.values(owner, name).tolist() == _flat(f"{owner}.{name}", most)
        lengths = [len(ROWS[row][f"{owner}.{name}"]) for row in PICKED]
        assert reading.lengths(owner, name).tolist() == [min(of, most or 99) for of in lengths]
    assert reading.now().tolist() == [ROWS[row]["time"] for row in PICKED] and reading.now().dtype == np.int64
    ages = [ROWS[row]["time"] - time for row in PICKED for time in ROWS[row]["history.time"][-(newest or 99) :]]
    assert reading.ages("history").tolist() == ages
    history = reading.events("history", SCHEMA.sequences[0])
    assert [ids.tolist() for ids in history.ids] == [_flat(f"history.{name}", newest) for name in ("item", "kind")]
    assert history.side == ("action", "page") and history.numbers("age.history") is not None
    assert history.numbers("slot.history") is None
    assert history.plain_bytes == 5 * (8 * len(ages) + 4 * len(PICKED)), "two ids, two side values and the time"


@pytest.mark.parametrize(("action", "hidden"), [("hide", True), ("drop", False), ("keymask", False)])
def test_what_a_filter_leaves_of_feedback(action: str, hidden: bool) -> None:
    reading = reading_of(ROWS, SCHEMA, action)
    requests = [row for row in ROWS if any(item % 3 for item in row["candidate.item"])]
    items = [item for row in requests for item in row["feedback.item"]]
    pages = [page for row in requests for page in row["feedback.page"]]
    stays = [hidden or item % 3 > 0 for item in items]
    left = [(item, page) for item, page, of in zip(items, pages, stays, strict=True) if of]
    assert reading.values("feedback", "item").tolist() == [item for item, _ in left], "as the file has them"
    feedback = SCHEMA.candidate.feedback
    assert feedback is not None
    shown = [50 if item % 3 == 0 else item for item, _ in left]
    assert reading.ids("feedback", feedback)[0].tolist() == reading.shown("feedback", "item", 50).tolist() == shown
    side = reading.side("feedback", feedback)
    assert side["side.feedback.page"].tolist() == [300 if item % 3 == 0 else page for item, page in left]
    assert (side["side.feedback.dwell"].dtype, side["side.feedback.page"].dtype) == (torch.uint8, torch.int16)


@pytest.mark.parametrize(("values", "hidden", "kind"), [(256, False, torch.uint8), (256, True, torch.int16)])
def test_side_values_are_as_wide_as_hidden_needs(values: int, hidden: bool, kind: torch.dtype) -> None:
    schema = later_schema({"side": {"dwell": values}}, hidden=hidden)
    assert schema.candidate.feedback is not None
    (found,) = reading_of(ROWS, schema).side("feedback", schema.candidate.feedback).values()
    assert found.dtype == kind
