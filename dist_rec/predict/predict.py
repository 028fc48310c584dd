"""`dist-rec predict`: probabilities of the candidates of requests in files, on every rank, into Parquet files.

It goes on where an earlier one was ended; what is there is only taken if it was made from the same."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dist_rec.common.seed import seed_everything
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.errors import reading
from dist_rec.data.reader import RequestReader
from dist_rec.data.schema import Schema
from dist_rec.predict.columns import More, prediction_table
from dist_rec.predict.folder import PartWriter, check_out, complete, finished, locked, writing
from dist_rec.predict.job import Job, Part, Prediction, options_of
from dist_rec.predict.parts import Parts, Schedule
from dist_rec.predict.scorer import Scorer
from dist_rec.predict.source import files_read, of_folder, sums_of
from dist_rec.predict.stream import RequestStream, stream_loader
from dist_rec.training.evaluate import served_schema
from dist_rec.training.manifest import Manifest, check_sums
from dist_rec.training.ranks import Ranks
from dist_rec.training.splits import open_split, reader_workers
from dist_rec.training.together import from_all

SAY_EVERY_S = 30.0  # without a terminal

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """- `data`: folder of the requests; `out`: folder of the prediction, new or begun
    - `more` columns than probabilities
    - `part_requests`: about so many requests in a file; None: 65,536, or fewer if that makes fewer than 32 files
    """

    data: Path
    out: Path
    more: More = field(default_factory=More)
    part_requests: int | None = None


def predict_files(
    config: Config, checkpoint: Path, wanted: Wanted, ranks: Ranks, console: Console | None = None
) -> list[str]:
    """Predicts, or goes on with it; every rank calls it. Lines of what was done, the same on every rank.

    Returns at once if the prediction is there whole.

    Raises:
        ConfigError: the checkpoint is none, is damaged, or does not fit the recipe and the requests; or the folder has
            a prediction from something else.
        DataError: the requests cannot be read, or there are none; the folder has something else.
        OSError: the folder cannot be written. What is there already can be gone on with.
    """
    if wanted.part_requests is not None and wanted.part_requests < 1:
        raise ConfigError(f"--part-requests: expected at least 1, got {wanted.part_requests}")
    if config.data.folds:
        raise ConfigError("data.folds: a prediction is of one model; expected a recipe without, --set data.folds=[]")
    config, split = of_folder(config, wanted.data)
    check_out(wanted.out, wanted.data)
    seed_everything(config.run.seed, deterministic=config.run.deterministic)
    schema = served_schema(config, checkpoint).without_labels()
    Manifest.read(checkpoint)
    reader = open_split(config, schema, ranks, [split], train=False)
    if config.checkpoint.verify:
        check_sums(checkpoint, ranks.host_group)
    parts = Parts.of(reader.num_rows, config.data.eval_batch_size, wanted.part_requests)
    with reading(wanted.data):
        data = sums_of(list(files_read(config, reader)), wanted.data, ranks.host_group)
    options = options_of(wanted.more, parts, schema)
    job = Job.of(config, checkpoint, data, options, ranks.device.type)
    with locked(wanted.out, ranks.host_group):
        # Again, now that no other job writes: one may have begun or ended here while the sums were taken.
        before = check_out(wanted.out, wanted.data)
        if before is not None:
            before.check_same(job, wanted.out)
        there = finished(wanted.out, job, len(parts), ranks.host_group)
        missing = [number for number in range(len(parts)) if number not in there]
        if not missing and before is not None and before.is_complete:
            if ranks.is_main:
                complete(wanted.out, job, there.values())
            return [f"{wanted.out}: finished before; {_told(before)}; nothing to do"]
        from_all(lambda: _begin(wanted.out, job) if ranks.is_main and before is None else None, ranks.host_group)
        began = time.perf_counter()
        work = _Work(config, schema, checkpoint, reader, wanted, job)
        made = work.do(parts, missing, ranks, console or Console())
        whole = Prediction.of(job, tuple(part for _, part in sorted((there | made).items())))
        ranks.barrier()
        if ranks.is_main:
            complete(wanted.out, job, whole.parts)
    seconds = time.perf_counter() - began
    requests = sum(part.requests for part in made.values())
    lines = [f"{wanted.out}: {_told(whole)}, SHA-256 of the job {whole.sha256}"]
    if there:
        lines.append(f"{len(there)} of {len(parts)} parts were there from before")
    lines.append(f"{requests:,} requests in {seconds:.1f} s, {requests / max(seconds, 1e-9):,.0f} requests/s")
    if whole.nonfinite:
        lines.append(f"{whole.nonfinite:,} candidates have a probability that is not finite")
    return lines


def _begin(out: Path, job: Job) -> None:
    with writing(out):
        Prediction.of(job).write(out)


def _told(of: Prediction) -> str:
    return f"{of.requests:,} requests, {of.candidates:,} candidates, {len(of.parts)} files"


@dataclass(frozen=True)
class _Work:
    config: Config
    schema: Schema
    checkpoint: Path
    reader: RequestReader
    wanted: Wanted
    job: Job

    def do(self, parts: Parts, missing: list[int], ranks: Ranks, console: Console) -> dict[int, Part]:
        """The missing parts, by number: those of all ranks. Comm: one all-gather of their records."""
        schedule = Schedule.of(parts, missing, ranks.world_size)
        turns, more = schedule.of_rank(ranks.rank), self.wanted.more
        stream = RequestStream(self.reader, turns)
        batches = iter(stream_loader(stream, min(reader_workers(self.config), 1)))
        scorer = Scorer(self.schema, self.config, self.checkpoint, ranks)
        writer = PartWriter(self.wanted.out, self.job, self.schema.candidate.labels)
        total = sum(parts.rows(part).count for part in missing)
        with contextlib.closing(writer), _progress(total, console, is_main=ranks.is_main) as so_far:
            for turn, done in zip(turns, schedule.done(), strict=True):
                asked = next(batches)
                scores = scorer(asked.batch, embeddings=more.embeddings)
                if turn is not None:
                    table = prediction_table(asked.keys, turn.rows.first, scores, self.schema, more)
                    writer.add(turn.part, parts.rows(turn.part).first, table, is_last=turn.is_last)
                so_far(done)
        found: list[dict[int, Part]] = [{} for _ in range(ranks.world_size)]
        dist.all_gather_object(found, writer.done, group=ranks.host_group)
        return {number: part for made in found for number, part in made.items()}


@contextlib.contextmanager
def _progress(total: int, console: Console, *, is_main: bool) -> Iterator[Callable[[int], None]]:
    """Takes the requests done so far: a bar on a terminal, a line now and then elsewhere."""
    if not is_main:
        yield lambda done: None
    elif console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("predict", total=total)
            yield lambda done: bar.update(task, completed=done)
    else:
        began = said = time.monotonic()

        def so_far(done: int) -> None:
            nonlocal said
            if (now := time.monotonic()) - said >= SAY_EVERY_S:
                said = now
                _log.info("%s of %s requests, %s requests/s", f"{done:,}", f"{total:,}", f"{done / (now - began):,.0f}")

        yield so_far
