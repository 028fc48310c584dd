"""The output of a running run: a progress bar on a terminal, plain lines elsewhere, TensorBoard, `metrics.jsonl`."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from dist_rec.distill.audit import LeakAudit
from dist_rec.embedding.cache import CacheUse
from dist_rec.embedding.id_use import IdUse
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.throughput import ThroughputStats

SLOW_INPUT = 0.1  # share of the time that steps may wait for their batches before it is said


@dataclass(frozen=True)
class Tables:
    """What tables did in a window: this rank's caches of those in host memory, and the ids of dynamic ones by table."""

    cache: CacheUse | None = None
    ids: Mapping[str, IdUse] = field(default_factory=dict)


class RunLog:
    """Writes one run's folder. Only rank 0 writes; on other ranks every method does nothing.

    Use as a context manager; files are closed at its end, whatever ends it. `hear` gets every record that is written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        is_main: bool,
        console: Console | None = None,
        hear: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        self._is_main, self._hear = is_main, hear
        self._console = console or Console()
        self._file: IO[str] | None = None
        self._board: SummaryWriter | None = None
        self._progress: Progress | None = None

    def __enter__(self) -> "RunLog":
        if self._is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = (self.folder / "metrics.jsonl").open("a")
            self._board = SummaryWriter(str(self.folder / "tensorboard"))
            if self._console.is_terminal:
                columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
                self._progress = Progress(*columns, TextColumn("{task.fields[status]}"), console=self._console)
                self._progress.start()
                self._progress.add_task("train", total=None, status="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for closing in (self._file, self._board):
            if closing is not None:
                closing.close()
        if self._progress is not None:
            self._progress.stop()

    def forget_after(self, step: int) -> None:
        """Drops what the log has of later steps, which a killed run wrote and which come again."""
        if not self._is_main:
            return
        assert self._file is not None and self._board is not None, "RunLog is used inside `with`"
        path, partial = self.folder / "metrics.jsonl", self.folder / ".metrics.jsonl"
        self._file.close()
        rows = [line for line in path.read_text().splitlines(keepends=True) if _is_before(line, step)]
        partial.write_text("".join(rows))
        partial.replace(path)
        self._file = path.open("a")
        self._board.close()
        self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)

    def say(self, text: str) -> None:
        """One line for the reader at the console."""
        if self._is_main:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def compiling(self, done: int, started: int) -> None:
        """Kernels that are compiled before the first step, and all that were started."""
        if self._progress is not None:
            self._progress.update(
                self._progress.task_ids[0], completed=done, total=started, status="kernels compiled for this GPU"
            )

    def training(
        self,
        step: int,
        total_steps: int,
        window: ThroughputStats,
        *,
        optimizer: HybridOptimizer,
        tables: Tables | None = None,
    ) -> None:
        """A window of training steps, with the optimizer's state after it, and what tables did in it."""
        if not self._is_main:
            return
        cache, ids = (None, {}) if tables is None else (tables.cache, tables.ids)
        row = {"event": "train", "step": step, **_optimizer_row(optimizer), **asdict(window)}
        shares = row.pop("filtered_share")
        row |= {f"filtered_share.{action}": share for action, share in shares.items()}
        row |= {f"stage_ms.{stage}": taken for stage, taken in row.pop("stage_ms").items()}
        del row["ngram_use"], row["teaching"], row["nonfinite"]
        for name, use in window.ngram_use.items():
            row |= {f"ngram.{name}.ids_per_event": use.ids / max(use.events, 1)}
            row |= {f"ngram.{name}.rows_per_event": use.rows_per_event, f"ngram.{name}.dedup": use.dedup_factor}
        for task, teaching in window.teaching.items():
            row |= {f"distill.{task}.{name}": value for name, value in asdict(teaching).items()}
        if cache is not None:
            fetched = cache.fetched_bytes / window.steps
            row |= {"cache_hit_rate": cache.hit_rate, "cache_fetched_bytes_per_step": fetched}
        for table, use in ids.items():
            row |= {f"ids.{table}.{name}": share for name, share in use.shares().items()}
        self._record(row)
        saved = 1 - window.bytes_per_step / max(window.plain_bytes_per_step, 1)
        status = (
            f"loss {window.loss:.4f}  {_count(window.candidates_per_s)} samples/s  {_count(window.events_per_s)} "
            f"events/s  {_count(window.bytes_per_step)}B/step to the device ({saved:.0%} less than as plain int64)"
        )
        if window.largest_events_per_step > window.events_per_step:
            uneven = window.largest_events_per_step / window.events_per_step
            status += f"  {_count(window.events_per_step)} events/step per rank, max/mean {uneven:.2f}"
        if shares:
            status += "  filtered: " + ", ".join(f"{action} {share:.1%}" for action, share in shares.items())
        if window.ngram_use:
            shared = (f"{name} {use.dedup_factor:.2f}" for name, use in window.ngram_use.items())
            status += f"  n-grams, ids/row: {', '.join(shared)}"
        for task, teaching in window.teaching.items():
            taught = teaching.both + teaching.feedback_only
            status += f"  {task}: {taught:.0%} with feedback, agreement {teaching.agreement:.3f}"
        if window.waiting_share >= SLOW_INPUT:
            status += f"  {window.waiting_share:.0%} of the time waiting for batches (data.workers)"
        if cache is not None:
            status += f"  cache hits {cache.hit_rate:.1%}, {_count(cache.fetched_bytes / window.steps)}B/step fetched"
        for table, use in ids.items():
            of = {name: share for name, share in use.shares().items() if share or name == "hit"}
            status += f"  ids of {table}: " + ", ".join(f"{name} {share:.1%}" for name, share in of.items())
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=step, total=total_steps, status=status)
        else:
            self.say(f"step {step}/{total_steps}  {status}")

    def feedback_audit(self, found: dict[str, LeakAudit]) -> None:
        """How well feedback alone tells each label that is taught."""
        if not self._is_main:
            return
        for task, audit in found.items():
            self._record({"event": "feedback_audit", "step": 0, "task": task, **asdict(audit)})
            self.say(audit.told(task))

    def evaluation(self, split: str, step: int, metrics: dict[str, TaskMetrics], *, window: str | None = None) -> None:
        """Metrics of a split, or of a window of this name, per task."""
        if not self._is_main:
            return
        for task, values in metrics.items():
            self._task(split, step, task, values, window)
            for stratum, of in values.strata.items():
                self._task(f"{split}/{stratum}", step, task, of, window)

    def _task(self, event: str, step: int, task: str, values: TaskMetrics, window: str | None) -> None:
        row = asdict(values)
        own = row.pop("own")
        del row["strata"]
        named_ = {} if window is None else {"window": window}
        self._record({"event": event, "step": step, "task": task, **named_, **row, **own})
        where = event if window is None else f"{event} {window}"
        self.say(
            f"{where} after step {step}, {task}: AUC {values.auc:.4f}  grouped AUC {values.grouped_auc:.4f}  "
            f"logloss {values.logloss:.4f}  NE {values.ne:.4f}  calibration {values.calibration:.3f}"
            + "".join(f"  {name} {value:.4f}" for name, value in own.items())
        )

    def _record(self, row: dict[str, Any]) -> None:
        assert self._file is not None and self._board is not None, "RunLog is used inside `with`"
        row = finite(row)
        with named(self.folder / "metrics.jsonl"):
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
        prefix = "/".join([row["event"], *([row["task"]] if "task" in row else [])])
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                self._board.add_scalar(f"{prefix}/{name}", value, row["step"])
        if self._hear is not None:
            self._hear(row)


def _optimizer_row(optimizer: HybridOptimizer) -> dict[str, Any]:
    """Learning rate, gradients and, where measured, whether a step of delay is harmless; reading them waits for the
    device."""
    norm, health = optimizer.grad_norm, optimizer.health
    row: dict[str, Any] = {"lr": optimizer.param_groups[0]["lr"], "grad_norm": None if norm is None else float(norm)}
    row["skipped_updates"] = optimizer.skipped
    if optimizer.all_reduce is not None:
        row["gradient_buffer_bytes"] = optimizer.all_reduce.nbytes
    if health is not None:
        row["gradient_cosine"] = float(health.gradient_cosine)
        row["relative_update"] = float(health.update_norm / health.weight_norm)
    return row


def finite(tree: Any) -> Any:
    """For JSON, which has no NaN, such as the AUC of one class: None in its place."""
    if isinstance(tree, dict):
        return {name: finite(value) for name, value in tree.items()}
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _is_before(line: str, step: int) -> bool:
    """Whether a line of the log is whole and of a step from 1 up to this one; a killed process may leave half a
    line."""
    try:
        return line.endswith("\n") and 0 < json.loads(line)["step"] <= step
    except ValueError:
        return False


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Gives an error of the file system the path, which writing to an open file does not know."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _count(value: float) -> str:
    """1234567 -> '1.2M'."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.1f}{letter}"
    return f"{value:.0f}"
