"""Reads DCP checkpoints without running anything in them.

A checkpoint's index, `.metadata`, is a pickle, and a pickle may call any function. Here only the classes of which DCP's
index consists can be made, and its entries can only be tensors, which torch reads with `weights_only=True`."""

import importlib
import io
import pickle
from enum import Enum
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem

from dist_rec.common.strict import ConfigError

INDEX = ".metadata"
_DCP = "torch.distributed.checkpoint"
ALLOWED = {
    *((f"{_DCP}.metadata", name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")),
    *((f"{_DCP}.metadata", name) for name in ("TensorStorageMetadata", "ChunkStorageMetadata", "BytesStorageMetadata")),
    (f"{_DCP}.metadata", "_MEM_FORMAT_ENCODING"),
    (f"{_DCP}.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    *(("pathlib", name) for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(
        ("pathlib._local", name) for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),  # Python 3.13
}


class SafeReader(FileSystemReader):
    """DCP's reader of a folder, for checkpoints from anywhere.

    Raises ConfigError for an index that is damaged, holds anything but tensors, or names files that are not there
    whole."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        metadata = read_index(self.folder)
        assert metadata.storage_meta is not None, "read_index sees to it"
        metadata.storage_meta.load_id = self.load_id
        return metadata


class TensorsOnly(DefaultLoadPlanner):
    """DCP's planner, which would unpickle everything that is no tensor."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        raise ConfigError(f"{read_item.dest_index.fqn} of the checkpoint is no tensor; expected tensors only")


def read_index(folder: Path) -> Metadata:
    """The index of a checkpoint folder, with every file that it names looked at.

    Raises ConfigError naming the file, what was expected and what came.
    """
    path = folder / INDEX
    if not path.is_file():
        raise ConfigError(
            f"{folder}: not a checkpoint; expected a folder made by a run, such as runs/quickstart/checkpoints/last"
        )
    try:
        found = _IndexUnpickler(io.BytesIO(path.read_bytes())).load()
        if not isinstance(found, Metadata):
            raise _NotAllowed(f"{type(found).__name__}")
        if found.storage_meta is None:
            found.storage_meta = StorageMeta()
        _check_entries(path, found)
        _check_files(folder, found)
    except ConfigError:
        raise
    except _NotAllowed as error:
        raise ConfigError(
            f"{path}: expected the index of a DCP checkpoint, got {error}; nothing of it was run"
        ) from None
    except Exception as error:  # a damaged pickle may raise anything, and so may what it is made of
        told = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{path}: expected the index of a DCP checkpoint, got one that is damaged or incomplete: {told}"
        ) from None
    return found


def _check_entries(path: Path, index: Metadata) -> None:
    """Raises ConfigError unless every entry is a tensor all of whose parts are stored."""
    stored = {(key.fqn, tuple(key.offset or ())) for key in index.storage_data or {}}
    for name, entry in index.state_dict_metadata.items():
        if not isinstance(name, str) or not isinstance(entry, TensorStorageMetadata):
            raise ConfigError(f"{path}: expected tensors only, got {name}, which is {type(entry).__name__}")
        size, parts = tuple(entry.size), [(tuple(part.offsets), tuple(part.sizes)) for part in entry.chunks]
        inside = all(
            o >= 0 and n >= 0 and o + n <= whole for at, of in parts for o, n, whole in zip(at, of, size, strict=True)
        )
        covered = sum(prod(of) for _, of in parts) == prod(size) and len({at for at, of in parts if prod(of)}) == sum(
            prod(of) > 0 for _, of in parts
        )
        if not inside or not covered or any((name, at) not in stored for at, of in parts if prod(of)):
            raise ConfigError(
                f"{path}: expected the index of a DCP checkpoint, got one that is damaged or incomplete: {name} of "
                f"shape {size} is not stored whole"
            )


def _check_files(folder: Path, index: Metadata) -> None:
    """Raises ConfigError unless every tensor lies inside of a file of the folder."""
    ends: dict[str, int] = {}
    for place in (index.storage_data or {}).values():
        name = str(place.relative_path)
        if Path(name).name != name or getattr(place, "transform_descriptors", None):
            raise ConfigError(f"{folder / INDEX}: expected plain files of its own folder, got {name}")
        ends[name] = max(ends.get(name, 0), int(place.offset) + int(place.length))
    for name, end in ends.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size is None or size < end:
            came = "nothing there" if size is None else f"{size}"
            raise ConfigError(
                f"{folder}: the checkpoint is damaged or incomplete: expected {end} bytes in {name}, got {came}; was "
                "it copied whole?"
            )


class _NotAllowed(Exception):
    pass


_InPython: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue] - the one whose steps can be looked at


class _IndexUnpickler(_InPython):
    """Makes what ALLOWED names. A pickle may also set attributes of what it was given: of objects it made, never of
    classes."""

    dispatch = dict(_InPython.dispatch)

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) in ALLOWED:
            return getattr(importlib.import_module(module_name), global_name)
        if module_name == "torch" and isinstance(dtype := getattr(torch, global_name, None), torch.dtype):
            return dtype
        raise _NotAllowed(f"a pickle that asks for {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _NotAllowed("a pickle with references to outside of it")

    def load_build(self) -> None:
        target = self.stack[-2]
        if (type(target).__module__, type(target).__name__) not in ALLOWED or isinstance(target, Enum):
            raise _NotAllowed(f"a pickle that changes {target!r}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build
