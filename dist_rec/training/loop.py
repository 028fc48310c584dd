"""The training loop: the page to read first. One step, as the data sees it:

1. A reader worker turns rows of Parquet into one buffer: tokens      data/reader.py, data/collate.py
2. made unique, indices in few bits (`HostBatch`).                data/unique_tokens.py, data/host_batch.py
3. The buffer is copied and opened there (`SequenceBatch`).       data/transfer_buffer.py, data/batch.py
4. Unique ids go to the owners of their rows, rows come back.     embedding/unique.py, TorchRec
5. Events are rebuilt from unique rows                            models/tokens.py
6. and the model scores the candidates: logits, then the loss.    models/longer/model.py, models/layers/loss.py
7. In the backward, sparse gradients are applied at once.         FBGEMM, inside the backward
8. The dense all-reduce starts; the last step's is applied.       optim/hybrid.py
9. Metrics, log, checkpoint.                                      below

`TrainPipelineSparseDist` runs 3 to 8 with three batches in flight.
"""

import math
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

from dist_rec.common.errors import RunError
from dist_rec.config import Config
from dist_rec.embedding.cache import CacheMeter
from dist_rec.embedding.id_use import IdMeter
from dist_rec.training.checkpoint import LAST, load_checkpoint
from dist_rec.training.interrupt import Asked, Interrupted
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.pipeline import CountedBatches, make_pipeline, run_through
from dist_rec.training.ranks import Ranks
from dist_rec.training.result import RunResult
from dist_rec.training.run_log import RunLog, Tables
from dist_rec.training.setup import Run, open_run
from dist_rec.training.stage_clock import StageClock
from dist_rec.training.throughput import Throughput
from dist_rec.training.trace import StepTrace
from dist_rec.training.warm_up import telling_of_late_builds
from dist_rec.training.watchdog import PROGRESS, watching


def train_one(
    config: Config, ranks: Ranks, log: RunLog, resume: Path | None = None, asked: Asked | None = None
) -> RunResult:
    """Trains by the recipe on all ranks and tests at the end. Every rank calls it and gets the same result.

    Raises Interrupted, after a checkpoint, if some rank was `asked` to end."""
    started = time.perf_counter()
    run = open_run(config, ranks, log, resume)
    run.asked = asked or run.asked
    with watching(log.folder, ranks, config.parallel.hang_timeout_s):
        with telling_of_late_builds(ranks.device), closing(run.writer):
            step = _train(run)
        run.optimizer.flush()
        if config.checkpoint.at_end:
            PROGRESS.at("saving", step)
            run.save_weights(log.checkpoints / LAST, step)
        test = _test_chosen(run, step)
    return RunResult(test, run.selection.state.valid, step, time.perf_counter() - started)


def _train(run: Run) -> int:
    """All steps, with validations and checkpoints between them; the number of the last step."""
    config, optimizer, total_steps = run.config, run.optimizer, run.total_steps
    batches = CountedBatches(run.loader, run.ranks, config.optim.accumulation_steps, run.asked)
    pipeline = make_pipeline(run.model, optimizer, config.embedding, run.ranks.device)
    cache, throughput = CacheMeter(run.model), Throughput(run.ranks, run.taught, StageClock(run.model, optimizer))
    ids = IdMeter(run.model, run.ranks.total)
    step, enough = run.steps_done, False
    trace = StepTrace(run.log.folder, config.run.trace_steps, run.ranks, skipped=_synchronous_steps(config, step))
    while step < total_steps and not enough and not batches.ended:
        # Between two stops the pipeline is full; at a stop it is empty, so that evaluating and saving see whole steps.
        window = min((end for end in run.window_ends if end > step), default=total_steps)
        stop = int(min(run.next_validation(step), _next(step, config.checkpoint.every_steps), window, total_steps))
        judged = stop == run.next_validation(step) or stop == total_steps
        for loss, _, signals in run_through(pipeline, islice(batches, stop - step)):
            step += 1
            PROGRESS.at("training", step)
            size = batches.trained()
            run.requests += size.requests
            throughput.add(loss, size, signals)
            trace.step()
            if step % config.run.log_every == 0 or step == total_steps:
                window, tables = throughput.close(), Tables(cache.since_last(), ids.since_last())
                run.log.training(step, total_steps, window, optimizer=optimizer, tables=tables)
                if not math.isfinite(window.loss):  # on all ranks alike
                    run.note_nonfinite([step - window.steps + 1 + at for at in window.nonfinite])
        if judged and step == stop:
            optimizer.flush()
            enough = _validate(run, step)
        if step in run.window_ends:
            optimizer.flush()
            _judge_window(run, step)
        # After the flush, so that resuming sees the same state as continuing.
        if _due(step, config.checkpoint.every_steps):
            PROGRESS.at("saving", step)
            run.save_all(step)
        throughput.restart()
    PROGRESS.at("waiting for the checkpoint that is being written", step)
    run.writer.wait()
    if batches.ended and step < total_steps and not enough:
        ending = Interrupted(step, run.save_at_once(step))
        run.log.say(str(ending))  # at once: torchrun ends all ranks when the first one is gone
        raise ending
    for line in trace.close():
        run.log.say(line)
    return step


def _validate(run: Run, step: int) -> bool:
    """Evaluates on the validation split and keeps the best weights; True if the run should end.

    Raises RunError if the weights diverged before there were any better ones to test.
    """
    if not run.config.data.valid:
        return False
    metrics = run.evaluate("valid", run.config.data.valid, step)
    if lost := [task for task, of in metrics.items() if of.diverged]:
        return _give_up(run, lost[0], step)
    if run.selection.is_better(metrics):
        run.save_weights(run.best_folder, step)
    return run.selection.is_exhausted


def _judge_window(run: Run, step: int) -> None:
    """Raises RunError if the weights have diverged."""
    for task, of in run.judge_window(step).items():
        if of.diverged:
            raise RunError(_diverged(run, task, step, "next window"))


def _give_up(run: Run, task: str, step: int) -> bool:
    said = _diverged(run, task, step, "validation split")
    if not run.selection.has_best:
        raise RunError(said)
    run.log.say(f"{said}. Training stops; the best weights before are tested.")
    return True


def _diverged(run: Run, task: str, step: int, where: str) -> str:
    return (
        f"the weights have diverged: after step {step} scores of {task} on the {where} are not finite (NaN); expected "
        f"smaller learning rates than embedding.lr={run.config.embedding.lr:g} and optim.lr={run.config.optim.lr:g}, "
        "or a smaller optim.clip_norm"
    )


def _test_chosen(run: Run, step: int) -> dict[str, TaskMetrics]:
    """Metrics of the chosen weights on the test split, empty without one."""
    if run.selection.keeps_best:
        load_checkpoint(run.best_folder, run.model, None, run.ranks)
    test = run.evaluate("test", run.config.data.test, step) if run.config.data.test else {}
    if lost := [task for task, of in test.items() if of.diverged]:
        run.log.say(f"the weights have diverged: scores of {', '.join(lost)} on the test split are not finite (NaN)")
    return test


def _synchronous_steps(config: Config, step: int) -> int:
    """Steps of the synchronous start that are still to come."""
    delayed = config.optim.dense_update == "delayed"
    return max(config.optim.warmup_sync_steps * config.optim.accumulation_steps - step, 0) if delayed else 0


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _next(step: int, every: int) -> float:
    return (step // every + 1) * every if every else math.inf
