"""One rank and two ranks on the same global batches: the same loss curve, the same weights at the end."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_rec.data.reader import RequestReader
from tests.data.feedback_rows import feedback_rows
from tests.data.requests import make_dataset, make_rows, make_schema
from tests.embedding.sharded import Trained, Update, initial_table, sharded_config, train, whole_tables
from tests.helpers.ranks import run_ranks
from tests.models.batches import MODELS

STEPS = 12
ROWS, WITH_FEEDBACK = make_rows(10 * STEPS), feedback_rows(10 * STEPS)
SEQUENCES = {"history": {"encoder": "full", "causal": True}, "searches": {"encoder": "swiglu", "queries": 2}}
MORE = {
    "hyformer_mixed": {
        **MODELS["hyformer"],
        "tokens": {"width": 24},
        "hyformer": {"heads": 2, "sequences": SEQUENCES, "rankmixer_block": True, "rotary": True, "pools": "own"},
    },
    "hyformer_merged": {
        "name": "hyformer",
        "tokens": {"width": 20},
        "hyformer": {"heads": 2, "merge_sequences": True, "sequences": {"history": {"recent": 3, "queries": 2}}},
    },
}
NAMES = ("longer", "hyformer", "longer_rankmixer", *MORE)
TABLES = {table: {"sharding": ["row_wise"]} for table in ("item", "user")}
CONFIGS = {name: sharded_config({**MODELS, **MORE}[name], tables=TABLES, lr=0.05) for name in NAMES}
# Every action for some items; on some ranks and steps nothing is left to train.
FILTER = {
    "actions": {"privacy": "hide", "unlearn": "keymask", "bot": "drop", "sensitive": "mask"},
    "rules": [
        {"reason": reason, "field": "item", "values": list(range(first, 50, 6))}
        for first, reason in enumerate(("privacy", "unlearn", "bot", "sensitive"))
    ],
}
CONFIGS["filtered"] = sharded_config(MODELS["longer"], event_filter=FILTER, tables=TABLES, lr=0.05)
# A copy of the weights teaches, and feedback obeys the filter, too.
CONFIGS["longer_distilled"] = sharded_config(
    MODELS["longer"], event_filter=FILTER, distill={"teacher": "ema"}, tables=TABLES, lr=0.05
)
CONFIGS["hyformer_distilled"] = sharded_config(
    MODELS["hyformer"], distill={"warmup_updates": 3}, tables=TABLES, lr=0.05
)
RUNS: list[tuple[str, Update, str]] = [
    *(("longer", *run) for run in (("sync", "sgd"), ("delayed", "sgd"), ("delayed", "adamw"), ("ddp", "sgd"))),
    *(
        (name, update, "sgd")
        for name in (*NAMES[1:], "filtered", "longer_distilled", "hyformer_distilled")
        for update in ("delayed", "ddp")
    ),
    ("longer", "delayed", "sgd"),  # in batches by events
]


def _by_events() -> list[list[list[dict[str, Any]]]]:
    """The requests of every step and rank in batches by events: of two ranks, with unequal numbers of requests."""
    with tempfile.TemporaryDirectory() as name:
        folder = make_dataset(Path(name), len(ROWS)) / "train"
        settings: dict[str, Any] = {"schema": make_schema(), "batch_events": 35, "shuffle_window": 50}
        readers = [RequestReader(folders=[folder], rank=rank, world_size=2, **settings) for rank in range(2)]
        users = [[batch.tensors["grouping_key"].tolist() for batch in reader] for reader in readers]
    return [[[ROWS[user] for user in of] for of in step] for step in zip(*users, strict=True)][:STEPS]


def _uneven(rows: list[dict[str, Any]]) -> list[list[list[dict[str, Any]]]]:
    """The requests of every step and rank, in uneven parts, as at the end of files: the second gets 0 to 5 of 10."""
    steps = [rows[10 * step : 10 * step + 10] for step in range(STEPS)]
    return [[of[step % 6 :], of[: step % 6]] for step, of in enumerate(steps)]


def _train_every_way() -> list[Trained]:
    trained = []
    for name, update, dense in RUNS[:-1]:
        rows = ROWS if CONFIGS[name].distill is None else WITH_FEEDBACK
        trained.append(train(CONFIGS[name], _uneven(rows), update, dense))
    return [*trained, train(CONFIGS["longer"], _by_events(), "delayed", "sgd")]


@pytest.fixture(scope="module")
def one_rank() -> list[Trained]:
    return run_ranks(_train_every_way, 1)[0]


@pytest.fixture(scope="module")
def two_ranks() -> list[list[Trained]]:
    """The two ranks' results of each run."""
    return [list(pair) for pair in zip(*run_ranks(_train_every_way, 2))]


@pytest.mark.parametrize("run", range(len(RUNS)), ids=map(str, RUNS))
def test_same_loss_curve(one_rank: list[Trained], two_ranks: list[list[Trained]], run: int) -> None:
    expected = one_rank[run].losses
    got = [(first + second) / 2 for first, second in zip(*(rank.losses for rank in two_ranks[run]))]
    assert len(got) == len(expected) == STEPS and got == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("run", range(len(RUNS)), ids=map(str, RUNS))
def test_same_weights(one_rank: list[Trained], two_ranks: list[list[Trained]], run: int) -> None:
    for name, expected in one_rank[run].dense.items():
        first, second = (rank.dense[name] for rank in two_ranks[run])
        assert torch.equal(first, second), name
        if (
            RUNS[run][2] == "sgd"
        ):  # AdamW makes whole steps of roundings where the gradient is zero, as for a key's bias
            torch.testing.assert_close(first, expected, rtol=0.0, atol=1e-5)
    config = CONFIGS[RUNS[run][0]]
    tables = whole_tables(two_ranks[run], config)
    for name, expected in whole_tables([one_rank[run]], config).items():
        torch.testing.assert_close(tables[name], expected, rtol=0.0, atol=1e-5)
        assert (expected - initial_table(name, config)).abs().max() > 1e-2, "nothing was learned"


def test_batches_by_events_hold_unequal_numbers_of_requests() -> None:
    steps = _by_events()
    assert len(steps) == STEPS and any(len(first) != len(second) for first, second in steps)


def test_rows_of_filtered_items_stay_to_the_bit(one_rank: list[Trained], two_ranks: list[list[Trained]]) -> None:
    """Those of masked ones learn, and so does HIDDEN."""
    config = CONFIGS["filtered"]
    before, group = initial_table("item", config), torch.arange(51) % 6
    untouched = (group < 3) & (torch.arange(51) < 50)
    for run in (number for number, (name, _, _) in enumerate(RUNS) if name == "filtered"):
        for trained in ([one_rank[run]], two_ranks[run]):
            after = whole_tables(trained, config)["item"]
            assert torch.equal(after[untouched], before[untouched])
            assert not torch.equal(after[group == 3], before[group == 3]) and not torch.equal(after[50], before[50])


def test_runs_differ_where_they_should(one_rank: list[Trained]) -> None:
    sync, delayed, adamw, ddp = (trained.losses for trained in one_rank[:4])
    assert sync[0] == delayed[0] == adamw[0] and sync == pytest.approx(ddp, abs=1e-6)
    assert abs(sync[1] - delayed[1]) > 1e-4 and abs(delayed[2] - adamw[2]) > 1e-4
