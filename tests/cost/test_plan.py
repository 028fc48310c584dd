"""What hides behind what, and what a step waits for."""

from dataclasses import replace
from pathlib import Path

import pytest

from dist_rec.cost.ledger import Operator
from dist_rec.cost.machine import Machine, machine_of
from dist_rec.cost.network import Cluster, network_of
from dist_rec.cost.plan import Step, StepTime, step_time
from dist_rec.cost.requests import Described, described
from dist_rec.cost.stages import StepCount
from tests.data.requests import make_schema
from tests.training.runs import make_config

H100 = machine_of("h100-80gb")
OPERATORS = tuple(Operator(stage, "x", "stream", 10**9, 0, 0, False) for stage in ("tokens", "backward", "optimizer"))
STEP = Step(StepCount(OPERATORS, 10**6), 10, 20, 1000, 100.0, 10**6, 10**5, 10**6)
CONFIG = make_config(Path("nowhere"), Path("nowhere"))


def _time(
    step: Step = STEP, gpus: int = 64, net: str = "ib400", delayed: bool = True, machine: Machine = H100
) -> StepTime:
    return step_time(step, Cluster(machine, network_of(net), gpus), CONFIG, workers=8, delayed=delayed)


def test_a_step_is_its_own_work_where_nothing_is_slower() -> None:
    time = _time(gpus=1)
    assert time.step_s == pytest.approx(sum(time.exposed.values())) and time.exposed["imbalance"] == 0
    assert time.exposed["rows all-to-all"] == 0 and time.limited_by in ("tokens", "backward", "optimizer")
    assert time.samples_per_s == pytest.approx(20 / time.step_s)


def test_a_late_all_reduce_hides_until_it_is_longer_than_the_step() -> None:
    small = _time()
    assert "all-reduce" in small.hidden and small.limited_by != "all-reduce"
    large = replace(STEP, count=StepCount(OPERATORS, 10**10))
    late, at_once = _time(large), _time(large, delayed=False)
    assert late.limited_by == at_once.limited_by == "all-reduce"
    assert late.step_s == pytest.approx(late.hidden["all-reduce"])
    assert at_once.step_s == pytest.approx(late.step_s + sum(late.exposed.values()))


@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ({"to_device_bytes": 10**12}, "host to device"),
        ({"id_bytes": 10**12}, "ids all-to-all"),
        ({"events": 10**9}, "input"),
    ],
)
def test_what_hides_limits_a_step_once_it_is_the_longest(changes: dict[str, int], stage: str) -> None:
    time = _time(replace(STEP, **changes))
    assert time.limited_by == stage and time.step_s == pytest.approx(time.hidden[stage])


def test_rows_are_in_the_step_both_ways() -> None:
    less, more = (_time(replace(STEP, row_bytes=nbytes)) for nbytes in (10**6, 10**8))
    assert more.step_s - less.step_s == pytest.approx(more.exposed["rows all-to-all"] - less.exposed["rows all-to-all"])
    cluster = Cluster(H100, network_of("ib400"), 64)
    assert more.exposed["rows all-to-all"] == pytest.approx(2 * cluster.all_to_all_s(10**8))


def test_only_work_by_events_waits_for_the_largest_batch() -> None:
    time = _time()
    by_events = time.exposed["tokens"] + time.exposed["backward"]
    assert 0.2 * by_events < time.exposed["imbalance"] < 0.3 * by_events  # 64 draws: 2.4 times 10 %


def test_the_host_shows_where_it_is_slower_than_the_device() -> None:
    slow = H100.model_copy(update={"host_launch_s": 1.0})
    assert _time(gpus=1, machine=slow).step_s == pytest.approx(3.0) and _time().exposed["host"] == 0


def test_bytes_are_those_of_the_batch() -> None:
    schema = make_schema()
    config = make_config(
        Path("nowhere"), Path("nowhere"), embedding={"tables": {"user": {"sharding": ["data_parallel"]}}}
    )
    requests = described(schema, 4, None, Described(length=6, spread=0.5))
    batch = requests.batch(schema)
    step = Step.of(StepCount((), 0), schema, config, requests, batch)
    ids = sum(count for key, count in batch.num_unique.items() if key != "context.user")
    assert (step.id_bytes, step.row_bytes, step.to_device_bytes) == (8 * ids, 4 * 8 * ids, batch.nbytes)
    assert step.spread == pytest.approx(2 * requests.spread)
    by_events = config.model_copy(
        update={"data": config.data.model_copy(update={"batch_size": None, "batch_events": 50})}
    )
    assert Step.of(StepCount((), 0), schema, by_events, requests, batch).spread == requests.spread
