import torch

from benchmarks.bench_candidates import rows_of
from benchmarks.ladder.padding import Padding
from dist_rec.data.collate import collate
from tests.helpers.ladder import Both, cut

LENGTHS = [5, 0, 9]


def test_tokens_and_pools_are_those_of_dist_rec() -> None:
    both = Both("hyformer", 2)
    table = cut(both.requests, both.schema, LENGTHS)
    packet, batch = collate(table, both.schema).to(torch.device("cpu")), both.plain_batch(table)
    rows, looked_up = rows_of(packet, both.schema, both.tables), both.looked_up(batch)
    view = both.ranker.candidates(rows, packet)
    expected = both.ranker.sequences(rows, packet, view)
    for of in both.schema.sequences:
        tokens, pool = both.plain.tokens[of.name], both.plain.pools[of.name]
        events = torch.cat([looked_up[f"{of.name}.{field.name}"].values() for field in of.ids], 1)
        padding = Padding(batch.lengths[of.name], batch.longest[of.name], len(events))
        recency = padding.longest - 1 - padding.place % padding.longest
        beside = tokens.values(batch.age[of.name], batch.side[of.name])
        torch.testing.assert_close(tokens(events, recency, beside), expected.tokens[of.name])
        pooled = pool(events, beside, padding)
        torch.testing.assert_close(pooled.repeat_interleave(2, 0), expected.pools[of.name])
        padded = [padding.pad(of) for of in beside]
        torch.testing.assert_close(pool(padding.pad(events), padded, padding), pooled)
        assert not pooled[1].any(), "no events, no pool"
