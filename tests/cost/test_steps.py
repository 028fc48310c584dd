"""Steps without a reader: they train, they are counted once the pipeline is full, and counting leaves no trace."""

from itertools import pairwise, repeat
from pathlib import Path

import torch

from dist_rec.config import Config
from dist_rec.cost.requests import Described, described
from dist_rec.cost.steps import TrainingSteps
from tests.data.requests import make_schema
from tests.helpers.devices import one_rank
from tests.helpers.ranks import run_ranks
from tests.training.runs import make_config, these_ranks

SCHEMA = make_schema()
REQUESTS = described(SCHEMA, 4, None, Described(length=6, candidates=2))


def _config(dense_update: str = "delayed") -> Config:
    return make_config(Path("nowhere"), Path("nowhere"), optim={"dense_update": dense_update, "warmup_sync_steps": 9})


def test_a_step_changes_the_weights_and_a_delayed_one_late() -> None:
    for dense_update, unchanged in (("sync", 0), ("delayed", 1)):
        with one_rank("cpu") as ranks:
            steps = TrainingSteps.of(_config(dense_update), SCHEMA, ranks)
            weight = next(steps.model.ranker.parameters())
            seen = [weight.detach().clone()]
            for _ in steps.run([REQUESTS.batch(SCHEMA)] * 3):
                seen.append(weight.detach().clone())
        same = [torch.equal(a, b) for a, b in pairwise(seen)]
        assert same == [True] * unchanged + [False] * (3 - unchanged)


def test_counting_sees_every_stage_and_changes_nothing() -> None:
    with one_rank("cpu") as ranks:
        steps = TrainingSteps.of(_config(), SCHEMA, ranks)
        batch, stages = REQUESTS.batch(SCHEMA), {steps.model.embedding: "lookup", steps.model.ranker: "model"}
        first, second = (steps.count(batch, stages).operators for _ in range(2))
        assert [(each.stage, each.name) for each in first] == [(each.stage, each.name) for each in second]
        assert {each.stage for each in first} == {"exchange", "lookup", "model", "backward", "optimizer"}
        assert "step" not in vars(steps.optimizer)
        next(running := steps.run(repeat(batch, 2)))
        list(running)


def _on_a_rank() -> int:
    ranks = these_ranks()
    steps = TrainingSteps.of(_config(), SCHEMA, ranks)
    batch = REQUESTS.first(1 + 3 * ranks.rank).batch(SCHEMA)
    return len(list(steps.run([batch] * 3)))


def test_two_ranks_step_together() -> None:
    assert run_ranks(_on_a_rank, 2) == [3, 3]
