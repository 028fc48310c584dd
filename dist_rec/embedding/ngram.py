"""N-gram embeddings for a TorchRec job of one's own.

    spec = NgramSpec(orders=[2, 3], heads=2, rows=1_000_000)
    self.ngram = NgramEmbedding(spec, dim=64, device="meta")       # holds an EmbeddingCollection, sharded as any
    ...
    items = self.ec(batch.features)["item"].values()               # (N, 64)
    events = self.ngram(items, batch.ngrams)                       # (N, 64)

with `batch.ngrams = ngram_ids(features, "item", spec)` made by the loader, or `NgramIds` in the model.

Legend: N events, D width of a row, M sub-tables.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.common.ngram import NgramSpec
from dist_rec.data.ngram.features import ngram_ids
from dist_rec.embedding.ngram_fusion import NgramFusion


class NgramEmbedding(nn.Module):
    """Rows of events (N, D) and the ids of their n-grams -> rows of events (N, D) that know the events before.

    The table is one `EmbeddingCollection`, `<path>.collection`, with `spec.total_rows` rows of width D / M: stock
    sharders shard it, row-wise as a rule, and `TrainPipelineSparseDist` pipelines it where the ids are in the batch, or
    come from `NgramIds` with `pipeline_postproc=True`. `DedupEmbeddingCollection` may wrap it. Tables of one collection
    need the same width, so it is one of its own.

    Args:
        spec: the n-grams; the table starts uniform in +-`init_scale`.
        dim: D, a multiple of 4 M.
        name: of the table, and the key of the ids.
        device: of the table.

    Raises:
        ValueError: D is no multiple of 4 M.
    """

    def __init__(
        self,
        spec: NgramSpec,
        dim: int,
        *,
        name: str = "ngram",
        init_scale: float = 0.05,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.name = dim, name
        table = EmbeddingConfig(
            name=name,
            num_embeddings=spec.total_rows,
            embedding_dim=spec.width(dim),
            feature_names=[name],
            weight_init_min=-init_scale,
            weight_init_max=init_scale,
        )
        self.collection: nn.Module = EmbeddingCollection(tables=[table], device=torch.device(device or "cpu"))
        self.fusion = NgramFusion(spec, dim)

    def forward(self, rows: Tensor, ngrams: KeyedJaggedTensor) -> Tensor:
        found: Any = self.collection(ngrams)
        return self.fusion(rows, found[self.name].values().view(-1, self.dim))


class NgramIds(nn.Module):
    """`ngram_ids` as a module, which hashes where the features are: on their device, inside the model.

    As a module a pipeline can run it ahead (`pipeline_postproc=True`). Arguments and errors are those of `ngram_ids`.
    """

    def __init__(
        self, key: str, spec: NgramSpec, *, name: str = "ngram", hidden: int | None = None, times: str | None = None
    ) -> None:
        super().__init__()
        self.key, self.spec, self.name, self.hidden, self.times = key, spec, name, hidden, times
        self.heads: Tensor
        self.register_buffer("heads", torch.tensor(spec.head_numbers()), persistent=False)

    def forward(self, features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        return ngram_ids(
            features,
            self.key,
            self.spec,
            name=self.name,
            hidden=self.hidden,
            times=self.times,
            heads=self.heads,
        )
