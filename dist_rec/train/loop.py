"""The training loop: the page to read first. One step, as the data sees it:

1. A reader worker turns rows of Parquet into a `SequenceBatch`,  data/reader.py, data/collate.py
2. makes its tokens unique and packs it into one buffer.          data/dedup.py, data/packed_batch.py
3. The buffer is copied to the device and opened there.           data/wire.py
4. Unique ids go to the owners of their rows, rows come back.     embedding/unique.py, TorchRec
5. Events are rebuilt from unique rows                            models/tokens.py
6. and LONGER scores the candidates.                              models/longer.py
7. In the backward, sparse gradients are applied at once.         FBGEMM, inside the backward
8. The dense gradient starts its all-reduce; the last one lands.  optim/hybrid.py
9. Metrics, log, checkpoint.                                      below

`TrainPipelineSparseDist` runs 3 to 8 with three batches in flight.
"""

import math
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

from dist_rec.common.errors import RunError
from dist_rec.common.seed import random_state, restore_random_state, seed_everything
from dist_rec.config import Config, ConfigError
from dist_rec.data.files import check_splits
from dist_rec.data.reader import RequestReader, make_loader
from dist_rec.data.schema import Schema, load_schema
from dist_rec.embedding.cache import CacheMeter
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.train.checkpoint import (
    BEST,
    Position,
    RunState,
    copy_checkpoint,
    load_checkpoint,
    load_position,
    save_checkpoint,
)
from dist_rec.train.evaluate import evaluate
from dist_rec.train.made_with import MadeWith
from dist_rec.train.metrics import TaskMetrics
from dist_rec.train.pipeline import CountedBatches, make_optimizer, make_pipeline, plan_model, run_through, shard_model
from dist_rec.train.ranks import Ranks
from dist_rec.train.report import RunLog
from dist_rec.train.trace import StepTrace
from dist_rec.train.window import Window


@dataclass(frozen=True)
class RunResult:
    """How a run ended: metrics per task on the test split (empty without one), steps done, wall time in seconds."""

    test: dict[str, TaskMetrics]
    valid: dict[str, TaskMetrics]
    steps: int
    seconds: float


def train(config: Config, ranks: Ranks, log: RunLog, resume: Path | None = None) -> RunResult:
    """Trains by the recipe on all ranks and tests at the end. Every rank calls it and gets the same result."""
    check_selection(config)
    seed_everything(config.run.seed, deterministic=config.run.deterministic)
    schema = load_schema(config.data.path, config.data.leave_out)
    check_splits(config.data.path, schema, [*config.data.train, *config.data.valid, *config.data.test])
    if resume is not None:
        schema = MadeWith.read(resume).schema_for(schema, config, resume, resumed=True)
    loader, total_steps = train_loader(config, schema, ranks)
    model, plan = plan_model(schema, config, ranks)
    dmp = shard_model(model, plan, config, ranks)
    per_update = config.optim.accumulation_steps
    optimizer = make_optimizer(dmp, config.optim, total_steps // per_update, ranks, max(config.run.log_every // per_update, 1))
    torch.manual_seed((config.run.seed * ranks.world_size + ranks.rank) % 2**63)  # dropout differs between ranks
    run = _Run(config, schema, ranks, log, dmp)
    if resume is not None:
        # The position first: a checkpoint without one also lacks the optimizer, and this says so.
        position = load_position(resume, ranks, config.data.workers)
        load_checkpoint(resume, dmp, optimizer, ranks)
        try:
            loader.load_state_dict(position.data)
            restore_random_state(position.random)
        except ConfigError:
            raise
        except Exception as error:  # whatever a loader makes of a state that was changed
            raise ConfigError(f"{resume}: the position in the data is damaged: {type(error).__name__}: {error}") from error
        run.go_on(position.run, resume)
        if optimizer.steps * per_update >= total_steps:
            raise ConfigError(
                f"{resume}: saved after step {optimizer.steps * per_update} of {total_steps}; there is nothing left to train"
            )

    batches = CountedBatches(loader, ranks)
    pipeline = make_pipeline(dmp, optimizer, config.embedding, ranks.device)
    cache = CacheMeter(dmp)
    window, step, enough = Window(ranks), optimizer.steps * per_update, False
    synchronous = config.optim.warmup_sync_steps * per_update if config.optim.dense_update == "delayed" else 0
    trace = StepTrace(log.folder, config.run.trace_steps, ranks, skipped=max(synchronous - step, 0))
    while step < total_steps and not enough:
        # Between two stops the pipeline is full; at a stop it is empty, so that evaluating and saving see whole steps.
        stop = int(min(_next(step, run.eval_every), _next(step, config.checkpoint.every_steps), total_steps))
        for loss, _ in run_through(pipeline, islice(batches, stop - step)):
            step += 1
            window.add(loss, batches.trained())
            trace.step()
            if step % config.run.log_every == 0 or step == total_steps:
                log.training(
                    step,
                    total_steps,
                    window.close(),
                    optimizer=optimizer,
                    cache=cache.since_last(),
                )
        pipeline.detach()
        if _due(step, run.eval_every) or step == total_steps:
            optimizer.flush()
            enough = run.validate(step)
        # After the flush: a run that goes on from here must find what this one goes on with.
        if _due(step, config.checkpoint.every_steps):
            position = Position(data=loader.state_dict(), workers=config.data.workers, random=random_state(), run=run.state())
            run.save(log.checkpoints / f"step-{step}", step, optimizer, position)
        window.restart()
    optimizer.flush()
    for line in trace.close():
        log.say(line)
    if config.checkpoint.at_end:
        run.save(log.checkpoints / "last", step)
    return run.finish(step)


def train_loader(config: Config, schema: Schema, ranks: Ranks) -> tuple[StatefulDataLoader, int]:
    """The training batches of this rank, all epochs in a row, and the number of steps of the run: whole dense updates."""
    reader = make_reader(config, schema, ranks, config.data.train, train=True)
    steps = reader.steps_per_epoch(config.data.workers) * config.run.epochs
    steps = min(steps, config.run.max_steps or steps)
    whole = steps - steps % config.optim.accumulation_steps
    if whole == 0:
        raise ConfigError(f"optim.accumulation_steps={config.optim.accumulation_steps}: the run has only {steps} batches")
    return make_loader(reader, config.data.workers), whole


def make_reader(config: Config, schema: Schema, ranks: Ranks, folders: list[str], *, train: bool) -> RequestReader:
    """This rank's part of a split: shuffled and repeated for training, in file order otherwise."""
    return RequestReader(
        folders=[Path(config.data.path) / folder for folder in folders],
        schema=schema,
        batch_size=config.data.batch_size if train else config.data.eval_batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        epochs=config.run.epochs if train else 1,
        shuffle_window=config.data.shuffle_window if train else 0,
        seed=config.run.seed,
        max_length=config.data.max_length,
        dedup=config.data.dedup,
    )


def check_selection(config: Config) -> None:
    """Raises ConfigError if the recipe chooses weights by a validation split that it does not have, or would save while
    gradients are being accumulated."""
    every, per_update = config.checkpoint.every_steps, config.optim.accumulation_steps
    if every % per_update:
        raise ConfigError(f"checkpoint.every_steps={every} must be a multiple of optim.accumulation_steps={per_update}")
    if config.run.select_best != "none" and not config.data.valid:
        raise ConfigError(f"run.select_best={config.run.select_best} needs data.valid, got none")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _next(step: int, every: int) -> float:
    return (step // every + 1) * every if every else math.inf


class _Run:
    """Validation, the best weights so far, and the final test."""

    def __init__(self, config: Config, schema: Schema, ranks: Ranks, log: RunLog, model: nn.Module) -> None:
        self.config, self.schema, self.ranks, self.log, self.model = config, schema, ranks, log, model
        train = make_reader(config, schema, ranks, config.data.train, train=True)
        self.eval_every = config.run.eval_every or train.steps_per_epoch(config.data.workers)
        self.best, self.since_best = -math.inf, 0
        self.best_folder = log.checkpoints / BEST
        self.valid: dict[str, TaskMetrics] = {}
        self.started = time.perf_counter()

    def state(self) -> RunState:
        """What a run that goes on must know of the validations so far."""
        return RunState(best=self.best, since_best=self.since_best, valid=self.valid)

    def go_on(self, state: RunState, resume: Path) -> None:
        """As the run that saved `state` in the checkpoint `resume`, with its best weights."""
        self.best, self.since_best, self.valid = state.best, state.since_best, dict(state.valid)
        if self.ranks.is_main and (resume / BEST).is_dir():
            copy_checkpoint(resume / BEST, self.best_folder)
        self.ranks.barrier()

    def save(
        self,
        folder: Path,
        step: int,
        optimizer: HybridOptimizer | None = None,
        position: Position | None = None,
    ) -> None:
        """Without `optimizer` and `position` weights alone."""
        made = MadeWith.now(self.schema, self.config, self.ranks.world_size, step)
        best = self.best_folder if position is not None and self.best_folder.is_dir() else None
        save_checkpoint(folder, self.model, optimizer, position, self.ranks, made=made, best=best)

    def validate(self, step: int) -> bool:
        """Evaluates on the validation split, keeps the best weights; True if patience has run out or the weights are lost.

        Raises RunError if the weights diverged before there were any better ones to test.
        """
        if not self.config.data.valid:
            return False
        metrics = self._evaluate("valid", self.config.data.valid, step)
        if lost := [task for task, of in metrics.items() if of.diverged]:
            return self._give_up(lost[0], step)
        selector = self.config.run.select_best
        if selector == "none":
            self.valid = metrics
            return False
        first = next(iter(metrics.values()))
        score = first.auc if selector == "auc" else -first.logloss
        self.since_best += 1
        if score > self.best or not self.valid:  # the first is kept even if it is NaN, as with labels of one class
            self.best = self.best if math.isnan(score) else score
            self.since_best, self.valid = 0, metrics
            self.save(self.best_folder, step)
        return 0 < self.config.run.patience <= self.since_best

    def _give_up(self, task: str, step: int) -> bool:
        said = (
            f"the weights have diverged: after step {step} scores of {task} on the validation split are not finite (NaN); "
            f"expected smaller learning rates than embedding.lr={self.config.embedding.lr:g} and "
            f"optim.lr={self.config.optim.lr:g}, or a smaller optim.clip_norm"
        )
        if not self.valid or self.config.run.select_best == "none":
            raise RunError(said)
        self.log.say(f"{said}. Training stops; the best weights before are tested.")
        return True

    def finish(self, step: int) -> RunResult:
        """Tests the chosen weights."""
        if self.config.run.select_best != "none":
            load_checkpoint(self.best_folder, self.model, None, self.ranks)
        test = self._evaluate("test", self.config.data.test, step) if self.config.data.test else {}
        if lost := [task for task, of in test.items() if of.diverged]:
            self.log.say(f"the weights have diverged: scores of {', '.join(lost)} on the test split are not finite (NaN)")
        return RunResult(test, self.valid, step, time.perf_counter() - self.started)

    def _evaluate(self, split: str, folders: list[str], step: int) -> dict[str, TaskMetrics]:
        reader = make_reader(self.config, self.schema, self.ranks, folders, train=False)
        loader = make_loader(reader, min(self.config.data.workers, 1))
        metrics = evaluate(self.model, loader, self.schema.candidate.labels, self.ranks)
        self.log.evaluation(split, step, metrics)
        return metrics
