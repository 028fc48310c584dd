"""Training with ids without a range."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dist_rec.common.id_hash import hashed_rows
from dist_rec.data.collate import collate
from dist_rec.data.schema import Schema
from dist_rec.training.pipeline import make_optimizer, plan_model, shard_model
from tests.data.open_rows import open_rows, open_schema
from tests.data.requests import make_schema, make_table
from tests.helpers.ranks import run_ranks
from tests.integration.test_ngrams import start_alike
from tests.training.runs import make_config, these_ranks

CPU = torch.device("cpu")
STEPS, ROWS = 4, 12  # far fewer rows than ids, so that ids share rows in every batch
Rows = list[dict[str, Any]]


def _hashed_before(rows: Rows) -> Rows:
    def of(ids: list[int]) -> list[int]:
        return hashed_rows(np.array(ids, np.int64), ROWS).tolist()

    lists = ("history.item", "candidate.item")
    return [row | {"user": of([row["user"]])[0]} | {name: of(row[name]) for name in lists} for row in rows]


def _job(out: str, schema: Schema, change: Callable[[Rows], Rows], sharding: str) -> tuple[list[float], list[Tensor]]:
    """Losses, and this rank's rows of the table of items at the end."""
    tables = {"item": {"sharding": [sharding]}}
    config = make_config(Path(out), Path(out), optim={"dense_update": "sync"}, embedding={"tables": tables})
    ranks = these_ranks()
    torch.manual_seed(0)
    model, plan = plan_model(schema, config, ranks)
    dmp = shard_model(model, plan, config, ranks)
    start_alike(dmp)
    optimizer = make_optimizer(dmp, config.optim, STEPS, ranks)
    losses = []
    for step in range(STEPS):
        every = change(open_rows(8, seed=step))
        batch = collate(make_table(every[ranks.rank :: ranks.world_size], schema), schema)
        batch.set_candidates_per_rank([sum(len(row["candidate.item"]) for row in every) / ranks.world_size])
        optimizer.zero_grad()
        loss, _ = dmp(batch.to(CPU))
        loss.backward()
        optimizer.step()
        losses.append(ranks.total(float(loss))[0] / ranks.world_size)
    found = {name: value for name, value in dmp.state_dict().items() if name.endswith(".item.weight")}
    pieces = [of for value in found.values() for of in value.local_shards()] if sharding != "data_parallel" else []
    whole = list(found.values()) if sharding == "data_parallel" else [of.tensor for of in pieces]
    return losses, [of.detach().clone() for of in whole]


def _as_they_are(rows: Rows) -> Rows:
    return rows


@pytest.mark.parametrize("sharding", ["row_wise", "table_wise", "data_parallel"])
def test_ids_that_share_a_row_add_their_gradients(tmp_path: Path, sharding: str) -> None:
    """What trains with raw ids is what trains with their rows, whose ids are distinct in a batch."""
    range_ids = make_schema(tables={"item": ROWS, "kind": 5, "user": ROWS, "query": 9})
    losses, weights = run_ranks(_job, 1, str(tmp_path), open_schema(rows=ROWS), _as_they_are, sharding)[0]
    expected, rows = run_ranks(_job, 1, str(tmp_path), range_ids, _hashed_before, sharding)[0]
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(weights, rows, rtol=1e-5, atol=1e-6)


def test_two_ranks_learn_what_one_learns(tmp_path: Path) -> None:
    (alone,) = run_ranks(_job, 1, str(tmp_path), open_schema(rows=ROWS), _as_they_are, "row_wise")
    first, second = run_ranks(_job, 2, str(tmp_path), open_schema(rows=ROWS), _as_they_are, "row_wise")
    assert first[0] == second[0]
    torch.testing.assert_close(first[0], alone[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat([*first[1], *second[1]]), alone[1][0], rtol=1e-5, atol=1e-5)
