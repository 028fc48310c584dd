import json
from pathlib import Path

import torch
from torch.profiler import record_function

from dist_rec.training.ranks import Ranks
from dist_rec.training.trace import FILLING, WARMUP, StepTrace


def _ranks() -> Ranks:
    nothing = None
    return Ranks(3, 4, torch.device("cpu"), nothing, nothing)  # pyright: ignore[reportArgumentType]


def _run(folder: Path, steps: int, of: int) -> list[str]:
    trace = StepTrace(folder, steps, _ranks())
    for step in range(of):
        with record_function(f"step {step}"):
            torch.ones(2).sum()
        trace.step()
    return trace.close()


def test_records_the_steps_after_the_pipeline_has_filled(tmp_path: Path) -> None:
    lines = _run(tmp_path, 2, FILLING + WARMUP + 5)
    assert lines == [f"trace: {tmp_path / 'trace'}"]
    events = json.loads((tmp_path / "trace" / "rank3.json").read_text())["traceEvents"]
    first = FILLING + WARMUP
    assert {e["name"] for e in events if e.get("name", "").startswith("step ")} == {
        f"step {first}",
        f"step {first + 1}",
    }


def test_a_run_that_is_too_short_says_so(tmp_path: Path) -> None:
    assert _run(tmp_path, 2, 3) == [f"no trace: the run ended before step {FILLING + WARMUP + 1}"]
    assert not (tmp_path / "trace").exists()


def test_nothing_is_recorded_unless_asked_for(tmp_path: Path) -> None:
    assert _run(tmp_path, 0, 20) == [] and not list(tmp_path.iterdir())
