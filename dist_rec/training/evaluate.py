"""Evaluation of a sharded model on one split: the model of a run, or one brought back from its checkpoint."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torchdata.stateful_dataloader import StatefulDataLoader
from torchrec.distributed.model_parallel import DistributedModelParallel

from dist_rec.common.seed import seed_everything
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.row_reader import check_splits
from dist_rec.data.schema import Schema
from dist_rec.embedding.cache import unlock_cached_rows
from dist_rec.models.build import RankingModel
from dist_rec.registry import METRICS, READERS, Part
from dist_rec.training.checkpoint import load_checkpoint
from dist_rec.training.made_with import MadeWith
from dist_rec.training.metrics import Metric, TaskMetrics, gather_rows, task_metrics
from dist_rec.training.pipeline import plan_model, shard_model
from dist_rec.training.ranks import Ranks
from dist_rec.training.report import against_baselines, metrics_table
from dist_rec.training.splits import dataset_schema, evaluation_loader
from dist_rec.training.watchdog import PROGRESS


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: StatefulDataLoader, labels: list[str], ranks: Ranks, metrics: Sequence[Metric] = ()
) -> dict[str, TaskMetrics]:
    """Metrics per task over the candidates of all ranks, the same on every rank. Leaves the model in training mode.

    Ranks without data take part with empty batches, which the reader makes. Comm: the model's all-to-alls, then one
    gather of every candidate's logits, labels and grouping key.
    """
    model.eval()
    rows, groups, has_oracle, is_filtered = [], [], False, False
    for batch in loader:
        PROGRESS.at("evaluating")
        batch = batch.to(ranks.device, non_blocking=True)
        _, (_, logits, _) = model(batch)
        oracle = batch.oracle if batch.oracle is not None else batch.labels
        chosen = batch.chosen if batch.chosen is not None else logits.new_zeros(len(logits), dtype=torch.bool)
        rows.append(torch.cat([logits, batch.labels, oracle, chosen[:, None]], dim=1).cpu())
        groups.append(batch.grouping_key[batch.candidates.lengths.request].cpu())
        has_oracle, is_filtered = batch.oracle is not None, batch.chosen is not None
    unlock_cached_rows(model)
    model.train()
    every = gather_rows(torch.cat(rows), ranks.host_group)
    group = gather_rows(torch.cat(groups), ranks.host_group)
    logits, observed, oracle = every[:, :-1].chunk(3, dim=1)
    chosen = every[:, -1].bool()

    def of(task: int, some: Tensor | slice) -> TaskMetrics:
        truth = oracle[some, task] if has_oracle else None
        return task_metrics(logits[some, task], observed[some, task], group[some], truth, metrics)

    strata = {"forget": chosen, "retain": ~chosen} if is_filtered else {}
    strata = {name: some for name, some in strata.items() if some.any()}
    return {
        name: replace(of(task, slice(None)), strata={stratum: of(task, some) for stratum, some in strata.items()})
        for task, name in enumerate(labels)
    }


def evaluate_split(
    model: nn.Module, config: Config, schema: Schema, folders: list[str], ranks: Ranks
) -> dict[str, TaskMetrics]:
    """`evaluate` on some folders of the recipe's dataset, with the metrics of the recipe."""
    metrics = [METRICS.make(part) for part in config.run.metrics]
    loader = evaluation_loader(config, schema, ranks, folders)
    return evaluate(model, loader, schema.candidate.labels, ranks, metrics)


def served_schema(config: Config, checkpoint: Path) -> Schema:
    """The schema of the recipe's dataset as a server knows it, in the order of the checkpoint. Raises ConfigError if
    they do not fit each other."""
    return MadeWith.read(checkpoint).schema_for(dataset_schema(config).with_feedback(None), config, checkpoint)


def served_model(
    schema: Schema, config: Config, checkpoint: Path, ranks: Ranks
) -> tuple[RankingModel, DistributedModelParallel]:
    """The model with the weights of a checkpoint, to be called and not trained, and the same sharded, which is what is
    called. Its tables have no state of an optimizer; every rank calls it.

    Raises ConfigError if the checkpoint is damaged or belongs to another model."""
    still = {"optimizer": Part(name="sgd"), "weight_decay": 0.0}  # FBGEMM's tables want one; this has no state
    config = config.model_copy(update={"embedding": config.embedding.model_copy(update=still)})
    model, plan = plan_model(schema, config, ranks)
    dmp = shard_model(model, plan, config, ranks)
    load_checkpoint(checkpoint, dmp, None, ranks)
    return model, dmp


def evaluate_checkpoint(config: Config, checkpoint: Path, split: str, ranks: Ranks) -> list[str]:
    """Lines of a report on one split; every rank calls it. The number of ranks may differ from training.

    Raises ConfigError for an unknown or empty split and for a checkpoint that does not fit the recipe.
    """
    splits = {"train": config.data.train, "valid": config.data.valid, "test": config.data.test}
    if config.data.folds:
        raise ConfigError(
            "data.folds: name the splits of one fold, for example --set data.folds=[] --set data.test=[fold1]"
        )
    if not splits.get(split):
        raise ConfigError(
            f"--split {split}: expected one of {', '.join(name for name, folders in splits.items() if folders)}"
        )
    seed_everything(config.run.seed, deterministic=config.run.deterministic)
    schema = served_schema(config, checkpoint)
    check_splits(config.data.path, schema, splits[split], READERS.make(config.data.reader))
    _, dmp = served_model(schema, config, checkpoint, ranks)
    metrics = evaluate_split(dmp, config, schema, splits[split], ranks)
    lines = [f"{split} of {config.data.path}, {checkpoint}", *metrics_table(metrics)]
    return lines + (
        against_baselines(config, metrics) if split == "test" else []
    )  # the baselines are those of the test split
