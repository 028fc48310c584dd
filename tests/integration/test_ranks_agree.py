"""One rank and two ranks on the same global batches: the same loss curve, the same weights at the end."""

import pytest
import torch

from tests.data.requests import make_rows
from tests.embedding.sharded import Trained, initial_table, sharded_config, train, whole_tables
from tests.helpers.ranks import run_ranks

STEPS = 12
ROWS = make_rows(10 * STEPS)
GLOBAL = [ROWS[10 * step : 10 * step + 10] for step in range(STEPS)]
# Uneven parts, as ranks have at the end of their files: the second gets 0 to 5 of 10 requests.
BATCHES = [[rows[step % 6 :], rows[: step % 6]] for step, rows in enumerate(GLOBAL)]
UPDATES = ("sync", "delayed")
CONFIG = sharded_config(tables={name: {"sharding": ["row_wise"]} for name in ("item", "user")}, lr=0.05)


def _train_both_ways() -> dict[str, Trained]:
    return {update: train(CONFIG, BATCHES, dense_update=update) for update in UPDATES}


@pytest.fixture(scope="module")
def one_rank() -> list[dict[str, Trained]]:
    return run_ranks(_train_both_ways, 1)


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, Trained]]:
    return run_ranks(_train_both_ways, 2)


@pytest.mark.parametrize("update", UPDATES)
def test_same_loss_curve(one_rank: list[dict[str, Trained]], two_ranks: list[dict[str, Trained]], update: str) -> None:
    expected = one_rank[0][update].losses
    got = [(first + second) / 2 for first, second in zip(*(rank[update].losses for rank in two_ranks))]
    assert len(got) == len(expected) == STEPS and got == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("update", UPDATES)
def test_same_weights(one_rank: list[dict[str, Trained]], two_ranks: list[dict[str, Trained]], update: str) -> None:
    """Dense weights agree bitwise between ranks; against one rank, AdamW turns roundings of tiny gradients into steps."""
    single, ranks = one_rank[0][update], [rank[update] for rank in two_ranks]
    for name, expected in single.dense.items():
        assert torch.equal(ranks[0].dense[name], ranks[1].dense[name]), name
        torch.testing.assert_close(ranks[0].dense[name], expected, rtol=0.0, atol=1e-3)
    for name, expected in whole_tables([single], CONFIG).items():
        torch.testing.assert_close(whole_tables(ranks, CONFIG)[name], expected, rtol=0.0, atol=1e-5)
        assert (expected - initial_table(name, CONFIG)).abs().max() > 1e-2, "nothing was learned"


def test_delayed_is_not_sync(one_rank: list[dict[str, Trained]]) -> None:
    sync, delayed = (one_rank[0][update].losses for update in UPDATES)
    assert sync[0] == delayed[0] and abs(sync[1] - delayed[1]) > 1e-5
