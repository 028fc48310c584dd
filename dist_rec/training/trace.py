"""A few training steps under torch's profiler: what runs when, and behind what the dense all-reduce hides."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from dist_rec.training.ranks import Ranks

FILLING = 10  # steps before the trace: the pipeline fills, DDP rebuilds its buckets, kernels are chosen
WARMUP = 2  # the profiler's own, not recorded


class StepTrace:
    """Records `steps` steps of each rank to `folder/trace/rank<n>.json`, for chrome://tracing or Perfetto; 0 records
    nothing. The first `skipped` steps, such as a synchronous start, are left out.

    The labels `dense all-reduce: start bucket ...`, `dense all-reduce: wait` and `dense update: apply` are the
    optimizer's."""

    def __init__(self, folder: Path, steps: int, ranks: Ranks, skipped: int = 0) -> None:
        self._path = folder / "trace" / f"rank{ranks.rank}.json"
        self._first = skipped + FILLING + WARMUP + 1
        self._written = False
        self._profile: profile | None = None
        if not steps:
            return
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if ranks.device.type == "cuda" else [])]
        plan = schedule(wait=skipped + FILLING, warmup=WARMUP, active=steps, repeat=1)
        self._profile = profile(activities=activities, schedule=plan, on_trace_ready=self._write)
        self._profile.start()

    def step(self) -> None:
        """After every training step."""
        if self._profile is not None:
            self._profile.step()

    def close(self) -> list[str]:
        """At the end of the run; a line that says where the trace is, or why there is none."""
        if self._profile is None:
            return []
        self._profile.stop()
        if not self._written:
            return [f"no trace: the run ended before step {self._first}"]
        return [f"trace: {self._path.parent}"]

    def _write(self, done: torch.profiler.profile) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        done.export_chrome_trace(str(self._path))
        self._written = True
