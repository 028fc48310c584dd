"""One rank of a run, as `dist-rec train` trains it, with the moments of its steps and of its saves written down.

torchrun ... -m benchmarks.checkpoint.rank OUT.json RECIPE [key=value ...]
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from dist_rec.common.log import setup_logging
from dist_rec.config import load_config
from dist_rec.door import check_run
from dist_rec.training import loop, writer
from dist_rec.training.failure import one_voice
from dist_rec.training.interrupt import Interrupted
from dist_rec.training.ranks import start_ranks
from dist_rec.training.study import run_study


def main(out: Path, recipe: str, overrides: list[str]) -> None:
    config = load_config(recipe, overrides)
    check_run(config)
    steps: list[float] = []
    saves: list[tuple[float, float]] = []
    write = writer.write_checkpoint

    def timed_write(*arguments: Any) -> None:
        began = time.perf_counter()
        write(*arguments)
        saves.append((began, time.perf_counter()))

    class TimedThroughput(loop.Throughput):
        def add(self, loss: Any, size: Any, signals: Any) -> None:
            steps.append(time.perf_counter())
            super().add(loss, size, signals)

    writer.write_checkpoint, loop.Throughput = timed_write, TimedThroughput
    setup_logging(1)  # warnings alone
    with start_ranks(config.parallel) as ranks, one_voice():
        try:
            run_study(config, ranks)
        except Interrupted:
            pass
        if ranks.is_main:
            out.write_text(json.dumps({"steps": steps, "saves": saves}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
