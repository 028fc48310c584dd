"""A trained model back from its checkpoint, to evaluate it."""

from pathlib import Path

from dist_rec.common.seed import seed_everything
from dist_rec.config import Config, ConfigError
from dist_rec.data.files import check_splits
from dist_rec.data.reader import make_loader
from dist_rec.data.schema import load_schema
from dist_rec.train.checkpoint import load_checkpoint
from dist_rec.train.evaluate import evaluate
from dist_rec.train.loop import make_reader
from dist_rec.train.made_with import MadeWith
from dist_rec.train.page import against_baselines, metrics_table
from dist_rec.train.pipeline import plan_model, shard_model
from dist_rec.train.ranks import Ranks


def evaluate_checkpoint(config: Config, checkpoint: Path, split: str, ranks: Ranks) -> list[str]:
    """Lines of a report on one split; every rank calls it. The number of ranks may differ from training.

    Raises ConfigError for an unknown or empty split and for a checkpoint that does not fit the recipe.
    """
    splits = {"train": config.data.train, "valid": config.data.valid, "test": config.data.test}
    if config.data.folds:
        raise ConfigError("data.folds: name the splits of one fold, for example --set data.folds=[] --set data.test=[fold1]")
    if not splits.get(split):
        raise ConfigError(f"--split {split}: expected one of {', '.join(name for name, folders in splits.items() if folders)}")
    seed_everything(config.run.seed, deterministic=config.run.deterministic)
    schema = load_schema(config.data.path, config.data.leave_out)
    schema = MadeWith.read(checkpoint).schema_for(schema, config, checkpoint)
    check_splits(config.data.path, schema, splits[split])
    model, plan = plan_model(schema, config, ranks)
    dmp = shard_model(model, plan, config, ranks)
    load_checkpoint(checkpoint, dmp, None, ranks)
    reader = make_reader(config, schema, ranks, splits[split], train=False)
    metrics = evaluate(dmp, make_loader(reader, min(config.data.workers, 1)), schema.candidate.labels, ranks)
    lines = [f"{split} of {config.data.path}, {checkpoint}", *metrics_table(metrics)]
    return lines + (against_baselines(config, metrics) if split == "test" else [])  # the baselines are those of the test split
