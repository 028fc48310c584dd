"""How a run ended: kept as `result.json` in its folder, so that it is not trained again."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from dist_rec.common.strict import ConfigError
from dist_rec.training.metrics import TaskMetrics

RESULT = "result.json"


@dataclass(frozen=True)
class RunResult:
    """Metrics per task on the test split (empty without one), steps done, wall time in seconds."""

    test: dict[str, TaskMetrics]
    valid: dict[str, TaskMetrics]
    steps: int
    seconds: float

    def write(self, folder: Path) -> None:
        partial = folder / f".{RESULT}"
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n")  # with NaN, as Python reads it
        os.replace(partial, folder / RESULT)

    @classmethod
    def read(cls, folder: Path) -> "RunResult | None":
        """None of a run that has not ended. Raises ConfigError for a file that is damaged."""
        path = folder / RESULT
        if not path.is_file():
            return None
        try:
            return TypeAdapter(RunResult).validate_python(json.loads(path.read_bytes()))
        except (ValueError, RecursionError) as error:
            told = " ".join(str(error).split())
            raise ConfigError(f"{path}: damaged: {told}; delete it to end the run again") from None
