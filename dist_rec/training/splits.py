"""The batches of a split for this rank."""

import os
from dataclasses import replace
from pathlib import Path

import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.attribute_store import open_attributes
from dist_rec.data.filter.event_filter import make_filter, needs_hidden
from dist_rec.data.position import DataPosition
from dist_rec.data.reader import RequestReader, make_loader
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema
from dist_rec.data.shared_memory import event_bytes, warn_of_little_room
from dist_rec.data.targets import Targets
from dist_rec.distill.tasks import taught_tasks
from dist_rec.registry import READERS
from dist_rec.training.ranks import Ranks

MOST_WORKERS = 8


def with_reader_workers(config: Config, ranks: Ranks) -> Config:
    """The recipe with a number of reader processes, if it has none. A GPU takes batches faster than one process makes
    them; without one the ranks need the cores themselves."""
    if config.data.workers is not None:
        return config
    cores = len(os.sched_getaffinity(0)) // _ranks_here(ranks)
    workers = 1 if ranks.device.type == "cpu" else min(max(cores - 1, 1), MOST_WORKERS)
    return config.model_copy(update={"data": config.data.model_copy(update={"workers": workers})})


def _ranks_here(ranks: Ranks) -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world_size))  # set by torchrun


def reader_workers(config: Config) -> int:
    """Of a recipe that `with_reader_workers` completed; of any other 1."""
    return 1 if config.data.workers is None else config.data.workers


def declared_schema(config: Config) -> Schema:
    """The schema of the recipe's dataset with all that it declares, for what is asked of its names. Raises
    ConfigError."""
    data = config.data
    changes = {"ngram": data.ngram, "numbers": data.numbers, "ids": config.embedding.ids}
    schema = load_schema(data.path, data.leave_out, **changes)
    if needs_hidden(data.filter, schema):
        schema = load_schema(data.path, data.leave_out, hidden=True, **changes)
    return schema


def dataset_schema(config: Config) -> Schema:
    """The schema of the recipe's dataset, as the run uses it: with feedback if a teacher reads it. Raises
    ConfigError."""
    schema = declared_schema(config)
    return schema if distills(config) else schema.with_feedback(None)


def hashes_on_device(config: Config, schema: Schema, device: torch.device) -> bool:
    """Whether ids of n-grams are made on the device. Tables in host memory need ids before the batch is there."""
    if config.data.hash_ngrams != "auto":
        return config.data.hash_ngrams == "device"
    kernels = [kernel for name in schema.ngram_tables for kernel in config.embedding.kernels_of(name)]
    return device.type == "cuda" and not any(kernel.startswith("fused_uvm") for kernel in kernels)


def open_split(
    config: Config,
    schema: Schema,
    ranks: Ranks,
    folders: list[str],
    *,
    train: bool,
    position: DataPosition | None = None,
) -> RequestReader:
    """This rank's part of a split: shuffled and repeated for training, from a `position` on if there is one; in file
    order otherwise. Only training reads feedback, and only its labels are those of a moment. The filter is made for
    what the recipe knows of the data."""
    if position is not None:
        position = position.with_batches(config.data.batch_size, config.data.batch_events)
    return RequestReader(
        folders=[Path(config.data.path) / folder for folder in folders],
        schema=schema if train else schema.as_served(),
        batch_size=config.data.batch_size if train else config.data.eval_batch_size,
        batch_events=config.data.batch_events if train else None,
        rank=ranks.rank,
        world_size=ranks.world_size,
        epochs=config.run.epochs if train else 1,
        shuffle_window=config.data.shuffle_window if train else 0,
        share_histories=train and config.data.share_histories,
        one_by_one=train and bool(config.data.windows),
        seed=config.run.seed,
        max_length=config.data.max_length,
        dedup=config.data.dedup,
        rows=READERS.make(config.data.reader),
        hash_ngrams=not hashes_on_device(config, schema, ranks.device),
        event_filter=make_filter(config.data.filter, declared_schema(config), training=train),
        attributes=open_attributes(config.data.path, schema),
        targets=training_targets(config, schema) if train else Targets(now=config.data.written_at),
        skip_unreadable=train and config.data.unreadable == "skip",
        position=position,
    )


def distills(config: Config) -> bool:
    """Whether a teacher is part of the run."""
    return config.distill is not None and config.distill.is_on


def training_targets(config: Config, schema: Schema) -> Targets | list[Targets]:
    """What training knows of labels; or what it knows in each window, if these have moments of their own."""
    data, distill = config.data, config.distill
    known = Targets(
        now=data.written_at,
        corrected=config.model.head.immature != "leave_out",
        taught={} if distill is None else {t: distill.weight * w for t, w in taught_tasks(config, schema).items()},
        distilled="all" if distill is None else distill.rows,
    )
    if isinstance(data.observed_at, list):
        return [replace(known, now=moment) for moment in data.observed_at]
    return known if data.observed_at is None else replace(known, now=data.observed_at)


def training_loader(config: Config, reader: RequestReader, ranks: Ranks) -> StatefulDataLoader:
    """The training batches of this rank, all epochs one after the other. Rank 0 says if shared memory is too small."""
    workers, events = reader_workers(config), reader.events_per_batch
    if ranks.is_main and workers and events is not None:
        warn_of_little_room(events * event_bytes(reader.schema), workers=workers, ranks_here=_ranks_here(ranks))
    return make_loader(reader, workers)


def evaluation_loader(config: Config, schema: Schema, ranks: Ranks, folders: list[str]) -> StatefulDataLoader:
    """The batches of a validation or test split, read by one worker at most."""
    return make_loader(open_split(config, schema, ranks, folders, train=False), min(reader_workers(config), 1))


def training_steps(config: Config, reader: RequestReader) -> int:
    """Steps of the run: whole dense updates. Raises ConfigError if there is not one."""
    steps = reader.plan(reader_workers(config)).total
    steps = min(steps, config.run.max_steps or steps)
    whole = steps - steps % config.optim.accumulation_steps
    if whole == 0:
        raise ConfigError(
            f"optim.accumulation_steps={config.optim.accumulation_steps}: the run has only {steps} batches"
        )
    return whole
