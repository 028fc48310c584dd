"""Tables as `EmbeddingCollection`s, one per row width, since a collection holds one width only."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


def collection_name(width: int) -> str:
    """Name of the collection with the tables of this row width."""
    return f"dim_{width}"


def collections_by_width(tables: Iterable[EmbeddingConfig]) -> nn.ModuleDict:
    """The collections by name, on the meta device, in the order in which their widths first occur."""
    members: dict[str, list[EmbeddingConfig]] = {}
    for table in tables:
        members.setdefault(collection_name(table.embedding_dim), []).append(table)
    meta = torch.device("meta")
    return nn.ModuleDict({name: EmbeddingCollection(tables=of, device=meta) for name, of in members.items()})


def look_up(collections: nn.ModuleDict, unique: KeyedJaggedTensor) -> dict[str, Any]:
    """Distinct ids -> rows by name of the collection and of the embedding, as each collection gives them.

    torch.fx can trace it, also where the collections are sharded and give awaitables.
    """
    return {name: collection(unique) for name, collection in collections.items()}
