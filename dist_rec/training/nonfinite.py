"""Losses that are infinite or NaN: where they came from, written down so that `dist-rec replay` finds it again."""

import json
from pathlib import Path
from typing import Any

import torch.distributed as dist

from dist_rec.common.errors import RunError
from dist_rec.data.files import RowGroup
from dist_rec.data.reader import RequestReader
from dist_rec.training.ranks import Ranks

FOLDER = "nonfinite"
MOST_NAMED = 5


def note_nonfinite(
    steps: list[int], reader: RequestReader, workers: int, folder: Path, ranks: Ranks, *, stop: bool
) -> str:
    """Writes the rows of the batches that this rank had at these `steps` of the run, whose loss is not finite, and says
    which steps and ranks they are of, the same on all ranks. Comm: one gather of messages.

    Raises RunError with `stop`."""
    for step in steps:
        place = folder / FOLDER / f"step-{step}-rank-{ranks.rank}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        rows = rows_told(reader.rows_at(step - 1, workers))
        place.write_text(json.dumps({"step": step, "rank": ranks.rank, "rows": rows}, indent=1) + "\n")
    every: list[list[int]] = [[] for _ in range(ranks.world_size)]
    dist.all_gather_object(every, steps, group=ranks.host_group)
    found = [f"step {step} on rank {rank}" for rank, of in enumerate(every) for step in of]
    first = min((step for of in every for step in of), default=0)
    told = ", ".join(found[:MOST_NAMED]) + (", ..." if len(found) > MOST_NAMED else "")
    said = (
        f"the loss is not finite (NaN or infinite): {told}; the rows of these batches: {folder / FOLDER}; look into it "
        f"with: dist-rec replay {folder} --step {first}"
    )
    if stop:
        raise RunError(f"{said}; the run stops, since run.nonfinite_loss is stop")
    return said


def rows_told(places: list[tuple[RowGroup, int]]) -> list[dict[str, Any]]:
    """Rows by file and row group, in the order of the batch."""
    found: dict[tuple[str, int], list[int]] = {}
    for group, row in places:
        found.setdefault((str(group.path), group.index), []).append(row)
    return [{"file": file, "row_group": index, "rows": rows} for (file, index), rows in found.items()]
