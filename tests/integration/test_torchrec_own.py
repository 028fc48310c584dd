"""TorchRec's own equivalence test of sharded against unsharded modules, with deduplicated collections in the sharded
model."""

import logging
import sys
import types
import warnings
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs_registry
from torchrec.distributed.planner import ParameterConstraints
from torchrec.distributed.test_utils.test_model import ModelInput, TestSparseNN, TestSparseNNBase
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingCollection

from dist_rec.embedding import DedupEmbeddingBagCollection, DedupEmbeddingCollection
from tests.helpers.ranks import run_ranks

# TorchRec's wheel leaves the folder `tests` out, and its test imports one name of there that only 2D sharding needs.
_left_out = types.ModuleType("torchrec.distributed.tests.test_sequence_model")
_left_out.TestEmbeddingCollectionSharder = EmbeddingCollectionSharder  # pyright: ignore[reportAttributeAccessIssue]
sys.modules.setdefault("torchrec.distributed.tests", types.ModuleType("torchrec.distributed.tests"))
sys.modules.setdefault("torchrec.distributed.tests.test_sequence_model", _left_out)
from torchrec.distributed.test_utils.test_sharding import sharding_single_rank_test_single_process  # noqa: E402

CPU = torch.device("cpu")
TestSparseNN.__test__ = TestSparseNNBase.__test__ = False  # not a test class of pytest's


class DedupSparseNN(TestSparseNN):
    """TorchRec's test model, its bags deduplicated on the device; only where it is to be sharded."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.sparse_device.type == "meta":
            self.sparse.ebc = DedupEmbeddingBagCollection(cast(Any, self.sparse.ebc), "device")


class DedupSequences(TestSparseNNBase):
    """The same for sequences, every row through one layer."""

    def __init__(
        self,
        *,
        tables: Any,
        sparse_device: torch.device | None = None,
        dense_device: torch.device | None = None,
        **_: Any,
    ) -> None:
        super().__init__(tables, None, None, dense_device, sparse_device)
        self.ec: Any = EmbeddingCollection(tables=tables, device=self.sparse_device)
        if self.sparse_device.type == "meta":
            self.ec = DedupEmbeddingCollection(self.ec, "device")
        self.names = [name for table in tables for name in table.feature_names]
        self.over = torch.nn.Linear(16 * len(self.names), 1, device=dense_device)

    def forward(self, batch: ModelInput) -> Any:
        found = self.ec(batch.idlist_features)
        sums = [
            torch.ops.fbgemm.jagged_2d_to_dense(found[name].values(), found[name].offsets(), 100).sum(1)
            for name in self.names
        ]
        scores = torch.sigmoid(self.over(torch.cat(sums, dim=1)))
        return (scores.mean(), scores) if self.training else scores


def _bags(pooling: PoolingType = PoolingType.SUM, data_type: DataType = DataType.FP32) -> list[EmbeddingBagConfig]:
    """Four tables, two widths."""
    return [
        EmbeddingBagConfig(
            num_embeddings=(i + 1) * 10,
            embedding_dim=(i % 2 + 1) * 16,
            name=f"table_{i}",
            feature_names=[f"feature_{i}"],
            pooling=pooling,
            data_type=data_type,
        )
        for i in range(4)
    ]


def _weighted() -> list[EmbeddingBagConfig]:
    """Beside them, and not wrapped."""
    return [
        EmbeddingBagConfig(
            num_embeddings=20, embedding_dim=16, name=f"weighted_{i}", feature_names=[f"weighted_feature_{i}"]
        )
        for i in range(2)
    ]


def _sequences() -> list[EmbeddingConfig]:
    return [
        EmbeddingConfig(
            num_embeddings=(i + 1) * 10, embedding_dim=16, name=f"table_{i}", feature_names=[f"feature_{i}"]
        )
        for i in range(4)
    ]


@dataclass(frozen=True)
class Case:
    """Arguments of TorchRec's test."""

    sharding: str
    tables: list[Any] = field(default_factory=_bags)
    options: dict[str, Any] = field(default_factory=dict)


def _by_name(part: str) -> dict[str, Any]:
    return {"apply_optimizer_in_backward_config": {part: (torch.optim.SGD, {"lr": 0.2})}}


FP16, BF16 = (QCommsConfig(forward_precision=of, backward_precision=of) for of in (CommType.FP16, CommType.BF16))
CASES = {
    "table-wise": Case("table_wise"),
    "row-wise": Case("row_wise"),
    "column-wise": Case("column_wise"),
    "table-wise, mean": Case("table_wise", _bags(PoolingType.MEAN)),
    "row-wise, mean": Case("row_wise", _bags(PoolingType.MEAN)),
    "batches of other sizes": Case("table_wise", options={"variable_batch_size": True}),
    "ranks without a sample": Case("row_wise", options={"allow_zero_batch_size": True}),
    "fp16 between ranks": Case("table_wise", options={"qcomms_config": FP16}),
    "bf16 between ranks": Case("row_wise", options={"qcomms_config": BF16}),
    "int32 with offsets": Case(
        "row_wise", options={"use_offsets": True, "indices_dtype": torch.int32, "offsets_dtype": torch.int32}
    ),
    "optimizers by name": Case("table_wise", options=_by_name("embedding_bags")),
    "sequences, table-wise": Case("table_wise", _sequences()),
    "sequences, row-wise": Case("row_wise", _sequences()),
    "sequences, column-wise": Case("column_wise", _sequences()),
    "sequences, optimizers by name": Case("row_wise", _sequences(), _by_name("embeddings")),
}


def _run(name: str) -> str:
    case = CASES[name]
    fused = {"optimizer": EmbOptimType.EXACT_SGD, "learning_rate": 0.1}
    codecs = None
    options = dict(case.options)
    if "qcomms_config" in options:
        codecs = get_qcomm_codecs_registry(options["qcomms_config"], device=CPU)
    sharders: list[Any] = [EmbeddingCollectionSharder(fused, codecs), EmbeddingBagCollectionSharder(fused, codecs)]
    pooled = isinstance(case.tables[0], EmbeddingBagConfig)
    weighted = _weighted() if pooled else None
    limits = {
        table.name: ParameterConstraints(sharding_types=[case.sharding], compute_kernels=["fused"])
        for table in case.tables
    }
    limits |= {table.name: ParameterConstraints(sharding_types=["table_wise"]) for table in weighted or ()}
    group = dist.group.WORLD
    assert group is not None
    try:
        sharding_single_rank_test_single_process(
            pg=group,
            device=CPU,
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
            model_class=DedupSparseNN if pooled else DedupSequences,  # pyright: ignore[reportArgumentType]
            embedding_groups={"group_0": [f"feature_{i}" for i in range(4)]},
            tables=case.tables,
            weighted_tables=weighted,  # pyright: ignore[reportArgumentType]
            sharders=sharders,
            optim=EmbOptimType.EXACT_SGD,
            constraints=limits,
            local_size=dist.get_world_size(),
            random_seed=7,
            **options,
        )
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _run_all() -> dict[str, str]:
    logging.disable()
    warnings.simplefilter("ignore")
    return {name: _run(name) for name in CASES}


def test_sharded_as_unsharded_by_torchrec_s_own_measure() -> None:
    complaints = [f"{name}: {told}" for found in run_ranks(_run_all, 2) for name, told in found.items() if told]
    assert not complaints, "\n".join(complaints)
