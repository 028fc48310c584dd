"""Benchmark scripts run from one end to the other at toy size; what they measure is not judged here."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from benchmarks import plot_trace
from benchmarks.optim import harmless, slow_link
from benchmarks.optim.report import page

ROOT = Path(__file__).parents[2]


def _run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_attention(tmp_path: Path) -> None:
    """The kernel in Triton's interpreter beside its peers, with table, CSV and plot."""
    _run(
        "benchmarks.bench_ops",
        "attention",
        "--toy",
        "--cases",
        "A4",
        "--lengths",
        "zipf",
        "--repeats",
        "1",
        "--out",
        str(tmp_path),
    )
    (table,) = tmp_path.glob("*.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 3 and any("dist_rec" in str(row) for row in rows)
    assert list(tmp_path.glob("*.md")) and list(tmp_path.glob("*.png"))


def test_the_page_about_late_updates_names_what_is_missing(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    values: dict[str, Any] = {"data": "quickstart", "rate": 1.0, "batch": 1, "logloss": 0.5, "steps": 10}
    with table.open("w") as file:
        writer = csv.DictWriter(file, harmless.FIELDS)
        writer.writeheader()
        for seed in harmless.SEEDS:
            writer.writerow(values | {"mode": "sync", "seed": seed, "auc": 0.8, "ne": 0.7, "steps_to_target": 5, "cosine": 0.5})
        late = {"mode": "delayed", "seed": 2, "auc": 0.79, "ne": 0.72, "steps_to_target": "", "cosine": ""}
        writer.writerow(values | late)
    text = "\n".join(page([table]))
    assert "| sync | 0.8000 ± 0.0000 | - | 0.7000 ± 0.0000 | 5 | 0.50 | 5 |" in text
    assert "| delayed | 0.7900 | -0.0100 | 0.7200 | never | nan | 1 of 5 |" in text


@pytest.mark.parametrize("data", list(harmless.DATA))
def test_every_run_of_the_study_is_a_valid_recipe(data: str) -> None:
    cells = harmless.cells(data)
    assert len(set(cells)) == len(cells)
    configs = [cell.config("out") for cell in cells if cell.seed == harmless.SEEDS[0]]
    assert {config.optim.dense_update for config in configs} == {"sync", "delayed"}
    assert len({config.data.batch_size for config in configs}) == 2


def _event(name: str, begin: float, length: float, thread: int) -> dict[str, Any]:
    return {"ph": "X", "name": name, "ts": 1e6 + begin, "dur": length, "tid": thread}


def test_a_trace_is_drawn_with_every_all_reduce_at_its_step(tmp_path: Path) -> None:
    """The first span on the group's thread is that of a step before the trace."""
    events = [_event("gloo:all_reduce", 25.0, 30.0, 7)]
    for step in range(3):
        at = 100.0 * step
        events += [
            _event(f"ProfilerStep#{step}", at, 90.0, 1),
            _event("autograd::engine::evaluate_function: A", at + 10, 40.0, 1),
        ]
        events += [_event("dense all-reduce: start bucket 0", at + 20, 2.0, 1), _event("gloo:all_reduce", at + 60, 70.0, 7)]
        events += [_event("dense all-reduce: wait", at + 60, 5.0, 1), _event("dense update: apply", at + 70, 5.0, 1)]
    (tmp_path / "trace.json").write_text(json.dumps({"traceEvents": events}))
    found = plot_trace.read(tmp_path / "trace.json")
    with mock.patch.object(plot_trace, "SLACK", 0.0):
        spans = plot_trace.reduce_spans(found)
    assert spans == [(step, 0, 100.0 * step + 20, 110.0) for step in range(3)]
    assert [what for what, *_ in plot_trace.thread_spans(found)][:2] == ["forward", "backward"]
    plot_trace.draw(found, tmp_path / "trace.png")
    assert (tmp_path / "trace.png").stat().st_size > 0


def test_what_a_machine_lacks_for_the_slow_link_is_said() -> None:
    with mock.patch.object(slow_link.shutil, "which", lambda tool: None):
        assert "found no `ip` on PATH; it comes with iproute2" in slow_link.check_machine()
    with (
        mock.patch.object(slow_link.os, "geteuid", lambda: 1000),
        mock.patch.object(slow_link.shutil, "which", lambda tool: tool),
    ):
        assert "need root" in slow_link.check_machine()
