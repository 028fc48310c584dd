"""What a run writes and says: rows of JSON, lines, TensorBoard; and silence on the other ranks."""

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_rec.data.ngram.counts import NgramUse
from dist_rec.distill.audit import LeakAudit
from dist_rec.embedding.cache import CacheUse
from dist_rec.embedding.id_use import IdUse
from dist_rec.models.signals import Teaching
from dist_rec.optim.health import Health
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.run_log import RunLog, Tables, finite
from dist_rec.training.throughput import ThroughputStats

WINDOW = ThroughputStats(
    loss=0.625,
    steps=20,
    seconds=2.0,
    candidates_per_s=12_345.0,
    requests_per_s=999.0,
    events_per_s=2_500_000.0,
    events_per_step=50_000.0,
    largest_events_per_step=50_000.0,
    bytes_per_step=4_000.0,
    plain_bytes_per_step=16_000.0,
    waiting_share=0.02,
    memory_bytes=3e9,
)
HEALTH = Health(7, gradient_cosine=torch.tensor(-0.5), update_norm=torch.tensor(1.0), weight_norm=torch.tensor(4.0))
METRICS = {
    "click": TaskMetrics(
        auc=0.75, grouped_auc=0.7, logloss=0.5, ne=0.9, calibration=1.1, candidates=8, label_rate=0.25
    ),
    "buy": TaskMetrics(float("nan"), float("nan"), 0.1, float("nan"), float("nan"), candidates=8, label_rate=0.0),
}


def _optimizer(lr: float, grad_norm: torch.Tensor | None = None, health: Health | None = None) -> Any:
    """What a log line reads of one."""
    return SimpleNamespace(
        param_groups=[{"lr": lr}], grad_norm=grad_norm, health=health, skipped=3, all_reduce=SimpleNamespace(nbytes=80)
    )


def _say_everything(folder: Path, console: Console, *, is_main: bool) -> None:
    with RunLog(folder, is_main=is_main, console=console) as log:
        log.say("runs/[x]/y")
        log.training(20, 60, WINDOW, optimizer=_optimizer(0.5))
        log.training(40, 60, WINDOW, optimizer=_optimizer(0.25, torch.tensor(2.0), HEALTH))
        log.evaluation("valid", 40, METRICS)


def test_every_record_is_heard_on_the_rank_that_writes(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    for is_main in (False, True):
        with RunLog(tmp_path, is_main=is_main, console=Console(file=io.StringIO()), hear=heard.append) as log:
            log.training(20, 60, WINDOW, optimizer=_optimizer(0.5))
            log.evaluation("valid", 40, METRICS)
    assert heard == [_strict_json(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["event"], row["step"], row.get("task")) for row in heard] == [
        ("train", 20, None),
        ("valid", 40, "click"),
        ("valid", 40, "buy"),
    ]


def _strict_json(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_what_caches_did_is_recorded_and_said(tmp_path: Path) -> None:
    said = io.StringIO()
    with RunLog(tmp_path, is_main=True, console=Console(file=said, width=400)) as log:
        log.training(
            20,
            60,
            WINDOW,
            optimizer=_optimizer(0.5),
            tables=Tables(CacheUse(rows=1000, missed=25, fetched_bytes=64_000)),
        )
    row = _strict_json((tmp_path / "metrics.jsonl").read_text())
    assert (row["cache_hit_rate"], row["cache_fetched_bytes_per_step"]) == (0.975, 3200)
    assert "cache hits 97.5%, 3.2kB/step fetched" in said.getvalue()


def test_what_happened_to_dynamic_ids_is_recorded_and_said(tmp_path: Path) -> None:
    use = IdUse(met=200, hits=150, inserted=40, evicted=30, waiting=10, no_slot=0)
    said = io.StringIO()
    with RunLog(tmp_path, is_main=True, console=Console(file=said, width=400)) as log:
        log.training(20, 60, WINDOW, optimizer=_optimizer(0.5), tables=Tables(ids={"item": use}))
    assert "  ids of item: hit 75.0%, inserted 20.0%, waiting 5.0%, evicted 15.0%" in said.getvalue()
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    shares = {"hit": 0.75, "inserted": 0.2, "waiting": 0.05, "no_slot": 0.0, "evicted": 0.15}
    assert {name: row[f"ids.item.{name}"] for name in shares} == shares


def test_the_use_of_n_grams_is_recorded_and_said(tmp_path: Path) -> None:
    said = io.StringIO()
    with RunLog(tmp_path, is_main=True, console=Console(file=said, width=400)) as log:
        window = replace(WINDOW, ngram_use={"history.item.2": NgramUse(100, 200, 80)})
        log.training(20, 60, window, optimizer=_optimizer(0.5))
    row = _strict_json((tmp_path / "metrics.jsonl").read_text())
    use = {key.rpartition(".")[2]: value for key, value in row.items() if key.startswith("ngram.history.item.2.")}
    assert use == {"ids_per_event": 2.0, "rows_per_event": 0.8, "dedup": 2.5}
    assert "n-grams, ids/row: history.item.2 2.50" in said.getvalue()


def test_what_a_teacher_says_is_recorded_and_said(tmp_path: Path) -> None:
    said, nan = io.StringIO(), float("nan")
    teaching = {
        "buy": Teaching(0.5, 0.25, 0.125, 0.125, 0.875, 1.5, 0.75, 0.5, -0.25),
        "rate": Teaching(0.0, 0.0, 1.0, 0.0, nan, nan, nan, nan, nan),
    }
    with RunLog(tmp_path, is_main=True, console=Console(file=said, width=400)) as log:
        log.training(20, 60, WINDOW, optimizer=_optimizer(0.5))
        log.training(40, 60, replace(WINDOW, teaching=teaching), optimizer=_optimizer(0.5))
    plain, taught = map(_strict_json, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert not any(key.startswith(("distill", "teaching")) for key in plain) and "teaching" not in taught
    for task, of in teaching.items():
        found = {key: taught[f"distill.{task}.{key}"] for key in asdict(of)}
        assert found == finite(asdict(of))
    assert sum(key.startswith("distill.") for key in taught) == 2 * len(asdict(teaching["buy"]))
    without, line = said.getvalue().splitlines()
    assert "agreement" not in without and "  buy: 75% with feedback, agreement 0.875" in line
    assert "  rate: 0% with feedback, agreement nan" in line
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in board.Scalars("train/distill.buy.agreement")] == [(40, 0.875)]


def test_waiting_for_batches_is_said_where_it_costs(tmp_path: Path) -> None:
    said = io.StringIO()
    with RunLog(tmp_path, is_main=True, console=Console(file=said, width=400)) as log:
        log.training(20, 60, WINDOW, optimizer=_optimizer(0.5))
        log.training(40, 60, replace(WINDOW, waiting_share=0.25), optimizer=_optimizer(0.5))
    quick, slow = said.getvalue().splitlines()
    assert "waiting" not in quick and "25% of the time waiting for batches (data.workers)" in slow


def test_ranks_with_unequal_events_are_said(tmp_path: Path) -> None:
    said = io.StringIO()
    with RunLog(tmp_path, is_main=True, console=Console(file=said, width=400)) as log:
        log.training(20, 60, WINDOW, optimizer=_optimizer(0.5))
        log.training(40, 60, replace(WINDOW, largest_events_per_step=61_000.0), optimizer=_optimizer(0.5))
    equal, unequal = said.getvalue().splitlines()
    assert "per rank" not in equal and "50.0k events/step per rank, max/mean 1.22" in unequal


def test_every_row_is_json_and_holds_what_was_measured(tmp_path: Path) -> None:
    _say_everything(tmp_path, Console(file=io.StringIO()), is_main=True)
    first, second, click, buy = map(_strict_json, (tmp_path / "metrics.jsonl").read_text().splitlines())
    expected = {
        "event": "train",
        "step": 20,
        "lr": 0.5,
        "grad_norm": None,
        "loss": 0.625,
        "steps": 20,
        "bytes_per_step": 4000,
    }
    assert expected.items() <= first.items()
    assert (second["step"], second["grad_norm"]) == (40, 2.0)
    assert "gradient_cosine" not in first and (second["gradient_cosine"], second["relative_update"]) == (-0.5, 0.25)
    assert (second["skipped_updates"], second["gradient_buffer_bytes"]) == (3, 80)
    assert {
        "event": "valid",
        "step": 40,
        "task": "click",
        "auc": 0.75,
        "candidates": 8,
        "best_auc": None,
    }.items() <= click.items()
    assert (buy["task"], buy["auc"], buy["logloss"]) == ("buy", None, 0.1)


def test_what_a_filter_did_and_the_metrics_of_its_strata(tmp_path: Path) -> None:
    said = io.StringIO()
    window = replace(WINDOW, filtered_share={"hide": 0.25, "drop": 0.125})
    with RunLog(tmp_path, is_main=True, console=Console(file=said, width=400)) as log:
        log.training(20, 60, window, optimizer=_optimizer(0.5))
        log.evaluation("valid", 20, {"click": replace(METRICS["click"], strata={"forget": METRICS["buy"]})})
    train, valid, forget = map(_strict_json, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (train["filtered_share.hide"], train["filtered_share.drop"]) == (0.25, 0.125)
    assert (valid["event"], valid["auc"]) == ("valid", 0.75) and "strata" not in valid
    assert (forget["event"], forget["task"], forget["logloss"]) == ("valid/forget", "click", 0.1)
    lines = said.getvalue().splitlines()
    assert "filtered: hide 25.0%, drop 12.5%" in lines[0] and lines[2].startswith("valid/forget after step 20, click")


def test_says_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    output = io.StringIO()
    _say_everything(tmp_path, Console(file=output, width=40), is_main=True)
    assert output.getvalue().splitlines() == [
        "runs/[x]/y",
        *(
            f"step {step}/60  loss 0.6250  12.3k samples/s  2.5M events/s  4.0kB/step to the device (75% less than as "
            "plain int64)"
            for step in (20, 40)
        ),
        "valid after step 40, click: AUC 0.7500  grouped AUC 0.7000  logloss 0.5000  NE 0.9000  calibration 1.100",
        "valid after step 40, buy: AUC nan  grouped AUC nan  logloss 0.1000  NE nan  calibration nan",
    ]


def test_shows_a_bar_on_a_terminal(tmp_path: Path) -> None:
    output = io.StringIO()
    _say_everything(tmp_path, Console(file=output, force_terminal=True, width=200), is_main=True)
    assert "40/60" in output.getvalue()
    assert "2.5M events/s" in output.getvalue()
    assert "step 40/60" not in output.getvalue(), "no lines beside the bar"


def test_other_ranks_say_and_write_nothing(tmp_path: Path) -> None:
    output = io.StringIO()
    _say_everything(tmp_path / "run", Console(file=output), is_main=False)
    assert output.getvalue() == ""
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    _say_everything(tmp_path, Console(file=io.StringIO()), is_main=True)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in board.Scalars("train/loss")] == [(20, 0.625), (40, 0.625)]
    assert [(e.step, e.value) for e in board.Scalars("valid/click/auc")] == [(40, 0.75)]
    assert "valid/buy/auc" not in board.Tags()["scalars"]


def test_rows_are_added_to_those_of_before(tmp_path: Path) -> None:
    for _ in range(2):
        _say_everything(tmp_path, Console(file=io.StringIO()), is_main=True)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 8


def test_rows_are_there_when_a_run_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with RunLog(tmp_path, is_main=True, console=Console(file=io.StringIO())) as log:
            log.training(20, 60, WINDOW, optimizer=_optimizer(0.5))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 20


def test_what_feedback_alone_tells(tmp_path: Path) -> None:
    said, unknown = io.StringIO(), float("nan")
    found = {"click": LeakAudit(0.75, 40, 30, 0.8), "buy": LeakAudit(unknown, 40, 30, unknown)}
    with RunLog(tmp_path, is_main=True, console=Console(file=said, width=400)) as log:
        log.feedback_audit(found)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    kept = {"event": "feedback_audit", "step": 0, "candidates": 40, "with_feedback": 30}
    aucs = {"click": (0.75, 0.8), "buy": (None, None)}
    assert rows == [kept | {"task": task, "auc": a, "auc_with_feedback": b} for task, (a, b) in aucs.items()]
    assert said.getvalue() == "".join(audit.told(task) + "\n" for task, audit in found.items())
    with RunLog(tmp_path / "other", is_main=False) as log:
        log.feedback_audit(found)
    assert not (tmp_path / "other").exists()


def test_forgets_what_a_killed_run_wrote_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"event": "feedback_audit", "step": 0}, *({"event": "train", "step": step} for step in (2, 4, 6))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"event": "train", "st')
    with RunLog(tmp_path, is_main=True, console=Console(file=io.StringIO())) as log:
        log.forget_after(4)
        log.feedback_audit({})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4]
    with RunLog(tmp_path, is_main=True, console=Console(file=io.StringIO())) as log:
        log.forget_after(0)
    assert path.read_text() == ""
