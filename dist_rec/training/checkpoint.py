"""Checkpoints: one folder of torch.distributed.checkpoint files, readable by any number of ranks.

Holds the tables (sharded) with the ids of dynamic ones, the dense parameters, the state of both optimizers with the
gradient in flight, what all of it was made with (made_with.py), as JSON the position of the run and per rank that in
the random numbers, and the sizes and sums of all files (manifest.py); where a run chooses its best weights, also those
so far, as a checkpoint in a folder `best`. Written under a temporary name and renamed, so a folder that exists is
complete. Nothing in one is ever run (safe_load.py)."""

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.planner import SavePlanner

from dist_rec.common.made import mark, replace
from dist_rec.common.stored_file import StoredFile
from dist_rec.common.strict import ConfigError
from dist_rec.data.position import DataPosition
from dist_rec.embedding.dynamic_state import load_steps, state_of
from dist_rec.embedding.dynamic_tables import dynamic_tables
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training.made_with import FILE as MADE_WITH
from dist_rec.training.made_with import MadeWith
from dist_rec.training.manifest import Manifest, check_sizes, sums_by_all
from dist_rec.training.ranks import Ranks
from dist_rec.training.safe_load import INDEX, SafeReader, TensorsOnly, read_index
from dist_rec.training.selection import SelectionState
from dist_rec.training.together import from_all, from_first

KIND = "checkpoint"
BEST, LAST = "best", "last"
POSITION = "position.json"
HALF = ".half-"  # begins the name of a folder that is being written
IDS = "dynamic_ids"
OF_TEACHER = "model.objective.teacher."


class Position(BaseModel):
    """Where a run is: in the `data`, after so many `requests`, and in the `run`."""

    data: DataPosition
    requests: int = Field(ge=0)
    run: SelectionState


@dataclass(frozen=True)
class Content:
    """What goes into a checkpoint, on one rank.

    - `state`: of the model, and to go on also of the optimizer
    - `position` and this rank's `random` state, to go on
    - `made`: what it was made with
    - `best`: a checkpoint beside it to move inside, as `best`
    """

    state: dict[str, Any]
    position: Position | None = None
    random: dict[str, list[int]] | None = None
    made: MadeWith | None = None
    best: Path | None = None


def state_to_save(model: nn.Module, optimizer: HybridOptimizer | None) -> dict[str, Any]:
    """The tensors of a checkpoint, in place; without `optimizer` those of the model alone."""
    state: dict[str, Any] = {"model": model.state_dict()}
    if optimizer is not None:
        state["optimizer"] = optimizer.state_dict()
    if (tables := dynamic_tables(model.modules())) is not None:
        state[IDS] = state_of(tables, training=optimizer is not None)
    return state


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: HybridOptimizer | None, ranks: Ranks, **more: Any
) -> None:
    """Saves what the model and the optimizer have now; `more` as in `Content`. Raises as `write_checkpoint`."""
    write_checkpoint(folder, Content(state_to_save(model, optimizer), **more), ranks.host_group)


def write_checkpoint(
    folder: Path, content: Content, group: dist.ProcessGroup, planner: SavePlanner | None = None
) -> None:
    """Saves from all ranks of a gloo group, one tensor after the other; a checkpoint that is there is replaced. If
    saving fails on any rank, on a full disk for example, nothing of it is left. `planner` of DCP, None for its own.

    Raises:
        NotOurs: if the folder is there and no unchanged checkpoint.
        OSError: naming the folder, if it cannot be written.
    """
    rank = dist.get_rank(group)
    with _written(folder, group) as temporary:
        # Tensors in host memory need no copies ahead, for which the planner would be asked for many at once.
        files = None if planner is None else FileSystemWriter(temporary, per_thread_copy_ahead=0)
        dcp.save(content.state, checkpoint_id=temporary, storage_writer=files, planner=planner, process_group=group)
        own = from_all(lambda: _write_small(temporary, content, rank, dist.get_world_size(group)), group)[rank]
        sums = sums_by_all(own, group)
        from_first(lambda: _complete(temporary, content, sums), group)


def _complete(temporary: Path, content: Content, sums: dict[str, StoredFile]) -> None:
    step = 0 if content.made is None else content.made.step
    requests = None if content.position is None else content.position.requests
    Manifest.now(step, requests, sums).write(temporary)
    if content.best is not None:
        content.best.rename(temporary / BEST)


def _write_small(temporary: Path, content: Content, rank: int, ranks: int) -> list[Path]:
    """What a rank has beside tensors; all files that are there by this rank."""
    own = sorted(temporary.glob(f"__{rank}_*"))
    if content.random is not None:
        own.append(_random_file(temporary, rank, ranks))
        own[-1].write_text(json.dumps(content.random))
    if rank == 0:
        if content.position is not None:
            (temporary / POSITION).write_text(json.dumps(content.position.model_dump()) + "\n")
        if content.made is not None:
            content.made.write(temporary)
        own += [path for path in sorted(temporary.iterdir()) if path.name in (INDEX, POSITION, MADE_WITH)]
    return own


@contextmanager
def _written(folder: Path, group: dist.ProcessGroup) -> Iterator[Path]:
    """A folder that all ranks write into, which becomes `folder` when all have done so and is removed when one has not.
    The block fails on all ranks or on none.

    Comm: two all-gathers."""
    temporary = None
    try:
        temporary = from_first(lambda: _half(folder), group)
        yield temporary
        from_first(lambda: _put(temporary, folder), group)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        cause = first_failure(error)
        # Torch's writer of archives says of a full disk that its position is not what it should be.
        if isinstance(cause, OSError) or "inline_container" in str(cause):
            raise unwritten(folder, cause) from error
        if cause is error:
            raise
        raise cause from error


def unwritten(folder: Path, cause: BaseException) -> OSError:
    """What is said of a checkpoint that could not be written."""
    code = getattr(cause, "errno", None) or errno.ENOSPC
    return OSError(code, f"the checkpoint could not be written: {os.strerror(code)}", str(folder))


def _put(temporary: Path, folder: Path) -> None:
    mark(temporary, KIND)
    replace(folder, temporary, KIND)


def _half(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f"{HALF}{folder.name}-", dir=folder.parent))
    made.chmod(0o755)
    return made


def copy_checkpoint(source: Path, target: Path) -> None:
    """The same files under another name, without `best`, and without a copy of their bytes where the file system
    can. Raises OSError."""
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file():
            _link(path, target / path.name)
    mark(target, KIND)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


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
        raise explained(folder, first_failure(error)) from error
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
    load_position(folder)
    check_sizes(folder)


def _check_has_optimizer(folder: Path, names: Iterable[str]) -> None:
    if not any(name.startswith("optimizer.") for name in names):
        raise ConfigError(f"{folder}: holds weights only; resuming needs a checkpoint made by checkpoint.every_steps")


def first_failure(error: BaseException) -> BaseException:
    """The error of the first rank in a failure of DCP; any other error as it is."""
    if not isinstance(error, dcp.api.CheckpointException) or not error.failures:
        return error
    cause = error.failures[min(error.failures)][0]
    return cause if isinstance(cause, Exception) else error


def load_position(folder: Path) -> Position:
    """Raises ConfigError if the checkpoint has no position or a damaged one, or the best weights that it speaks of are
    not there whole."""
    path = folder / POSITION
    if not path.is_file():
        if any(folder.glob("position-*-of-*.json")):
            raise ConfigError(
                f"{folder}: saved by an earlier version of dist_rec, which kept the position in the data in another "
                "form; its weights can be evaluated, but a run cannot resume from it"
            )
        raise ConfigError(
            f"{folder}: holds no position in the data; resuming needs a checkpoint made by checkpoint.every_steps"
        )
    try:
        position = Position.model_validate(json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else f"{error}"
        raise ConfigError(
            f"{path}: damaged or incomplete: expected a position in the data as JSON, got: {told}"
        ) from None
    if math.isfinite(position.run.best):
        read_index(folder / BEST)
    return position


def load_random(folder: Path, ranks: Ranks) -> dict[str, list[int]] | None:
    """This rank's random state; None where another number of ranks saved it. Raises ConfigError if it is damaged."""
    path = _random_file(folder, ranks.rank, ranks.world_size)
    if not path.is_file():
        return None
    try:
        return TypeAdapter(dict[str, list[int]]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(
            f"{path}: damaged: expected a random state as JSON, got: {error.errors()[0]['msg']}"
        ) from None


def explained(folder: Path, cause: BaseException) -> ConfigError:
    if isinstance(cause, ConfigError):
        return cause
    text = " ".join(str(cause).split())
    if any(sign in text for sign in ("Missing key", "mismatch", "Size mismatch", "size")):
        return ConfigError(f"{folder}: does not fit this model; was it made by another recipe? {text}")
    return ConfigError(f"{folder}: the checkpoint is damaged or incomplete: {text}; was it copied whole?")


def _random_file(folder: Path, rank: int, ranks: int) -> Path:
    return folder / f"random-{rank}-of-{ranks}.json"
