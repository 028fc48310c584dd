"""One run of a study: its metrics on the test split, and what the audit of its feedback said."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from dist_rec.config import Config
from dist_rec.training.loop import train_one
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.ranks import Ranks
from dist_rec.training.run_log import RunLog


def trained(config: Config, ranks: Ranks) -> tuple[TaskMetrics, float]:
    """Metrics of the one task, and the AUC of feedback alone: NaN without a teacher."""
    with TemporaryDirectory() as out:
        with RunLog(Path(out), is_main=True, console=Console(quiet=True)) as log:
            (test,) = train_one(config, ranks, log).test.values()
        lines = map(json.loads, (Path(out) / "metrics.jsonl").read_text().splitlines())
        audits = [line["auc"] for line in lines if line["event"] == "feedback_audit"]
    return test, audits[0] if audits and audits[0] is not None else float("nan")
