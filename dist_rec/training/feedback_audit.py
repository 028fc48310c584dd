"""The check of a run that has a teacher, before its first step: `dist_rec.distill.audit` on its training split."""

from pathlib import Path

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.filter.event_filter import make_filter
from dist_rec.data.reader import RequestReader
from dist_rec.data.schema import Schema
from dist_rec.distill.audit import LeakAudit, feedback_leak_audit, leaks_told
from dist_rec.distill.check import check_later
from dist_rec.distill.tasks import taught_tasks
from dist_rec.registry import READERS
from dist_rec.training.ranks import Ranks
from dist_rec.training.splits import dataset_schema, declared_schema, distills, training_targets
from dist_rec.training.together import from_first

BATCH = 128  # requests


def audit_feedback(config: Config, schema: Schema, ranks: Ranks) -> dict[str, LeakAudit]:
    """By task that is taught; rank 0 measures it. Comm: one gather on the host. Raises DataError."""
    return from_first(lambda: _measured(config, schema), ranks.host_group)


def refuse_leaks(config: Config, found: dict[str, LeakAudit]) -> None:
    """Raises ConfigError if feedback alone tells a label that `distill.allow_leak` does not name."""
    if told := _leaks_told(config, found):
        raise ConfigError(told)


def audit_recipe(config: Config) -> tuple[list[str], str]:
    """`dist-rec distill audit`: a line for each task, and why a run would stop, or nothing. The recipe of one
    run, without `data.folds`. Raises ConfigError, DataError."""
    if not distills(config):
        raise ConfigError("distill: the recipe has no teacher; give it one, such as with --set distill.weight=1")
    schema = dataset_schema(config)
    check_later(config, schema)
    found = _measured(config, schema)
    return [audit.told(task) for task, audit in found.items()], _leaks_told(config, found)


def _leaks_told(config: Config, found: dict[str, LeakAudit]) -> str:
    return leaks_told(found, [] if config.distill is None else config.distill.allow_leak)


def _measured(config: Config, schema: Schema) -> dict[str, LeakAudit]:
    return feedback_leak_audit(_reader(config, schema), taught_tasks(config, schema))


def _reader(config: Config, schema: Schema) -> RequestReader:
    """Of the whole training split, filtered and labelled as in training, without most of what is not feedback. Row
    groups come in random order, one at a time, whatever the number of ranks."""
    return RequestReader(
        folders=[Path(config.data.path) / folder for folder in config.data.train],
        schema=schema.model_copy(update={"attributes": {}}),
        batch_size=BATCH,
        shuffle_window=1,
        one_by_one=bool(config.data.windows),
        seed=config.run.seed,
        max_length=None if schema.candidate.visible_events else 1,
        dedup=False,
        rows=READERS.make(config.data.reader),
        hash_ngrams=False,
        event_filter=make_filter(config.data.filter, declared_schema(config), training=True),
        targets=training_targets(config, schema),
    )
