"""The batches of a split for this rank."""

from pathlib import Path

from torchdata.stateful_dataloader import StatefulDataLoader

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.reader import RequestReader, make_loader
from dist_rec.data.schema import Schema
from dist_rec.registry import READERS
from dist_rec.training.ranks import Ranks


def open_split(config: Config, schema: Schema, ranks: Ranks, folders: list[str], *, train: bool) -> RequestReader:
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
        rows=READERS.make(config.data.reader),
    )


def training_loader(config: Config, reader: RequestReader) -> StatefulDataLoader:
    """The training batches of this rank, all epochs one after the other."""
    return make_loader(reader, config.data.workers)


def evaluation_loader(config: Config, schema: Schema, ranks: Ranks, folders: list[str]) -> StatefulDataLoader:
    """The batches of a validation or test split, read by one worker at most."""
    return make_loader(open_split(config, schema, ranks, folders, train=False), min(config.data.workers, 1))


def training_steps(config: Config, reader: RequestReader) -> int:
    """Steps of the run: whole dense updates. Raises ConfigError if there is not one."""
    steps = reader.steps_per_epoch(config.data.workers) * config.run.epochs
    steps = min(steps, config.run.max_steps or steps)
    whole = steps - steps % config.optim.accumulation_steps
    if whole == 0:
        raise ConfigError(
            f"optim.accumulation_steps={config.optim.accumulation_steps}: the run has only {steps} batches"
        )
    return whole
