from datetime import datetime, timedelta, timezone

import numpy as np
import torch

from dist_rec.data.filter.event_filter import Left
from dist_rec.data.reading import Reading
from dist_rec.data.request_values import WEEK, plain_request_bytes, request_values
from dist_rec.data.schema import Schema
from dist_rec.data.some_rows import SomeRows
from tests.data.kind_rows import flat, kind_rows, kinds_schema, kinds_table
from tests.data.requests import make_rows, make_schema, make_table

ROWS = kind_rows(12)
PICKED = np.array([7, 2, 2, 0])
CHOSEN = [ROWS[row] for row in PICKED]


def _reading(schema: Schema) -> Reading:
    return Reading(Left(SomeRows(kinds_table(ROWS, schema), PICKED)), schema, None)


def test_values_of_the_rows() -> None:
    found = request_values(_reading(kinds_schema()))
    for name in ("of_price", "of_stay"):
        np.testing.assert_array_equal(found[f"number.request.{name}"].numpy(), flat(CHOSEN, name))
    buckets = kinds_schema().request.numbers["of_rank"].buckets_of(flat(CHOSEN, "of_rank"))
    assert found["side.request.of_rank"].tolist() == buckets.tolist()
    assert found["side.request.of_rank"].dtype == torch.uint8 and found["week.request"].dtype == torch.int32
    assert list(found) == ["number.request.of_price", "number.request.of_stay", "side.request.of_rank", "week.request"]


def test_the_second_of_the_local_week() -> None:
    """Which begins on Thursdays, as 1 January 1970 was one."""
    found = request_values(_reading(kinds_schema()))["week.request"]
    for row, second in zip(CHOSEN, found.tolist(), strict=True):
        local = datetime.fromtimestamp(row["time"], timezone(timedelta(hours=5.5)))
        days = (local.weekday() - 3) % 7
        assert second == days * 86_400 + local.hour * 3_600 + local.minute * 60 + local.second
    assert int(found.min()) >= 0 and int(found.max()) < WEEK


def test_bytes() -> None:
    assert plain_request_bytes(_reading(kinds_schema())) == 4 * (3 * 8 + 12)
    plain = Reading(Left(SomeRows(make_table(make_rows(9)), PICKED)), make_schema(), None)
    assert plain_request_bytes(plain) == 0 and request_values(plain) == {}
