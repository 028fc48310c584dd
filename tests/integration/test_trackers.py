"""The listeners of docs/runs.md hear a run, with stand-ins for the packages that they import."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dist_rec.config import ParallelConfig
from dist_rec.door import check_run
from dist_rec.training.ranks import start_ranks
from dist_rec.training.study import run_study
from tests.training.runs import make_config, write_dataset

DOCS = Path(__file__).resolve().parents[2] / "docs" / "runs.md"
FILES = dict(re.findall(r'```python title="(trackers/\w+\.py)"\n(.*?)```', DOCS.read_text(), re.DOTALL))


class StandIn:
    """A package whose functions, and what they return, write down how they are called."""

    def __init__(self) -> None:
        self.called: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self.called.append((name, arguments, named))
            return self

        return call

    def names(self) -> list[str]:
        return [name for name, _, _ in self.called]


@pytest.fixture
def trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """`wandb` and `mlflow`, and a folder with the examples from which Python imports."""
    for place, text in FILES.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = SimpleNamespace(wandb=StandIn(), mlflow=StandIn())
    monkeypatch.setitem(sys.modules, "wandb", found.wandb)
    monkeypatch.setitem(sys.modules, "mlflow", found.mlflow)
    yield found
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackers"]:
        del sys.modules[name]


def test_both_hear_every_record_of_a_run(trackers: SimpleNamespace, tmp_path: Path) -> None:
    listeners = [
        {"name": "trackers.wandb_client:Wandb", "options": {"project": "ads"}},
        "trackers.mlflow_client:Mlflow",
    ]
    data = write_dataset(tmp_path / "data")
    config = make_config(data, tmp_path / "runs", run={"listeners": listeners, "max_steps": 2})
    check_run(config)
    assert not trackers.wandb.called and not trackers.mlflow.called, "nothing is started at the door"
    with start_ranks(ParallelConfig()) as alone:
        folder = run_study(config, alone).folder
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first, *logged, last = trackers.wandb.called
    assert first[2]["project"] == "ads" and first[2]["config"]["run"]["max_steps"] == 2
    assert [named["step"] for _, _, named in logged] == [record["step"] for record in records]
    assert logged[0][1][0]["train/loss"] == records[0]["loss"] and "valid/click/auc" in logged[2][1][0]
    assert last == ("finish", (), {"exit_code": 0})
    assert trackers.mlflow.names() == ["start_run", "log_dict", *["log_metrics"] * len(records), "end_run"]
    assert [call[1] for call in trackers.mlflow.called[2:-1]] == [call[1] for call in logged]
    assert trackers.mlflow.called[-1] == ("end_run", ("FINISHED",), {})
