"""The door: everything that can be known to be wrong before ranks start, in one list."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.attribute_store import open_attributes
from dist_rec.data.columns import columns_of
from dist_rec.data.errors import DataError
from dist_rec.data.filter.event_filter import make_filter
from dist_rec.data.reader import RequestReader, check_max_length
from dist_rec.data.row_reader import check_splits
from dist_rec.data.schema import Schema
from dist_rec.distill.check import check_later
from dist_rec.embedding.optimizers import fused_optimizer
from dist_rec.embedding.tables import check_tables, table_dims
from dist_rec.models.check import check_model
from dist_rec.registry import LISTENERS, LOSSES, METRICS, READERS
from dist_rec.training.checkpoint import check_resumable, load_position
from dist_rec.training.kept import newest_first
from dist_rec.training.made_with import MadeWith
from dist_rec.training.optimizers import dense_factory
from dist_rec.training.ranks import device_type
from dist_rec.training.report import baselines
from dist_rec.training.result import RunResult
from dist_rec.training.selection import check_selection
from dist_rec.training.splits import dataset_schema, declared_schema, training_steps
from dist_rec.training.start import Resume, check_drift
from dist_rec.training.study import check_study, members
from dist_rec.training.warm_start import check_init


def check_run(config: Config, resume: Resume = None, allow: Sequence[str] = ()) -> None:
    """Raises ConfigError with everything that is wrong with a recipe, its data and the checkpoint to resume from,
    settings that differ from its run, too, unless a pattern of `allow` names them; DataError if a single file of the
    data is all that is wrong. Starts nothing and writes nothing."""
    problems = list(_found(lambda: check_study(config, resume)))
    going_on = [(resume, members(config)[0].config)] if isinstance(resume, Path) else []
    if resume == "auto":
        going_on = list(_going_on(config))
    checkpoint = going_on[0][0] if going_on else None
    problems += _problems(config, checkpoint, None)
    for path, of in going_on if not problems else []:
        problems += _found(lambda path=path, of=of: check_drift(path, of, allow))
    _tell(problems)


def check_elsewhere(config: Config, device: str, *, with_data: bool) -> None:
    """As `check_run` for a new run on another machine, whose ranks have devices of the kind `device`, `cuda` or `cpu`;
    without data where none is there yet. Raises as `check_run`."""
    _tell([*_found(lambda: check_study(config, None)), *_problems(config, None, device, with_data=with_data)])


def _tell(problems: Sequence[ConfigError | DataError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ConfigError(f"{len(problems)} problems:\n" + "\n".join(f"- {problem}" for problem in problems))


def _going_on(config: Config) -> Iterator[tuple[Path, Config]]:
    """The newest checkpoint of every run of a recipe that has not ended, and its own recipe."""
    folder = Path(config.run.out) / config.run.name
    for member in members(config):
        found = newest_first(folder / member.folder / "checkpoints")
        if found and RunResult.read(folder / member.folder) is None:
            yield found[0], member.config


def _problems(
    config: Config, resume: Path | None, elsewhere: str | None, *, with_data: bool = True
) -> Iterator[ConfigError | DataError]:
    """`elsewhere`: the kind of device of another machine; None: of this one."""
    if elsewhere is None:
        yield from _found(lambda: device_type(config.parallel))
    yield from _found(lambda: LOSSES.make(config.model.head.loss))
    yield from _found(lambda: dense_factory(config.optim))
    for metric in config.run.metrics:
        yield from _found(lambda metric=metric: METRICS.make(metric))
    for listener in config.run.listeners:
        yield from _found(lambda listener=listener: LISTENERS.make(listener))
    yield from _found(lambda: fused_optimizer(config.embedding, elsewhere or device_type(config.parallel)))
    yield from _found(lambda: check_selection(members(config)[0].config))
    if resume is not None:
        yield from _found(lambda: check_resumable(resume))
    try:
        schema = dataset_schema(config)
    except (ConfigError, DataError) as error:
        yield error
        yield from _found(config.model.resolved_options)  # of a model of one's own
        return
    yield from _problems_with_schema(config, schema, resume)
    if resume is not None:
        yield from _found(lambda: MadeWith.read(resume).schema_for(schema, config, resume, resumed=True))
    if with_data:
        yield from _problems_with_data(config, schema, resume)


def _problems_with_schema(config: Config, schema: Schema, resume: Path | None) -> Iterator[ConfigError | DataError]:
    yield from _found(lambda: columns_of(schema))
    yield from _found(lambda: check_later(config, schema))
    model_is_wrong = [
        *_found(lambda: check_tables(schema, config.embedding)),
        *_found(lambda: check_model(schema, config.model, table_dims(schema, config.embedding))),
    ]
    yield from model_is_wrong
    if not model_is_wrong:
        yield from _found(lambda: check_init(config, schema, resumed=resume is not None))
    yield from _found(lambda: check_max_length(schema, config.data.max_length))
    yield from _found(lambda: make_filter(config.data.filter, declared_schema(config), training=True))


def _problems_with_data(config: Config, schema: Schema, resume: Path | None) -> Iterator[ConfigError | DataError]:
    yield from _found(lambda: baselines(config))
    data_is_wrong = list(_found(lambda: _check_data(config, schema)))
    yield from data_is_wrong
    yield from _found(lambda: _check_attributes(config, schema))
    if not data_is_wrong:
        yield from _found(lambda: _check_steps(config, schema, resume))


def _check_data(config: Config, schema: Schema) -> None:
    data = members(config)[0].config.data
    check_splits(
        config.data.path,
        schema,
        [*data.train, *data.valid, *data.windows, *data.test],
        READERS.make(config.data.reader),
    )


def _check_attributes(config: Config, schema: Schema) -> None:
    if (attributes := open_attributes(config.data.path, schema)) is not None:
        attributes.check()


def _check_steps(config: Config, schema: Schema, resume: Path | None) -> None:
    """On one rank, which has the most batches; more ranks may still have too few."""
    member = members(config)[0].config
    position = None if resume is None else load_position(resume).data
    if position is not None:
        position = position.with_batches(member.data.batch_size, member.data.batch_events)
    reader = RequestReader(
        folders=[Path(member.data.path) / folder for folder in member.data.train],
        schema=schema.model_copy(update={"attributes": {}}),
        batch_size=member.data.batch_size,
        batch_events=member.data.batch_events,
        epochs=member.run.epochs,
        shuffle_window=member.data.shuffle_window,
        seed=member.run.seed,
        max_length=member.data.max_length,
        share_histories=member.data.share_histories,
        one_by_one=bool(member.data.windows),
        rows=READERS.make(member.data.reader),
        position=position,
    )
    training_steps(member, reader)


def _found(check: Callable[[], object]) -> Iterator[ConfigError | DataError]:
    """What a check raises."""
    try:
        check()
    except (ConfigError, DataError) as error:
        yield error
