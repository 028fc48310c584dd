import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.data.lengths import Lengths
from dist_rec.models.longer.query_rows import select_queries
from tests.models.batches import longer_config


@given(
    lengths=st.lists(st.integers(0, 20), max_size=5),
    k=st.integers(1, 12),
    strategy=st.sampled_from(("recent", "uniform", "mixed")),
)
@settings(max_examples=150, deadline=None)
def test_query_rows(lengths: list[int], k: int, strategy: str) -> None:
    config = longer_config(k=k, queries=strategy)
    rows = select_queries(config, Lengths.of(lengths))
    q_lengths = rows.lengths
    assert q_lengths.tensor.dtype == torch.int32 and q_lengths.host.tolist() == [min(k, M) for M in lengths]
    starts = [sum(lengths[:b]) for b in range(len(lengths))]
    for start, M, position, index in zip(
        starts, lengths, rows.position.split(q_lengths.host.tolist()), rows.index.split(q_lengths.host.tolist())
    ):
        assert (index - position).tolist() == [start] * min(k, M)
        chosen = position.tolist()
        if k >= M:
            assert chosen == list(range(M))
            continue
        newest = {"recent": k, "uniform": 1, "mixed": k - k // 2}[strategy]
        assert chosen[-newest:] == list(range(M - newest, M))
        spread = chosen if strategy == "uniform" else chosen[:-newest]
        gaps = [after - before for before, after in zip([-1, *spread], spread)]
        assert not gaps or (max(gaps) - min(gaps) <= 1 and min(gaps) >= 1)
        assert strategy != "mixed" or not spread or spread[-1] == M - newest - 1


def test_learnable_rows_see_every_event() -> None:
    rows = select_queries(longer_config(k=2, queries="learnable"), Lengths.of([5, 0]))
    assert rows.lengths.host.tolist() == [2, 2] and rows.position.tolist() == [4, 4, -1, -1]
