"""Rows of stored tables, and of those that a delta changes."""

import torch

from dist_rec.common.open_ids import HIDDEN_ID
from dist_rec.export.quantise import quantised
from dist_rec.serve.tables import ChangedRows, DynamicRows, Int4Rows, Int8Rows, PlainRows, Tables
from tests.data.requests import make_schema

ROWS = torch.tensor([3, 0, 3, 9])


def weight() -> torch.Tensor:
    return torch.randn(10, 8, generator=torch.Generator().manual_seed(0))


def test_stored_rows_are_near_by_their_own_range() -> None:
    plain = weight()
    spread = (plain.amax(1) - plain.amin(1))[ROWS][:, None]
    assert torch.equal(PlainRows(plain)(ROWS), plain[ROWS])
    assert torch.equal(PlainRows(plain.half())(ROWS), plain.half()[ROWS].float())
    assert bool(((Int8Rows(**quantised("int8", plain))(ROWS) - plain[ROWS]).abs() <= 0.51 * spread / 255).all())
    assert bool(((Int4Rows(**quantised("int4", plain))(ROWS) - plain[ROWS]).abs() <= 0.55 * spread / 15).all())


def test_changed_rows_are_taken_from_the_delta() -> None:
    plain, changed = weight(), torch.ones(2, 8)
    rows = ChangedRows(PlainRows(plain), torch.tensor([0, 9]), PlainRows(changed))(ROWS)
    assert torch.equal(rows, torch.stack([plain[3], changed[0], plain[3], changed[1]]))
    nothing = ChangedRows(PlainRows(plain), torch.empty(0, dtype=torch.int64), PlainRows(changed[:0]))
    assert torch.equal(nothing(ROWS), plain[ROWS])
    assert rows.shape == (4, 8) and len(nothing(ROWS[:0])) == 0


def test_any_id_has_a_row() -> None:
    reader = PlainRows(weight())
    rows = DynamicRows(reader, torch.tensor([-5, 7, 2**62]), torch.tensor([4, 2, 1]), fallback=8, hidden=9)
    got = rows(torch.tensor([7, 2**62, 1, -5, HIDDEN_ID]))
    assert torch.equal(got, reader(torch.tensor([2, 1, 8, 4, 9])))
    unknown = DynamicRows(reader, torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), 8, 9)
    assert torch.equal(unknown(torch.tensor([3])), reader(torch.tensor([8])))


def test_rows_of_a_feature_set_lie_side_by_side() -> None:
    schema = make_schema()
    readers = {name: PlainRows(torch.arange(float(size))[:, None]) for name, size in schema.tables.items()}
    rows = Tables(readers, schema).rows(lambda key: torch.tensor([1, 2]))
    assert torch.equal(rows["history"], torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    assert rows["context"].shape == (2, 1)
