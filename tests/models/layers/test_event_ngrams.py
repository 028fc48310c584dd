"""Tokens and pools of events with n-grams are those of whole rows, event by event."""

import pytest
import torch
from torch import Tensor

from dist_rec.common.ngram import NgramSpec
from dist_rec.data.batch import JaggedEvents
from dist_rec.data.lengths import Lengths
from dist_rec.models.config import TokenConfig
from dist_rec.models.layers.event_ngrams import EventNgrams, NgramField
from dist_rec.models.layers.jagged import CandidateView
from dist_rec.models.layers.sequence_pool import SequencePool
from dist_rec.models.layers.tokens import EventTokens

SPEC = NgramSpec(orders=[2, 3], heads=1, rows=9)
# A row: a field of 8 with n-grams, one of 8 without, and another of 8 with; or one field.
DIM = 24
FIELDS = (NgramField("item", "items", slice(0, 8), SPEC), NgramField("shop", "shops", slice(16, 24), SPEC))
WHOLE = (NgramField("all", "all", slice(0, 24), SPEC),)
LENGTHS = Lengths.of([3, 0, 2])


def made(fields: tuple[NgramField, ...]) -> tuple[EventNgrams, Tensor, JaggedEvents, dict[str, Tensor]]:
    torch.manual_seed(0)
    inverse = torch.tensor([0, 2, 1, 0, 2], dtype=torch.int32)
    index = {of.feature_set: torch.randint(4, (10,), dtype=torch.int32) for of in fields}
    ngrams = {of.feature_set: torch.randn(4, (of.columns.stop - of.columns.start) // 2) for of in fields}
    events = JaggedEvents(LENGTHS, inverse, {}, None, dict(index))
    return EventNgrams(fields), torch.randn(3, DIM), events, ngrams


def whole_rows(module: EventNgrams, rows: Tensor, events: JaggedEvents, ngrams: dict[str, Tensor]) -> Tensor:
    """(N, De) with every field in its place."""
    found = []
    for i, u in enumerate(events.inverse):  # pyright: ignore[reportArgumentType]
        row = rows[int(u)].clone()
        for of in module.fields:
            index = events.ngrams[of.feature_set]
            assert isinstance(index, Tensor)
            parts = ngrams[of.feature_set][index[2 * i : 2 * i + 2].long()].flatten()
            row[of.columns] = module.fusions[of.name](row[of.columns][None], parts[None])[0]
        found.append(row)
    return torch.stack(found)


@pytest.mark.parametrize("fields", [FIELDS, FIELDS[:1], FIELDS[1:], WHOLE])
@pytest.mark.parametrize("position", ["recency", "none"])
def test_tokens_are_those_of_whole_rows(fields: tuple[NgramField, ...], position: str) -> None:
    module, rows, events, ngrams = made(fields)
    config = TokenConfig.model_validate({"width": 6, "hidden": 10, "max_positions": 4, "position": position})
    tokens = EventTokens(config, DIM, {}, has_time=False, dropout=0.0, ngrams=module)
    made_of_parts = tokens(rows, events, module(rows, events, ngrams))
    plain = EventTokens(config, DIM, {}, has_time=False, dropout=0.0)
    plain.load_state_dict({name: value for name, value in tokens.state_dict().items() if "ngrams" not in name})
    each = JaggedEvents(LENGTHS, torch.arange(5, dtype=torch.int32), {})
    torch.testing.assert_close(made_of_parts, plain(whole_rows(module, rows, events, ngrams), each))


@pytest.mark.parametrize("fields", [FIELDS, WHOLE])
@pytest.mark.parametrize("prefix", [None, Lengths.of([3, 1, 0, 2])])
def test_pools_are_means_of_the_fused_rows(prefix: Lengths | None, fields: tuple[NgramField, ...]) -> None:
    module, rows, events, ngrams = made(fields)
    config = TokenConfig.model_validate({"width": 6, "hidden": 10, "position": "none"})
    tokens = EventTokens(config, DIM, {}, has_time=False, dropout=0.0, ngrams=module)
    pool = SequencePool(DIM, tokens, 7)
    view = CandidateView(torch.zeros(4, 1), None, Lengths.of([2, 1, 1]), prefix)
    pooled = pool(rows, events, tokens, view, module(rows, events, ngrams))
    others, with_ngrams = module.split(whole_rows(module, rows, events, ngrams))
    of_events = torch.cat([others, with_ngrams], 1)
    seen = [3, 3, 0, 2] if prefix is None else [3, 1, 0, 2]
    starts = [0, 0, 3, 3]
    means = [of_events[start : start + n].mean(0) if n else torch.zeros(DIM) for start, n in zip(starts, seen)]
    torch.testing.assert_close(pooled, pool.project(torch.stack(means)))


def test_columns_of_a_row_and_of_a_weight() -> None:
    module = EventNgrams((FIELDS[1], FIELDS[0]))
    others, own = module.split(torch.arange(DIM)[None])
    assert others[0].tolist() == [*range(8, 16)] and own[0].tolist() == [*range(16, 24), *range(8)]
