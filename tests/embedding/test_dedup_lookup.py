"""Rows brought back; over whole collections: test_dedup_collection.py."""

from typing import Any

import torch
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from dist_rec.data.unique_features import UniqueFeatures
from dist_rec.embedding.dedup_lookup import (
    PoolBags,
    RebuildSequences,
    UniqueOnDevice,
    collection_name,
    collections_by_width,
    look_up,
)
from tests.data.test_unique_features import features_of

FEATURES = features_of({"a": [[7, 9, 7], [], [9]]}, torch.int32)
ROWS = torch.tensor([[1.0, 2.0], [3.0, 5.0]])  # of 7 and of 9


def _rows() -> dict[str, JaggedTensor]:
    return {"rows": JaggedTensor(values=ROWS, lengths=torch.tensor([2]))}


def test_sequences() -> None:
    for unique in (UniqueFeatures.of(FEATURES), UniqueOnDevice()(FEATURES)):
        for need_indices in (False, True):
            found = RebuildSequences([("rows", "a")], need_indices)(_rows(), unique)["rows"]
            assert torch.equal(found.values(), ROWS[[0, 1, 0, 1]]) and found.lengths().tolist() == [3, 0, 1]
            ids = found.weights_or_none()
            assert (
                ids is None
                if not need_indices
                else ids is not None and ids.dtype == torch.int32 and ids.tolist() == [7, 9, 7, 9]
            )


def test_bags_round_as_those_that_they_stand_for() -> None:
    """A mean is a division unsharded, a product with 1 / length sharded; both differ in the last bit."""
    unique = UniqueFeatures.of(FEATURES)
    for sharded, mean in (
        (False, ROWS[[0, 1, 0]].sum(0) / 3),
        (True, ROWS[[0, 1, 0]].sum(0) * (1.0 / torch.tensor(3))),
    ):
        pool = PoolBags([("sums", "home", "rows", "a", 2, "sum"), ("means", "home", "rows", "a", 2, "mean")])
        found = pool({"home": _rows()}, unique, sharded)
        assert found.keys() == ["sums", "means"] and found.length_per_key() == [2, 2]
        assert torch.equal(found["sums"], torch.stack([ROWS[[0, 1, 0]].sum(0), torch.zeros(2), ROWS[1]]))
        assert torch.equal(found["means"], torch.stack([mean, torch.zeros(2), ROWS[1]]))


WIDTHS = {"a": 8, "b": 4, "c": 8}
TABLES = [
    EmbeddingConfig(name=n, num_embeddings=5, embedding_dim=w, feature_names=[f"of_{n}"]) for n, w in WIDTHS.items()
]
IDS = KeyedJaggedTensor(
    [f"of_{n}" for n in WIDTHS], torch.tensor([3, 1, 0, 4]), lengths=torch.tensor([2, 0, 2]), stride=1
)


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
    assert torch.equal(found["dim_8"]["of_a"].values(), weights[[3, 1]]) and found["dim_4"]["of_b"].values().shape == (
        0,
        4,
    )
