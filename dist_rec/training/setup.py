"""Everything that a run needs before its first step, made from the recipe or brought back from a checkpoint."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

from dist_rec.common.seed import random_state, restore_random_state, seed_everything
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.schema import Schema
from dist_rec.distill.check import check_copy
from dist_rec.distill.tasks import taught_tasks
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training.checkpoint import (
    BEST,
    Position,
    copy_checkpoint,
    load_checkpoint,
    load_position,
    save_checkpoint,
)
from dist_rec.training.evaluate import evaluate_split
from dist_rec.training.feedback_audit import audit_feedback, refuse_leaks
from dist_rec.training.made_with import MadeWith, PurgeRecord
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.pipeline import make_optimizer, plan_model, shard_model, teach_by_version
from dist_rec.training.ranks import Ranks
from dist_rec.training.run_log import RunLog
from dist_rec.training.selection import Selection
from dist_rec.training.splits import (
    dataset_schema,
    open_split,
    reader_workers,
    training_loader,
    training_steps,
)
from dist_rec.training.warm_up import compile_kernels
from dist_rec.training.windows import EVENT as WINDOW


@dataclass
class Run:
    """The parts of one run on this rank. `steps_per_epoch` and `total_steps` count batches, and
    `window_ends` those that are done when a window is, empty without windows; `purged`: the purges that
    the checkpoint it goes on from has gone through."""

    config: Config
    schema: Schema
    ranks: Ranks
    log: RunLog
    loader: StatefulDataLoader
    model: nn.Module
    optimizer: HybridOptimizer
    selection: Selection
    steps_per_epoch: int
    total_steps: int
    window_ends: list[int]
    purged: tuple[PurgeRecord, ...] = ()

    @property
    def steps_done(self) -> int:
        return self.optimizer.steps * self.config.optim.accumulation_steps

    @property
    def eval_every(self) -> int:
        return self.config.run.eval_every or self.steps_per_epoch

    @property
    def best_folder(self) -> Path:
        return self.log.checkpoints / BEST

    @property
    def taught(self) -> dict[str, int]:
        """Tasks with a teacher, and their place among all tasks."""
        labels = self.schema.candidate.labels
        named = [] if self.schema.candidate.feedback is None else taught_tasks(self.config, self.schema)
        return {task: labels.index(task) for task in named}

    def evaluate(self, split: str, folders: list[str], step: int) -> dict[str, TaskMetrics]:
        metrics = evaluate_split(self.model, self.config, self.schema, folders, self.ranks)
        self.log.evaluation(split, step, metrics)
        return metrics

    def judge_window(self, step: int) -> dict[str, TaskMetrics]:
        """Metrics of the window that comes after the one that ends at this step."""
        name = self.config.data.windows[self.window_ends.index(step) + 1]
        metrics = evaluate_split(self.model, self.config, self.schema, [name], self.ranks)
        self.log.evaluation(WINDOW, step, metrics, window=name)
        return metrics

    def save_all(self, step: int) -> None:
        """A checkpoint that a run can resume from, to the bit."""
        position = Position(
            data=self.loader.state_dict(),
            workers=reader_workers(self.config),
            random=random_state(),
            run=self.selection.state,
        )
        best = self.best_folder if self.best_folder.is_dir() else None
        folder = self.log.checkpoints / f"step-{step}"
        save_checkpoint(folder, self.model, self.optimizer, position, self.ranks, made=self._made_with(step), best=best)

    def save_weights(self, folder: Path, step: int) -> None:
        """A checkpoint of weights alone."""
        save_checkpoint(folder, self.model, None, None, self.ranks, made=self._made_with(step))

    def _made_with(self, step: int) -> MadeWith:
        return MadeWith.now(self.schema, self.config, self.ranks.world_size, step, self.purged)


def open_run(config: Config, ranks: Ranks, log: RunLog, resume: Path | None) -> Run:
    """Every rank calls it. Raises ConfigError, DataError."""
    seed_everything(config.run.seed, deterministic=config.run.deterministic)
    schema = dataset_schema(config)
    purged: tuple[PurgeRecord, ...] = ()
    if resume is not None:
        saved = MadeWith.read(resume)
        schema, purged = saved.schema_for(schema, config, resume, resumed=True), saved.purged
    reader = open_split(config, schema, ranks, config.data.train, train=True)
    total_steps, per_update = training_steps(config, reader), config.optim.accumulation_steps
    if schema.candidate.feedback is not None:
        found = audit_feedback(config, schema, ranks)
        log.feedback_audit(found)
        refuse_leaks(config, found)
    check_copy(config, total_steps // per_update)
    model, plan = plan_model(schema, config, ranks)
    compile_kernels(model.ranker, schema, config, ranks, log)
    dmp = shard_model(model, plan, config, ranks)
    health_every = max(config.run.log_every // per_update, 1)
    optimizer = make_optimizer(dmp, config.optim, total_steps // per_update, ranks, health_every)
    teach_by_version(model, optimizer)
    torch.manual_seed((config.run.seed * ranks.world_size + ranks.rank) % 2**63)  # dropout differs between ranks
    run = Run(
        config=config,
        schema=schema,
        ranks=ranks,
        log=log,
        loader=training_loader(config, reader, ranks),
        model=dmp,
        optimizer=optimizer,
        selection=Selection(config),
        steps_per_epoch=reader.steps_per_epoch(reader_workers(config)),
        total_steps=total_steps,
        window_ends=reader.plan(reader_workers(config)).ends if config.data.windows else [],
        purged=purged,
    )
    if resume is not None:
        _resume(run, resume)
    return run


def _resume(run: Run, checkpoint: Path) -> None:
    """Brings back weights, optimizer, position in the data, random numbers, and the validations with their best
    weights."""
    # The position first: a checkpoint without one also lacks the optimizer, and the message is about the position.
    position = load_position(checkpoint, run.ranks, reader_workers(run.config))
    load_checkpoint(checkpoint, run.model, run.optimizer, run.ranks)
    try:
        run.loader.load_state_dict(position.data)
        restore_random_state(position.random)
    except ConfigError:
        raise
    except Exception as error:  # a loader may raise anything for a state that was changed
        raise ConfigError(
            f"{checkpoint}: the position in the data is damaged: {type(error).__name__}: {error}"
        ) from error
    run.selection.state = position.run
    if run.ranks.is_main and (checkpoint / BEST).is_dir():
        copy_checkpoint(checkpoint / BEST, run.best_folder)
    run.ranks.barrier()
    if run.steps_done >= run.total_steps:
        raise ConfigError(
            f"{checkpoint}: saved after step {run.steps_done} of {run.total_steps}; there is nothing left to train"
        )
    if run.selection.is_exhausted:
        raise ConfigError(
            f"{checkpoint}: saved when the run had ended after step {run.steps_done}, since "
            f"run.patience={run.config.run.patience} validations had brought nothing better; expected an earlier "
            "checkpoint, or a larger run.patience"
        )
