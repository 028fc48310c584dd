"""The tables say what takes time where, what wins nothing, and what was assumed."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from dist_rec.cost.ledger import Operator
from dist_rec.cost.machine import machine_of
from dist_rec.cost.network import Cluster, network_of
from dist_rec.cost.parts import Parts, Without
from dist_rec.cost.plan import Step
from dist_rec.cost.report import ASSUMPTIONS, render
from dist_rec.cost.requests import Described, described
from dist_rec.cost.stages import StepCount
from tests.data.requests import make_schema
from tests.training.runs import make_config

STEP = Step(
    StepCount((Operator("ffn", "x", "stream", 10**9, 0, 0, False),), 10**6), 10, 20, 1000, 0.0, 10**6, 8000, 10**6
)


@pytest.fixture(scope="module")
def said() -> str:
    twice = Step(StepCount(STEP.count.operators * 2, 10**6), 10, 20, 1000, 0.0, 10**6, 8000, 10**6)
    late = (True, True)
    without = (Without("good", "bad", twice, late), Without("useless", "as good", STEP, late))
    parts = Parts(make_config(Path("nowhere"), Path("nowhere")), 8, STEP, without)
    clusters = [Cluster(machine_of("h100-80gb"), network_of(net), n) for n in (1, 64) for net in ("nvlink", "eth25")]
    requests = described(make_schema(), 10, None, Described(length=100, duplicates=0.75))
    out = io.StringIO()
    Console(file=out, width=250).print(render(parts, requests, clusters))
    return out.getvalue()


def _row(said: str, name: str) -> list[str]:
    (line,) = [line for line in said.splitlines() if line.startswith(f"│ {name} ")]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_every_cluster_has_a_column(said: str) -> None:
    assert [name for name in ("1 x nvlink", "1 x eth25", "64 x nvlink", "64 x eth25") if name not in said] == []
    assert _row(said, "limited by")[1:] == ["ffn", "ffn", "ffn", "rows all-to-all"]
    assert _row(said, "step")[1].startswith("0.4")


def test_what_hides_is_in_brackets(said: str) -> None:
    assert all(cell.startswith("(") for cell in _row(said, "input")[1:])


def test_what_wins_nothing_says_so(said: str) -> None:
    assert _row(said, "useless")[2:] == ["nothing"] * 4
    assert _row(said, "good")[2] in ("+99%", "+100%")


def test_assumptions_are_printed(said: str) -> None:
    assert all(line in said for line in ASSUMPTIONS)
    assert "75% of its bytes/s" in said and "hosts of 8 GPUs that share 3.1 GB/s" in said and "72 GPUs" in said
