"""A new run that starts from the weights of a checkpoint: `init` of a recipe, `--init-from`.

Weights alone: no optimizer state, position or random state. A table that has grown keeps the rows of its ids; its new
rows, and whatever is left out, are those that a run without a checkpoint starts with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.schema import Schema
from dist_rec.models.build import RankingModel, build_model
from dist_rec.run_config import InitConfig
from dist_rec.training.checkpoint import OF_TEACHER, explained, first_failure
from dist_rec.training.freeze import check_freeze
from dist_rec.training.made_with import MadeWith, StartedFrom
from dist_rec.training.manifest import Manifest, check_sizes, check_sums
from dist_rec.training.ranks import Ranks
from dist_rec.training.safe_load import SafeReader, TensorsOnly, read_index
from dist_rec.training.table_rows import Rows, as_before, moved, take
from dist_rec.training.warm_schema import warm_schema
from dist_rec.training.weight_names import TABLES, Entry, Matched, match, name_of

_TOLD = 20  # names in a line of the log


@dataclass(frozen=True)
class WarmStart:
    """- `saved`: what the checkpoint was made with
    - `schema` to build the model with
    - `matched` weights, and `rows` of every table among them by its name now
    """

    checkpoint: Path
    saved: MadeWith
    schema: Schema
    matched: Matched
    rows: dict[str, list[Rows]]

    @classmethod
    def find(cls, init: InitConfig, config: Config, schema: Schema) -> "WarmStart":
        """Raises ConfigError with everything that does not fit."""
        checkpoint = Path(init.checkpoint)
        saved, index = MadeWith.read(checkpoint), read_index(checkpoint)
        schema = warm_schema(saved, schema, config, init)
        entries = [
            Entry(key.removeprefix("model."), tuple(of.size))
            for key, of in index.state_dict_metadata.items()
            if key.startswith("model.") and not key.startswith(OF_TEACHER) and isinstance(of, TensorStorageMetadata)
        ]
        before = {name_of(entry.key): entry for entry in entries}
        now = shapes_of(unloaded_model(schema, config))
        matched = match(init, before, now)
        tables_before = {entry.key: name.removeprefix(TABLES) for name, entry in before.items()}
        problems, rows = [*matched.problems], {}
        for name, entry in matched.taken.items():
            if name.startswith(TABLES):
                old, new = tables_before[entry.key], name.removeprefix(TABLES)
                try:
                    rows[name] = _rows(saved.schema_, old, entry.shape, (schema, new, now[name]))
                except ValueError as error:
                    problems.append(f"{name}: {error}")
            elif entry.shape != now[name]:
                problems.append(f"{name}: expected shape {now[name]}, got {entry.shape} in the checkpoint")
        problems += [f"{name}: expected shape {now[name]}, got nothing of that name" for name in matched.missing]
        if problems:
            raise ConfigError(
                f"{checkpoint}: not all weights of the new run can be taken from it; expected all, or init.leave_out "
                "with names that start fresh, or init.rename with names of the checkpoint that have changed:"
                + "".join(f"\n  {problem}" for problem in problems)
            )
        return cls(checkpoint, saved, schema, matched, rows)

    @property
    def origin(self) -> StartedFrom:
        """Raises ConfigError if the checkpoint has no manifest."""
        return StartedFrom(
            checkpoint=str(self.checkpoint), step=self.saved.step, sha256=Manifest.read(self.checkpoint).sha256
        )

    def told(self) -> list[str]:
        """Lines for the log."""
        tables = [name.removeprefix(TABLES) for name, of in self.rows.items() if len(of) > 1 or self._grew(name)]
        grown = f"; tables with new rows: {', '.join(tables)}" if tables else ""
        lines = [
            f"starts from {len(self.matched.taken)} weights of {self.checkpoint}, after step {self.saved.step}{grown}"
        ]
        for names, what in (
            (self.matched.fresh, "weights start fresh"),
            (self.matched.unused, "weights of the checkpoint are not used"),
        ):
            if names:
                more = ", ..." if len(names) > _TOLD else ""
                lines.append(f"{len(names)} {what}: {', '.join(names[:_TOLD])}{more}")
        return lines

    def _grew(self, name: str) -> bool:
        table = name.removeprefix(TABLES)
        return self.schema.rows_of(table) != self.matched.taken[name].shape[0]

    @torch.no_grad()
    def load(self, dmp: nn.Module, model: RankingModel, ranks: Ranks) -> None:
        """Into a model, sharded as `dmp`, in place, whatever number of ranks saved the checkpoint; every rank calls it.

        Raises ConfigError if the checkpoint is damaged."""
        state, wanted, whole = dmp.state_dict(), {}, []
        for key, weight in state.items():
            name = name_of(key)
            if name not in self.matched.taken:
                continue
            entry, rows = self.matched.taken[name], self.rows.get(name, [])
            value: Any = weight
            if rows and (len(rows) > 1 or self._grew(name)):
                if isinstance(weight, ShardedTensor):
                    value = as_before(weight, entry.shape, rows)
                else:
                    value = torch.empty(entry.shape, dtype=weight.dtype, device=weight.device)
                    whole.append((weight, value, rows))
            wanted[f"model.{entry.key}"] = value
        reader = SafeReader(self.checkpoint)
        try:
            dcp.load(wanted, storage_reader=reader, planner=TensorsOnly(), process_group=ranks.host_group)
        except (dcp.api.CheckpointException, RuntimeError, ValueError, OSError) as error:
            raise explained(self.checkpoint, first_failure(error)) from error
        for weight, value, rows in whole:
            take(weight, value, rows)
        dmp.load_state_dict(state)
        _start_teacher(model)


def warm_start(config: Config, schema: Schema, ranks: Ranks) -> WarmStart | None:
    """What a new run starts from, its files looked at; None if its recipe says nothing. Every rank calls it.

    Raises ConfigError."""
    if config.init is None:
        return None
    if config.checkpoint.verify:
        check_sums(Path(config.init.checkpoint), ranks.host_group)
    return WarmStart.find(config.init, config, schema)


def check_init(config: Config, schema: Schema, *, resumed: bool) -> None:
    """Raises ConfigError with everything that can be known to be wrong with `init` before ranks start; of a run that is
    `resumed`, what is frozen alone."""
    if config.init is None:
        return
    if not resumed:
        check_sizes(Path(config.init.checkpoint))
        schema = WarmStart.find(config.init, config, schema).schema
    check_freeze(config.init.freeze, unloaded_model(schema, config), schema)


def unloaded_model(schema: Schema, config: Config) -> RankingModel:
    """The unsharded model without memory for its weights, and without a change of the random state."""
    meta = torch.device("meta")
    with torch.random.fork_rng(devices=[]):
        try:
            with meta:
                return build_model(schema, config, meta)
        except (NotImplementedError, RuntimeError):  # a model of one's own that looks at values
            return build_model(schema, config, torch.device("cpu"))


def shapes_of(model: RankingModel) -> dict[str, tuple[int, ...]]:
    """Of every weight by its name, without a teacher's copy, which begins as the weights that it is a copy of."""
    state = model.state_dict()
    return {name_of(key): tuple(of.shape) for key, of in state.items() if not f"model.{key}".startswith(OF_TEACHER)}


def _rows(before: Schema, old: str, shape: tuple[int, ...], now: tuple[Schema, str, tuple[int, ...]]) -> list[Rows]:
    """Raises ValueError as `moved`, and for another width."""
    schema, new, wanted = now
    if shape[1] != wanted[1]:
        raise ValueError(f"expected rows of width {wanted[1]}, got {shape[1]} in the checkpoint")
    return moved(before, old, schema, new)


def _start_teacher(model: RankingModel) -> None:
    """A teacher's copy is one of the weights that a run starts with."""
    teacher = model.objective.teacher
    if teacher is not None and teacher.copy is not None:
        teacher.copy.load_state_dict(model.ranker.state_dict())
