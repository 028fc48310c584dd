"""Checkpoints: one folder of torch.distributed.checkpoint files, readable by any number of ranks.

Holds the tables (sharded) with the ids of dynamic ones, the dense parameters, the state of both optimizers with the
gradient in flight, what all of it was made with (made_with.py), and per rank the position in the data and in the random
numbers, as JSON; where a run chooses its best weights, also those so far, as a checkpoint in a folder `best`. Written
under a temporary name and renamed, so a folder that exists is complete. Nothing in one is ever run (safe_load.py)."""

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from pydantic import BaseModel, ValidationError, field_validator
from torch import nn

from dist_rec.common.made import mark, replace
from dist_rec.common.strict import ConfigError
from dist_rec.embedding.dynamic_state import load_steps, state_of
from dist_rec.embedding.dynamic_tables import dynamic_tables
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training.made_with import MadeWith
from dist_rec.training.ranks import Ranks
from dist_rec.training.safe_load import SafeReader, TensorsOnly, read_index
from dist_rec.training.selection import SelectionState

KIND = "checkpoint"
BEST = "best"
IDS = "dynamic_ids"
OF_TEACHER = "model.objective.teacher."


class Position(BaseModel):
    """Where one rank is: in the data (its loader's state), with how many reader `workers`, in random numbers and in the
    run."""

    data: dict[str, Any]
    workers: int
    random: dict[str, list[int]]
    run: SelectionState

    @field_validator("data")
    @classmethod
    def _says_where(cls, data: dict[str, Any]) -> dict[str, Any]:
        # A loader takes a state that says nothing, and begins again.
        if not _mentions(data, "emitted"):
            raise ValueError("it does not say how many batches were read")
        return data


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: HybridOptimizer | None,
    position: Position | None,
    ranks: Ranks,
    *,
    made: MadeWith | None = None,
    best: Path | None = None,
) -> None:
    """Saves from all ranks; a checkpoint that is there is replaced. Without `optimizer` only the model is saved.

    `best`: a checkpoint to keep inside, under `best`. If saving fails on any rank, on a full disk for example, nothing
    of it is left.

    Raises:
        NotOurs: if the folder is there and no unchanged checkpoint.
        OSError: naming the folder, if it cannot be written.
    """
    with _written(folder, ranks) as temporary:
        state: dict[str, Any] = {"model": model.state_dict()}
        if optimizer is not None:
            state["optimizer"] = optimizer.state_dict()
        if (tables := dynamic_tables(model.modules())) is not None:
            state[IDS] = state_of(tables, training=optimizer is not None)
        dcp.save(state, checkpoint_id=temporary, process_group=ranks.host_group)
        if position is not None:
            _position_file(temporary, ranks).write_text(json.dumps(position.model_dump()))
        if ranks.is_main and made is not None:
            made.write(temporary)
        if ranks.is_main and best is not None:
            copy_checkpoint(best, temporary / BEST)


@contextmanager
def _written(folder: Path, ranks: Ranks) -> Iterator[Path]:
    """A folder that all ranks write into, which becomes `folder` when all have done so and is removed when one has not.

    Comm: one broadcast and two barriers."""
    chosen: list[Any] = [None]
    if ranks.is_main:
        folder.parent.mkdir(parents=True, exist_ok=True)
        chosen = [tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)]
        os.chmod(chosen[0], 0o755)
    dist.broadcast_object_list(chosen, src=0, group=ranks.host_group)
    temporary = Path(chosen[0])
    try:
        yield temporary
        ranks.barrier()
        if ranks.is_main:
            mark(temporary, KIND)
            replace(folder, temporary, KIND)
        ranks.barrier()
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if (cause := first_failure(error)) is error:
            raise
        # Torch's writer of archives says of a full disk that its position is not what it should be.
        if isinstance(cause, OSError) or "inline_container" in str(cause):
            code = getattr(cause, "errno", None) or errno.ENOSPC
            raise OSError(code, f"the checkpoint could not be written: {os.strerror(code)}", str(folder)) from error
        raise cause from error


def copy_checkpoint(source: Path, target: Path) -> None:
    """The same files under another name, without a copy of their bytes where the file system can."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    shutil.copytree(source, target, copy_function=link, ignore=shutil.ignore_patterns(BEST))
    mark(target, KIND)


def load_checkpoint(folder: Path, model: nn.Module, optimizer: HybridOptimizer | None, ranks: Ranks) -> None:
    """Loads in place, whatever number of ranks saved it. Without `optimizer` a model may lack a teacher's copy
    of its weights.

    Raises ConfigError if the folder is not a checkpoint, is damaged, or belongs to another model.
    """
    index = read_index(folder)
    state: dict[str, Any] = {"model": model.state_dict()}
    if optimizer is not None:
        _check_has_optimizer(folder, index.state_dict_metadata)
        state["optimizer"] = optimizer.state_dict()
    if (tables := dynamic_tables(model.modules())) is not None:
        state[IDS] = state_of(tables, training=optimizer is not None)
    wanted = {f"model.{name}" for name in state["model"]}
    # DCP ignores entries that are not wanted: a smaller model would load a part of a larger one.
    extra = sorted(name for name in index.state_dict_metadata if name.startswith("model.") and name not in wanted)
    if optimizer is None:
        extra = [name for name in extra if not name.startswith(OF_TEACHER)]
    if extra:
        raise ConfigError(
            f"{folder}: does not fit this model; was it made by another recipe? It also holds {', '.join(extra)}"
        )
    try:
        dcp.load(state, storage_reader=SafeReader(folder), planner=TensorsOnly(), process_group=ranks.host_group)
    except (dcp.api.CheckpointException, RuntimeError, ValueError, OSError) as error:
        raise _explained(folder, first_failure(error)) from error
    model.load_state_dict(state["model"])
    if tables is not None:
        load_steps(tables, state[IDS])
    if optimizer is not None:
        try:
            optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise ConfigError(
                f"{folder}: does not fit this optimizer; was it made by another recipe? {error}"
            ) from error


def check_resumable(folder: Path) -> None:
    """Raises ConfigError unless the folder is a whole checkpoint that some rank can resume from."""
    index = read_index(folder)
    _check_has_optimizer(folder, index.state_dict_metadata)
    if not any(folder.glob("position-*-of-*.json")):
        raise ConfigError(
            f"{folder}: holds no position in the data; resuming needs a checkpoint made by checkpoint.every_steps"
        )


def _check_has_optimizer(folder: Path, names: Iterable[str]) -> None:
    if not any(name.startswith("optimizer.") for name in names):
        raise ConfigError(f"{folder}: holds weights only; resuming needs a checkpoint made by checkpoint.every_steps")


def first_failure(error: BaseException) -> BaseException:
    """The error of the first rank in a failure of DCP; any other error as it is."""
    if not isinstance(error, dcp.api.CheckpointException) or not error.failures:
        return error
    cause = error.failures[min(error.failures)][0]
    return cause if isinstance(cause, Exception) else error


def load_position(folder: Path, ranks: Ranks, workers: int) -> Position:
    """This rank's position. Raises ConfigError if the checkpoint has none for this rank, it is damaged or of another
    number of reader workers, or the best weights that it speaks of are not there whole."""
    path = _position_file(folder, ranks)
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file; resuming needs a checkpoint made by `checkpoint.every_steps` with the same number "
            f"of ranks ({ranks.world_size} now)"
        )
    try:
        position = Position.model_validate(json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else f"{error}"
        raise ConfigError(
            f"{path}: damaged or incomplete: expected a position in the data as JSON, got: {told}"
        ) from None
    if position.workers != workers:
        raise ConfigError(
            f"{folder}: cannot resume the data stream: it was saved with data.workers={position.workers}, now it is "
            f"{workers}; the order of the data depends on it, so expected --set data.workers={position.workers}"
        )
    if math.isfinite(position.run.best):
        read_index(folder / BEST)
    return position


def _mentions(tree: Any, name: str) -> bool:
    return isinstance(tree, dict) and (name in tree or any(_mentions(below, name) for below in tree.values()))


def _explained(folder: Path, cause: BaseException) -> ConfigError:
    if isinstance(cause, ConfigError):
        return cause
    text = " ".join(str(cause).split())
    if any(sign in text for sign in ("Missing key", "mismatch", "Size mismatch", "size")):
        return ConfigError(f"{folder}: does not fit this model; was it made by another recipe? {text}")
    return ConfigError(f"{folder}: the checkpoint is damaged or incomplete: {text}; was it copied whole?")


def _position_file(folder: Path, ranks: Ranks) -> Path:
    return folder / f"position-{ranks.rank}-of-{ranks.world_size}.json"
