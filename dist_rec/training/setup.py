"""Everything that a run needs before its first step, made from the recipe or brought back from a checkpoint."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

from dist_rec.common.seed import random_state, restore_random_state, seed_everything
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.plan import Steps
from dist_rec.data.reader import RequestReader
from dist_rec.data.schema import Schema
from dist_rec.distill.check import check_copy
from dist_rec.distill.tasks import taught_tasks
from dist_rec.embedding.id_use import maps_told
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training.checkpoint import (
    BEST,
    Content,
    Position,
    copy_checkpoint,
    load_checkpoint,
    load_position,
    load_random,
    save_checkpoint,
    state_to_save,
)
from dist_rec.training.evaluate import evaluate_split
from dist_rec.training.feedback_audit import audit_feedback, refuse_leaks
from dist_rec.training.interrupt import Asked
from dist_rec.training.made_with import MadeWith, PurgeRecord, StartedFrom
from dist_rec.training.manifest import check_sums
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.nonfinite import note_nonfinite
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
from dist_rec.training.together import from_first
from dist_rec.training.warm_start import warm_start
from dist_rec.training.warm_up import compile_kernels
from dist_rec.training.windows import EVENT as WINDOW
from dist_rec.training.writer import CheckpointWriter


@dataclass
class Run:
    """The parts of one run on this rank.

    - `total_steps` counts batches, and `window_ends` those that are done when a window is, empty without windows
    - `purged`: the purges that the checkpoint it goes on or starts from has gone through
    - `started_from`: the checkpoint whose weights it started with
    - `requests` that were trained on, by this rank since the run began or went on
    - `saved`: the step of the last checkpoint to go on from
    - `asked`: whether this rank was asked to end
    """

    config: Config
    schema: Schema
    ranks: Ranks
    log: RunLog
    loader: StatefulDataLoader
    model: nn.Module
    optimizer: HybridOptimizer
    selection: Selection
    reader: RequestReader
    writer: CheckpointWriter
    total_steps: int
    window_ends: list[int]
    purged: tuple[PurgeRecord, ...] = ()
    started_from: StartedFrom | None = None
    requests: int = 0
    saved: int = 0
    asked: Asked = field(default_factory=Asked)

    @property
    def steps_done(self) -> int:
        return self.optimizer.steps * self.config.optim.accumulation_steps

    def next_validation(self, step: int) -> int:
        """The step after which the model is validated next."""
        every = self.config.run.eval_every
        return self.plan.epoch_end(step) if not every else (step // every + 1) * every

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

    def note_nonfinite(self, steps: list[int]) -> None:
        """Says where losses came from that are not finite. Raises RunError if the recipe wants to stop then."""
        stop = self.config.run.nonfinite_loss == "stop"
        workers = reader_workers(self.config)
        self.log.say(note_nonfinite(steps, self.reader, workers, self.log.folder, self.ranks, stop=stop))

    def judge_window(self, step: int) -> dict[str, TaskMetrics]:
        """Metrics of the window that comes after the one that ends at this step."""
        name = self.config.data.windows[self.window_ends.index(step) + 1]
        metrics = evaluate_split(self.model, self.config, self.schema, [name], self.ranks)
        self.log.evaluation(WINDOW, step, metrics, window=name)
        return metrics

    @property
    def plan(self) -> Steps:
        """The steps of the data."""
        return self.reader.plan(reader_workers(self.config))

    def save_all(self, step: int) -> None:
        """A checkpoint that a run can resume from, to the bit. It may still be written when this returns."""
        (requests,) = self.ranks.total(self.requests)
        self.requests = int(requests) if self.ranks.is_main else 0  # the sum lies on rank 0 from now on
        folder = self.log.checkpoints / f"step-{step}"
        content = Content(
            state_to_save(self.model, self.optimizer),
            position=Position(
                data=self.reader.position_at(step, reader_workers(self.config)),
                requests=int(requests),
                run=self.selection.state,
            ),
            random=random_state(),
            made=self._made_with(step),
            best=self.best_folder if self.best_folder.is_dir() else None,
        )
        self.writer.write(folder, content)
        self.saved = step

    def save_at_once(self, step: int) -> Path | None:
        """The same, written when this returns; None before the first step."""
        if step == 0:
            return None
        folder = self.log.checkpoints / f"step-{step}"
        if step != self.saved:
            self.save_all(step)
            self.writer.wait()
        return folder

    def save_weights(self, folder: Path, step: int) -> None:
        """A checkpoint of weights alone."""
        save_checkpoint(folder, self.model, None, self.ranks, made=self._made_with(step))

    def _made_with(self, step: int) -> MadeWith:
        return MadeWith.now(self.schema, self.config, self.ranks.world_size, step, self.purged, self.started_from)


def open_run(config: Config, ranks: Ranks, log: RunLog, resume: Path | None) -> Run:
    """Every rank calls it. Raises ConfigError, DataError."""
    seed_everything(config.run.seed, deterministic=config.run.deterministic)
    schema = dataset_schema(config)
    purged: tuple[PurgeRecord, ...] = ()
    started_from: StartedFrom | None = None
    position: Position | None = None
    warm = warm_start(config, schema, ranks) if resume is None else None
    if resume is not None:
        if config.checkpoint.verify:
            check_sums(resume, ranks.host_group)
        saved, position = MadeWith.read(resume), load_position(resume)
        schema, purged = saved.schema_for(schema, config, resume, resumed=True), saved.purged
        started_from = saved.started_from
    elif warm is not None:
        schema, purged, started_from = warm.schema, warm.saved.purged, warm.origin
    where = None if position is None else position.data
    reader = open_split(config, schema, ranks, config.data.train, train=True, position=where)
    total_steps, per_update = training_steps(config, reader), config.optim.accumulation_steps
    if schema.candidate.feedback is not None:
        found = audit_feedback(config, schema, ranks)
        log.feedback_audit(found)
        refuse_leaks(config, found)
    check_copy(config, total_steps // per_update)
    model, plan = plan_model(schema, config, ranks)
    compile_kernels(model.ranker, schema, config, ranks, log)
    dmp = shard_model(model, plan, config, ranks)
    for line in maps_told(dmp):
        log.say(line)
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
        reader=reader,
        writer=CheckpointWriter(ranks, config.checkpoint),
        total_steps=total_steps,
        window_ends=reader.plan(reader_workers(config)).ends if config.data.windows else [],
        purged=purged,
        started_from=started_from,
    )
    if resume is not None and position is not None:
        _resume(run, resume, position)
    elif warm is not None:
        warm.load(dmp, model, ranks)
        for line in warm.told():
            log.say(line)
    return run


def _resume(run: Run, checkpoint: Path, position: Position) -> None:
    """Brings back weights, optimizer, random numbers, and the validations with their best weights."""
    ranks = run.ranks
    load_checkpoint(checkpoint, run.model, run.optimizer, ranks)
    if (random := load_random(checkpoint, ranks)) is not None:
        _restore(random, checkpoint)
    else:  # other ranks have no numbers of their own to go on with
        torch.manual_seed(hash((run.config.run.seed, position.data.step, ranks.world_size, ranks.rank)) % 2**63)
    run.selection.state, run.saved = position.run, run.steps_done
    run.requests = position.requests if ranks.is_main else 0
    from_first(lambda: _bring_back_best(checkpoint, run.best_folder), ranks.host_group)
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


def _bring_back_best(checkpoint: Path, best: Path) -> None:
    # In the folder of a killed run lie those of a later validation, which comes again.
    shutil.rmtree(best, ignore_errors=True)
    if (checkpoint / BEST).is_dir():
        copy_checkpoint(checkpoint / BEST, best)


def _restore(random: dict[str, list[int]], checkpoint: Path) -> None:
    try:
        restore_random_state(random)
    except Exception as error:  # torch raises anything for a state that was changed
        raise ConfigError(f"{checkpoint}: the random state is damaged: {type(error).__name__}: {error}") from error
