from typing import Any

import torch
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.embedding.by_width import collection_name, collections_by_width, look_up

WIDTHS = {"a": 8, "b": 4, "c": 8}
TABLES = [EmbeddingConfig(name=n, num_embeddings=5, embedding_dim=w, feature_names=[f"of_{n}"]) for n, w in WIDTHS.items()]
IDS = KeyedJaggedTensor([f"of_{n}" for n in WIDTHS], torch.tensor([3, 1, 0, 4]), lengths=torch.tensor([2, 0, 2]), stride=1)


def test_tables_of_one_width_are_together() -> None:
    collections: Any = collections_by_width(TABLES)
    found = {name: [table.name for table in of.embedding_configs()] for name, of in collections.items()}
    assert found == {"dim_8": ["a", "c"], "dim_4": ["b"]}
    assert collection_name(8) == "dim_8" and all(p.is_meta for p in collections.parameters())
    assert len(collections_by_width([])) == 0


def test_looks_up_in_every_collection() -> None:
    collections = collections_by_width(TABLES).to_empty(device="cpu")
    for parameter in collections.parameters():
        torch.nn.init.normal_(parameter)
    found = look_up(collections, IDS)
    weights = collections.get_parameter("dim_8.embeddings.a.weight")
    assert torch.equal(found["dim_8"]["of_a"].values(), weights[[3, 1]]) and found["dim_4"]["of_b"].values().shape == (0, 4)
