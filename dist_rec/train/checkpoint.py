"""Checkpoints: one folder of torch.distributed.checkpoint files, readable by any number of ranks.

Holds the tables (sharded), the dense parameters, the state of both optimizers with the gradient in flight, and per rank
the position in the data and in the random numbers, as JSON. Written under a temporary name and renamed, so a folder that
exists is complete.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import nn

from dist_rec.config import ConfigError
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.train.ranks import Ranks


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: HybridOptimizer | None, position: dict[str, Any] | None, ranks: Ranks
) -> None:
    """Saves from all ranks; `folder` is replaced. Without `optimizer` only the model is saved."""
    temporary = folder.with_name(folder.name + ".partial")
    if ranks.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    ranks.barrier()
    state: dict[str, Any] = {"model": model.state_dict()}
    if optimizer is not None:
        state["optimizer"] = optimizer.state_dict()
    dcp.save(state, checkpoint_id=temporary, process_group=ranks.host_group)
    if position is not None:
        _position_file(temporary, ranks).write_text(json.dumps(position))
    ranks.barrier()
    if ranks.is_main:
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    ranks.barrier()


def load_checkpoint(folder: Path, model: nn.Module, optimizer: HybridOptimizer | None, ranks: Ranks) -> None:
    """Loads in place, whatever number of ranks saved it.

    Raises ConfigError if the folder is not a checkpoint or belongs to another model.
    """
    if not (folder / ".metadata").is_file():
        raise ConfigError(
            f"{folder}: not a checkpoint; expected a folder made by a run, such as runs/quickstart/checkpoints/last"
        )
    state: dict[str, Any] = {"model": model.state_dict()}
    if optimizer is not None:
        state["optimizer"] = optimizer.state_dict()
    reader = dcp.FileSystemReader(folder)
    wanted = {f"model.{name}" for name in state["model"]}
    # dcp reads what it is asked for and says nothing about the rest: a smaller model would load a part of a larger one.
    extra = sorted(
        name for name in reader.read_metadata().state_dict_metadata if name.startswith("model.") and name not in wanted
    )
    if extra:
        raise ConfigError(f"{folder}: does not fit this model; was it made by another recipe? It also holds {', '.join(extra)}")
    try:
        dcp.load(state, checkpoint_id=folder, process_group=ranks.host_group)
    except (dcp.api.CheckpointException, RuntimeError, ValueError) as error:
        raise ConfigError(f"{folder}: does not fit this model; was it made by another recipe? {error}") from error
    model.load_state_dict(state["model"])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])


def load_position(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """This rank's position in the data. Raises ConfigError if the checkpoint has none for this rank."""
    path = _position_file(folder, ranks)
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file; resuming needs a checkpoint made by `checkpoint.every_steps` with the same number of ranks "
            f"({ranks.world_size} now)"
        )
    return json.loads(path.read_text())


def _position_file(folder: Path, ranks: Ranks) -> Path:
    return folder / f"position-{ranks.rank}-of-{ranks.world_size}.json"
