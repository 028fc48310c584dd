import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dist_rec.data.batch import JaggedEvents
from dist_rec.data.lengths import Lengths
from dist_rec.models.layers.tokens import EventTokens, joined, time_bucket
from tests.helpers.closeness import assert_close_to_truth
from tests.models.batches import model_config

LENGTHS = (5, 0, 20, 1)


def _events() -> JaggedEvents:
    total = sum(LENGTHS)
    return JaggedEvents(
        lengths=Lengths.of(LENGTHS),
        inverse=torch.randint(0, 7, (total,), dtype=torch.int32),
        side={
            "action": torch.randint(0, 4, (total,), dtype=torch.uint8),
            "page": torch.randint(0, 300, (total,), dtype=torch.int16),
        },
        age=torch.randint(0, 10**6, (total,), dtype=torch.int32),
    )


def _tokens(position: str, has_time: bool = True) -> EventTokens:
    config = model_config(tokens={"position": position, "max_positions": 16}).tokens
    return EventTokens(config, 6, {"action": 4, "page": 300}, has_time, dropout=0.0)


def _plain(tokens: EventTokens, rows: Tensor, events: JaggedEvents) -> Tensor:
    """`W_2 gelu(W_1 [(e + p) ; tau ; dynamic] + b_1) + b_2`, one event at a time."""
    config, terms = tokens.config, dict(tokens.dynamic.items())
    terms = ({"time": tokens.time} if tokens.time is not None else {}) | terms
    first = torch.cat([tokens.static.weight, *(term.weight.weight for term in terms.values())], dim=1)
    out, at = [], 0
    for length in LENGTHS:
        for i in range(length):
            e = rows[events.inverse[at]]
            if tokens.position is not None:
                index = i if config.position == "absolute" else length - 1 - i
                e = e + tokens.position.weight[min(index, config.max_positions - 1)]
            parts = [e]
            for name, term in terms.items():
                values = time_bucket(_age(events), config.time_buckets) if name == "time" else events.side[name]
                parts.append(term.embedding.weight[int(values[at])])
            out.append(tokens.out(F.gelu(first @ torch.cat(parts) + tokens.static.bias)))
            at += 1
    return torch.stack(out)


def _age(events: JaggedEvents) -> Tensor:
    assert events.age is not None
    return events.age


@pytest.mark.parametrize(("position", "has_time"), [*itertools.product(["recency", "absolute", "none"], [True, False])])
def test_factorised_form_equals_the_plain_one(position: str, has_time: bool) -> None:
    """More events than positions: the farthest share the last one."""
    tokens, events, rows = _tokens(position, has_time), _events(), torch.randn(7, 6)
    plain = _plain(tokens, rows, events)
    got = tokens(rows, events)
    tokens, rows = tokens.double(), rows.double()
    assert_close_to_truth(got, _plain(tokens, rows, events), plain)
    torch.testing.assert_close(tokens(rows, events), _plain(tokens, rows, events), rtol=0.0, atol=1e-13)


def test_more_dynamic_fields_than_one_pass_takes() -> None:
    """Six terms: two more than `expand_add` adds at once."""
    events, rows = _events(), torch.randn(7, 6).double()
    fields = {f"field {i}": values for i, values in enumerate([*events.side.values()] * 2)}
    events = replace(events, side=fields)
    config = model_config(tokens={"position": "recency", "max_positions": 16}).tokens
    tokens = EventTokens(config, 6, {name: 300 for name in fields}, has_time=True, dropout=0.0).double()
    torch.testing.assert_close(tokens(rows, events), _plain(tokens, rows, events), rtol=0.0, atol=1e-13)


def test_recency_counts_from_the_newest_event() -> None:
    """Older events in front change nothing; with absolute positions they do."""
    events, rows = _events(), torch.randn(7, 6)
    newest = slice(LENGTHS[0] + 10, LENGTHS[0] + LENGTHS[2])
    tail = JaggedEvents(
        lengths=Lengths.of([10]),
        inverse=events.inverse[newest],
        side={name: values[newest] for name, values in events.side.items()},
        age=_age(events)[newest],
    )
    for position, same in (("recency", True), ("none", True), ("absolute", False)):
        tokens = _tokens(position).double()
        nn_rows = rows.double()
        assert torch.allclose(tokens(nn_rows, tail), tokens(nn_rows, events)[newest], rtol=0.0, atol=1e-13) == same


def test_no_events_leave_zero_gradients() -> None:
    tokens, events = _tokens("recency"), _events()
    none = JaggedEvents(
        lengths=Lengths.of([]),
        inverse=events.inverse[:0],
        side={name: values[:0] for name, values in events.side.items()},
        age=_age(events)[:0],
    )
    out = tokens(torch.zeros(0, 6), none)
    assert out.shape == (0, 8)
    gradients = torch.autograd.grad(out.sum(), list(tokens.parameters()))
    assert not any(gradient.any() for gradient in gradients)


def test_time_must_be_there_when_declared() -> None:
    with pytest.raises(AssertionError, match="the schema declares event times"):
        _tokens("none")(torch.randn(7, 6), replace(_events(), age=None))


def test_two_buckets_per_doubling() -> None:
    age = torch.tensor([0, 1, 2, 3, 6, 7, 14, 15, 2**31 - 1], dtype=torch.int32)
    assert time_bucket(age, 64).tolist() == [0, 2, 3, 4, 5, 6, 7, 8, 62]
    assert time_bucket(age, 8).tolist() == [0, 2, 3, 4, 5, 6, 7, 7, 7]
    ages = torch.arange(0, 100_000, dtype=torch.int32)
    steps = time_bucket(ages, 64).diff()
    assert time_bucket(ages, 64).dtype == torch.int32 and steps.min() == 0


@pytest.mark.parametrize(
    ("sizes", "rows"), [([64, 4], [256]), ([64, 4, 4], [1024]), ([64, 4, 300], [256, 300]), ([5], [5])]
)
def test_small_tables_are_looked_up_together(sizes: list[int], rows: list[int]) -> None:
    terms = [(torch.randn(size, 3).double(), torch.randint(0, size, (40,), dtype=torch.int32)) for size in sizes]
    fewer = joined(terms)
    assert [len(table) for table, _ in fewer] == rows and all(index.dtype == torch.int32 for _, index in fewer)
    expected, got = (sum(table[index] for table, index in each) for each in (terms, fewer))
    torch.testing.assert_close(got, expected, rtol=0.0, atol=1e-14)
