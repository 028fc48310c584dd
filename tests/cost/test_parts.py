"""A step without each part: what changes, and what it costs where."""

from pathlib import Path
from typing import Any

import pytest

from dist_rec.config import Config
from dist_rec.cost.ledger import Operator
from dist_rec.cost.machine import machine_of
from dist_rec.cost.network import Cluster, network_of
from dist_rec.cost.parts import Parts, parts_of, wide_bytes
from dist_rec.cost.requests import Described, described
from dist_rec.cost.stages import StepCount
from tests.data.requests import make_schema
from tests.training.runs import make_config

SCHEMA = make_schema(tables={"item": 10_000, "kind": 5, "user": 1000, "query": 10_000})


def _parts(half: bool = True, **changes: Any) -> Parts:
    """Every event costs as much; half of it in bf16."""
    config = make_config(Path("nowhere"), Path("nowhere"), **changes)
    requests = described(SCHEMA, 50, None, Described(length=100, spread=0.5, candidates=4, duplicates=0.75))

    def count(_: Config, __: object, batch: Any, in_half: bool) -> StepCount:
        nbytes = batch.num_events * 10**6 // (2 if in_half else 1)
        return StepCount((Operator("layers", "x", "stream", nbytes, 0, 0, in_half),), 10**6)

    return parts_of(config, SCHEMA, requests, count, workers=8, half=half)


def _gains(parts: Parts, gpus: int, net: str) -> dict[str, float]:
    cluster = Cluster(machine_of("h100-80gb"), network_of(net), gpus)
    return {of.part: parts.gain(of, cluster) for of in parts.without}


def test_each_part_is_taken_away_alone() -> None:
    gains = _gains(_parts(), 1, "nvlink")
    assert gains["shared requests"] == pytest.approx(3.0, rel=0.01)
    assert gains["bf16"] == pytest.approx(1.0, rel=0.01)
    assert gains["jagged sequences"] > 1.0
    for nothing_on_one_gpu in ("dedup", "late dense update", "narrow wire"):
        assert gains[nothing_on_one_gpu] == pytest.approx(0.0, abs=1e-3), nothing_on_one_gpu


def test_a_slow_network_pays_dedup_and_the_late_update() -> None:
    fast, slow = (_gains(_parts(), 64, net) for net in ("nvlink", "eth25"))
    for part in ("dedup", "late dense update"):
        assert slow[part] > fast[part] + 1e-4


def test_a_synchronous_recipe_is_still_told_what_a_late_update_would_win() -> None:
    delayed, sync = (_parts(optim={"dense_update": kind}) for kind in ("delayed", "sync"))
    gain = "late dense update"
    assert _gains(delayed, 64, "eth25")[gain] == _gains(sync, 64, "eth25")[gain]
    cluster = Cluster(machine_of("h100-80gb"), network_of("eth25"), 64)
    assert sync.time(cluster).step_s > delayed.time(cluster).step_s


def test_what_a_recipe_does_not_use_is_no_part() -> None:
    assert [of.part for of in _parts(half=False, data={"dedup": False}).without] == [
        "shared requests",
        "jagged sequences",
        "late dense update",
        "narrow wire",
    ]


def test_a_wide_batch_by_hand() -> None:
    batch = described(SCHEMA, 3, None, Described(length=10, candidates=2)).batch(SCHEMA)
    events, candidates, users = 3 * 10, 6, 3
    ids = sum(batch.num_unique.values())
    values = events * 3 + users * 3  # action, page and age of the history; lengths of three owners
    rest = 2 * candidates * 2 + users + 1 + len(batch.num_unique)  # labels, oracle, grouping key, share, counts of ids
    index = 2 * events + candidates + users
    assert wide_bytes(batch) == 8 * (ids + values + rest + index) > 2 * batch.nbytes
