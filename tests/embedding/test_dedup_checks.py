from typing import Any

import pytest
import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.modules.feature_processor_ import PositionWeightedModuleCollection
from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection, FusedEmbeddingCollection
from torchrec.modules.mc_embedding_modules import (
    ManagedCollisionEmbeddingBagCollection,
    ManagedCollisionEmbeddingCollection,
)
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    ManagedCollisionCollection,
    MCHManagedCollisionModule,
)
from torchrec.quant.embedding_modules import EmbeddingBagCollection as QuantBags
from torchrec.quant.embedding_modules import EmbeddingCollection as QuantRows
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.data.unique_features import UniqueFeatures
from dist_rec.embedding import DedupEmbeddingBagCollection, DedupEmbeddingCollection
from tests.data.test_unique_features import features_of
from tests.helpers.ranks import run_ranks
from tests.integration.jobs import shard

CPU = torch.device("cpu")
ROW = EmbeddingConfig(name="t", num_embeddings=8, embedding_dim=4, feature_names=["a", "b"])
BAG = EmbeddingBagConfig(name="t", num_embeddings=8, embedding_dim=4, feature_names=["a", "b"])


def rows() -> EmbeddingCollection:
    return EmbeddingCollection(tables=[ROW], device=CPU)


def bags(weighted: bool = False) -> EmbeddingBagCollection:
    return EmbeddingBagCollection(tables=[BAG], is_weighted=weighted, device=CPU)


class OwnRows(EmbeddingCollection):
    def forward(self, features: KeyedJaggedTensor) -> Any:
        return super().forward(features)


class OwnBags(EmbeddingBagCollection):
    def forward(self, features: KeyedJaggedTensor) -> Any:
        return super().forward(features)


class NamedBags(EmbeddingBagCollection):
    """Only a constructor of its own."""

    def __init__(self) -> None:
        super().__init__(tables=[BAG], device=CPU)


def managed(kind: Any, collection: Any, config: Any) -> Any:
    module = MCHManagedCollisionModule(
        zch_size=8, device=CPU, eviction_policy=DistanceLFU_EvictionPolicy(), eviction_interval=1, input_hash_size=100
    )
    return kind(collection, ManagedCollisionCollection({"t": module}, [config]))


SGD: Any = torch.optim.SGD
SLIPS: dict[str, tuple[Any, str]] = {
    "None": (lambda: None, "got a NoneType"),
    "tables": (lambda: [BAG], "got a list"),
    "a module": (lambda: nn.Linear(1, 1), "got a Linear; other modules cannot be deduplicated"),
    "the model": (lambda: nn.ModuleDict({"ec": rows(), "ebc": bags()}), "got a ModuleDict; wrap the collection inside"),
    "one table": (lambda: nn.EmbeddingBag(8, 4), "got an EmbeddingBag; other modules cannot be deduplicated"),
    "processed": (
        lambda: FeatureProcessedEmbeddingBagCollection(
            bags(True), PositionWeightedModuleCollection({"a": 5, "b": 5}, device=CPU)
        ),
        "got a FeatureProcessedEmbeddingBagCollection; it changes its features before it looks them up, leave it as it "
        "is",
    ),
    "managed rows": (
        lambda: managed(ManagedCollisionEmbeddingCollection, rows(), ROW),
        "got a ManagedCollision.*leave it as it",
    ),
    "managed bags": (
        lambda: managed(ManagedCollisionEmbeddingBagCollection, bags(), BAG),
        "got a ManagedCollision.*leave it as",
    ),
    "fused rows": (
        lambda: FusedEmbeddingCollection([ROW], SGD, {"lr": 0.1}, device=torch.device("meta")),
        "got a FusedEmbeddingCollection",
    ),
    "fused bags": (
        lambda: FusedEmbeddingBagCollection([BAG], SGD, {"lr": 0.1}, device=CPU),
        "got a FusedEmbeddingBagColl",
    ),
    "quantized rows": (lambda: QuantRows([ROW], CPU), "got an EmbeddingCollection"),
    "quantized bags": (lambda: QuantBags([BAG], False, CPU), "got an EmbeddingBagCollection"),
}
EXPECTED = {
    DedupEmbeddingCollection: "an EmbeddingCollection",
    DedupEmbeddingBagCollection: "an EmbeddingBagCollection",
}


@pytest.mark.parametrize("wrapper", EXPECTED)
@pytest.mark.parametrize("slip", SLIPS)
def test_another_module(slip: str, wrapper: Any) -> None:
    make, came = SLIPS[slip]
    with pytest.raises(TypeError, match=f"^{wrapper.__name__} expected {EXPECTED[wrapper]} of torchrec, {came}"):
        wrapper(make())


@pytest.mark.parametrize(
    ("make", "came"),
    [
        (
            lambda: DedupEmbeddingCollection(bags()),
            "got an EmbeddingBagCollection; DedupEmbeddingBagCollection is the one",
        ),
        (
            lambda: DedupEmbeddingBagCollection(rows()),
            "got an EmbeddingCollection; DedupEmbeddingCollection is the one for it",
        ),
        (lambda: DedupEmbeddingCollection(DedupEmbeddingCollection(rows())), "it is deduplicated already, wrap"),
        (lambda: DedupEmbeddingBagCollection(DedupEmbeddingBagCollection(bags())), "it is deduplicated already"),
        (lambda: DedupEmbeddingBagCollection(DedupEmbeddingCollection(rows())), "it is deduplicated already"),
        (
            lambda: DedupEmbeddingCollection(EmbeddingCollection),
            "got EmbeddingCollection, the class; make one of it first",
        ),
        (lambda: DedupEmbeddingBagCollection(int), "got int, the class; make one of it first"),
        (
            lambda: DedupEmbeddingCollection(OwnRows(tables=[ROW], device=CPU)),
            "got an OwnRows; it has a forward of its own",
        ),
        (
            lambda: DedupEmbeddingBagCollection(OwnBags(tables=[BAG], device=CPU)),
            "got an OwnBags; it has a forward of its own",
        ),
    ],
)  # fmt: skip
def test_the_other_kind_or_the_same_twice(make: Any, came: str) -> None:
    with pytest.raises(TypeError, match=came):
        make()


def test_weights() -> None:
    with pytest.raises(
        ValueError, match=r"a weighted EmbeddingBagCollection cannot be deduplicated: .* with is_weighted=False"
    ):
        DedupEmbeddingBagCollection(bags(True))


def test_what_is_taken() -> None:
    DedupEmbeddingBagCollection(NamedBags())
    for device in (CPU, torch.device("meta")):
        DedupEmbeddingBagCollection(EmbeddingBagCollection(tables=[BAG], device=device))
        DedupEmbeddingCollection(EmbeddingCollection(tables=[ROW], device=device))


def _after_sharding() -> list[str]:
    told = []
    for wrapper, make in ((DedupEmbeddingCollection, rows), (DedupEmbeddingBagCollection, bags)):
        for part in (lambda dmp: dmp, lambda dmp: dmp.module["ec"], lambda dmp: dmp.module):
            dmp = shard(nn.ModuleDict({"ec": make()}))
            try:
                wrapper(part(dmp))
                told.append(f"{wrapper.__name__} took it")
            except TypeError as error:
                told.append(str(error))
    return told


def test_a_collection_that_is_sharded_already() -> None:
    (told,) = run_ranks(_after_sharding, 1)
    assert len(told) == 6 and all("it is sharded already, wrap the collection first" in text for text in told), told


PLAIN = features_of({"a": [[1], [2]], "b": [[1], [1, 1]]})
WEIGHTED = KeyedJaggedTensor(["a", "b"], torch.ones(2, dtype=torch.int64), torch.ones(2), lengths=torch.tensor([1, 1]))
WRAPPERS = [
    lambda where: DedupEmbeddingCollection(rows(), where),
    lambda where: DedupEmbeddingBagCollection(bags(), where),
]


@pytest.mark.parametrize("make", WRAPPERS)
@pytest.mark.parametrize(
    ("dedup", "given", "kind", "message"),
    [
        (
            "host",
            PLAIN,
            TypeError,
            "expected UniqueFeatures, got a KeyedJaggedTensor; wrap the loader in DedupLoader and",
        ),
        (
            "host",
            UniqueFeatures.of(PLAIN).permute([1, 0]),
            TypeError,
            "not what split, permute or concat made of them, or ded",
        ),
        (
            "host",
            WEIGHTED,
            TypeError,
            "got a KeyedJaggedTensor: these features have weights.* DedupLoader leaves such features",
        ),
        ("host", None, TypeError, "expected UniqueFeatures, got a NoneType; give it what DedupLoader puts"),
        ("host", {"a": PLAIN}, TypeError, "expected UniqueFeatures, got a dict"),
        (
            "host",
            UniqueFeatures.of(features_of({"x": [[1]], "a": [[1]]})),
            ValueError,
            "expected key 'b' .*; there are: x, a",
        ),
        (
            "device",
            UniqueFeatures.of(PLAIN),
            TypeError,
            "expected a KeyedJaggedTensor, got an UniqueFeatures; it is dedup",
        ),
        ("device", torch.ones(2), TypeError, "with dedup='device' expected a KeyedJaggedTensor, got a Tensor"),
        ("device", features_of({"a": [[1]]}), ValueError, "expected key 'b' in the features; there are: a"),
        ("device", WEIGHTED, ValueError, "features have weights"),
    ],
)
def test_other_features(make: Any, dedup: str, given: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make(dedup)(given)


@pytest.mark.parametrize("make", WRAPPERS)
@pytest.mark.parametrize("dedup", ["host", "device"])
def test_a_trace_before_sharding(make: Any, dedup: str) -> None:
    with pytest.raises(TypeError, match=r"cannot be traced by torch.fx.*needs an EmbeddingCollectionSharder\(\)"):
        torch.fx.symbolic_trace(make(dedup))
