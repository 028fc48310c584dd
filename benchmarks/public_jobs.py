"""The shapes of three public TorchRec jobs, written anew: DLRM, BERT4Rec, a two-tower retrieval.

Legend: B samples, L padded length, d width. Every job is made for given sizes: small ones for tests, larger ones to
measure."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

CPU = torch.device("cpu")
CATEGORIES = [f"cat_{i}" for i in range(26)]


@dataclass(frozen=True)
class Sizes:
    """`samples` B, `width` d, `most` values of a key, `rows` of a table, `hidden` width of the layers between."""

    samples: int = 8
    width: int = 8
    most: int = 6
    rows: int = 50
    hidden: int = 16


@dataclass
class Batch(Pipelineable):
    """A user's own batch; its `to` knows nothing of deduplication."""

    features: Any
    label: Tensor

    def to(self, device: torch.device, non_blocking: bool = False, data_copy_stream: Any = None) -> "Batch":
        return Batch(self.features.to(device, non_blocking=non_blocking), self.label.to(device))

    def record_stream(self, stream: Any) -> None:
        self.features.record_stream(stream)

    def pin_memory(self) -> "Batch":
        return Batch(self.features.pin_memory(), self.label.pin_memory())


def skewed(lengths: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Ids of a power law, as logs have them."""
    return (rows * torch.rand(int(lengths.sum()), generator=generator) ** 3).long()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * seed + (dist.get_rank() if dist.is_initialized() else 0))


def mlp(*widths: int) -> nn.Sequential:
    layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[layer for pair in layers for layer in pair][:-1])


class Interaction(nn.Module):
    """Dense (B, d) and 26 pooled rows -> their inner products. Whole to torch.fx."""

    def forward(self, dense: Tensor, sparse: Any) -> Tensor:
        found = sparse.to_dict()
        stacked = torch.stack([dense, *(found[key] for key in CATEGORIES)], dim=1)
        products = stacked @ stacked.transpose(1, 2)
        left, right = torch.triu_indices(stacked.shape[1], stacked.shape[1], offset=1)
        return torch.cat([dense, products[:, left, right]], dim=1)


class Dlrm(nn.Module):
    """Numbers and 26 categories, some of them lists, -> click."""

    def __init__(self, wrap: Callable[[Any], Any], sizes: Sizes) -> None:
        super().__init__()
        torch.manual_seed(0)
        tables = [
            EmbeddingBagConfig(
                name=f"t_{key}", num_embeddings=sizes.rows, embedding_dim=sizes.width, feature_names=[key]
            )
            for key in CATEGORIES
        ]
        self.ebc = wrap(EmbeddingBagCollection(tables=tables, device=CPU))
        self.dense, self.interaction = mlp(4, sizes.hidden, sizes.width), Interaction()
        self.over = mlp(sizes.width + 27 * 26 // 2, sizes.hidden, 1)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = self.over(self.interaction(self.dense(batch.label[:, 1:]), self.ebc(batch.features)))
        loss = binary_cross_entropy_with_logits(logits[:, 0], batch.label[:, 0])
        return loss, loss.detach()

    @staticmethod
    def batch(seed: int, sizes: Sizes) -> Batch:
        generator = _generator(seed)
        most = torch.tensor([[1, 1, sizes.most // 2, 1, sizes.most][i % 5] for i in range(26)]).repeat_interleave(
            sizes.samples
        )
        lengths = 1 + (torch.rand(len(most), generator=generator) * most).long()
        features = KeyedJaggedTensor(CATEGORIES, skewed(lengths, sizes.rows, generator), lengths=lengths)
        label = torch.rand(sizes.samples, 5, generator=generator)
        return Batch(features, torch.cat([label[:, :1].round(), label[:, 1:]], dim=1))


class Mask(nn.Module):
    """What BERT4Rec asks of its features: which places of the padded sequence are events, and the ids there."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, features: Any) -> tuple[Tensor, Tensor]:
        assert features.keys() == ["item"] and features.stride() == self.sizes.samples
        lengths = features["item"].lengths()
        ids = features["item"].to_padded_dense(self.sizes.most)
        return torch.arange(self.sizes.most)[None] < lengths[:, None], ids.long()


class Padded(nn.Module):
    """A JaggedTensor per key -> (B, L, d)."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, found: Any) -> Tensor:
        jagged = found["item"]
        return torch.ops.fbgemm.jagged_2d_to_dense(jagged.values(), jagged.offsets(), self.most)


class Bert4Rec(nn.Module):
    """A sequence of items, attended both ways under a mask of its lengths -> every item again."""

    def __init__(self, wrap: Callable[[Any], Any], sizes: Sizes) -> None:
        super().__init__()
        torch.manual_seed(0)
        table = EmbeddingConfig(
            name="t_item", num_embeddings=sizes.rows, embedding_dim=sizes.width, feature_names=["item"]
        )
        self.ec = wrap(EmbeddingCollection(tables=[table], device=CPU))
        self.mask, self.padded = Mask(sizes), Padded(sizes.most)
        self.attention = nn.MultiheadAttention(sizes.width, 2, batch_first=True)
        self.out = nn.Linear(sizes.width, sizes.rows)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        events, ids = self.mask(batch.features)
        x = self.padded(self.ec(batch.features))
        x = x + self.attention(x, x, x, key_padding_mask=~events, need_weights=False)[0]
        loss = cross_entropy(self.out(x)[events], ids[events])
        return loss, loss.detach()

    @staticmethod
    def batch(seed: int, sizes: Sizes) -> Batch:
        generator = _generator(seed)
        lengths = 1 + torch.randint(0, sizes.most, (sizes.samples,), generator=generator)
        features = KeyedJaggedTensor(["item"], skewed(lengths, sizes.rows, generator), lengths=lengths)
        return Batch(features, torch.zeros(sizes.samples, 1))


class Towers(nn.Module):
    """Queries and candidates -> their inner product; both towers look items and shops up in the same two tables."""

    def __init__(self, wrap: Callable[[Any], Any], sizes: Sizes) -> None:
        super().__init__()
        torch.manual_seed(0)
        keys = {"t_item": ["query_item", "candidate_item"], "t_shop": ["query_shop", "candidate_shop"]}
        width, narrow = sizes.width, sizes.width // 2
        widths = {"t_item": width, "t_shop": narrow}
        tables = [
            EmbeddingBagConfig(name=n, num_embeddings=sizes.rows, embedding_dim=widths[n], feature_names=f)
            for n, f in keys.items()
        ]
        self.ebc = wrap(EmbeddingBagCollection(tables=tables, device=CPU))
        self.query, self.candidate = (mlp(width + narrow, sizes.hidden, width) for _ in range(2))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        found = self.ebc(batch.features)
        query = self.query(torch.cat([found["query_item"], found["query_shop"]], dim=1))
        candidate = self.candidate(torch.cat([found["candidate_item"], found["candidate_shop"]], dim=1))
        loss = binary_cross_entropy_with_logits((query * candidate).sum(1), batch.label[:, 0])
        return loss, loss.detach()

    @staticmethod
    def batch(seed: int, sizes: Sizes) -> Batch:
        generator = _generator(seed)
        keys = ["query_item", "candidate_item", "query_shop", "candidate_shop"]
        lengths = torch.randint(0, sizes.most, (len(keys) * sizes.samples,), generator=generator)
        features = KeyedJaggedTensor(keys, skewed(lengths, sizes.rows, generator), lengths=lengths)
        return Batch(features, torch.rand(sizes.samples, 1, generator=generator).round())


@dataclass(frozen=True)
class Job:
    kind: Any
    pipelined: bool
    sizes: Sizes = Sizes()

    def model(self, wrap: Callable[[Any], Any]) -> nn.Module:
        return self.kind(wrap, self.sizes)

    def batch(self, seed: int) -> Batch:
        return self.kind.batch(seed, self.sizes)


JOBS = {"DLRM": Job(Dlrm, True), "BERT4Rec": Job(Bert4Rec, False), "two-tower": Job(Towers, True)}
