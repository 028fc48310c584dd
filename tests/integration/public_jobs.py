"""The shapes of three public TorchRec jobs, written anew and small: DLRM, BERT4Rec, a two-tower retrieval.

Legend: B samples, L padded length, d width.
"""

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

from tests.integration.jobs import CPU, Batch

SAMPLES, WIDTH, MOST = 8, 8, 6
CATEGORIES = [f"cat_{i}" for i in range(26)]


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

    def __init__(self, wrap: Callable[[Any], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        tables = [
            EmbeddingBagConfig(name=f"t_{key}", num_embeddings=50, embedding_dim=WIDTH, feature_names=[key])
            for key in CATEGORIES
        ]
        self.ebc = wrap(EmbeddingBagCollection(tables=tables, device=CPU))
        self.dense, self.interaction = mlp(4, 16, WIDTH), Interaction()
        self.over = mlp(WIDTH + 27 * 26 // 2, 16, 1)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = self.over(self.interaction(self.dense(batch.label[:, 1:]), self.ebc(batch.features)))
        loss = binary_cross_entropy_with_logits(logits[:, 0], batch.label[:, 0])
        return loss, loss.detach()

    @staticmethod
    def batch(seed: int) -> Batch:
        generator = _generator(seed)
        most = torch.tensor([[1, 1, 3, 1, 6][i % 5] for i in range(26)]).repeat_interleave(SAMPLES)
        lengths = 1 + (torch.rand(len(most), generator=generator) * most).long()
        features = KeyedJaggedTensor(CATEGORIES, skewed(lengths, 50, generator), lengths=lengths)
        label = torch.rand(SAMPLES, 5, generator=generator)
        return Batch(features, torch.cat([label[:, :1].round(), label[:, 1:]], dim=1))


class Mask(nn.Module):
    """What BERT4Rec asks of its features: which places of the padded sequence are events, and the ids there."""

    def forward(self, features: Any) -> tuple[Tensor, Tensor]:
        assert features.keys() == ["item"] and features.stride() == SAMPLES
        lengths = features["item"].lengths()
        ids = features["item"].to_padded_dense(MOST)
        return torch.arange(MOST)[None] < lengths[:, None], ids.long()


class Padded(nn.Module):
    """A JaggedTensor per key -> (B, L, d)."""

    def forward(self, found: Any) -> Tensor:
        jagged = found["item"]
        return torch.ops.fbgemm.jagged_2d_to_dense(jagged.values(), jagged.offsets(), MOST)


class Bert4Rec(nn.Module):
    """A sequence of items, attended both ways under a mask of its lengths -> every item again."""

    def __init__(self, wrap: Callable[[Any], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        table = EmbeddingConfig(name="t_item", num_embeddings=40, embedding_dim=WIDTH, feature_names=["item"])
        self.ec = wrap(EmbeddingCollection(tables=[table], device=CPU))
        self.mask, self.padded = Mask(), Padded()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.out = nn.Linear(WIDTH, 40)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        events, ids = self.mask(batch.features)
        x = self.padded(self.ec(batch.features))
        x = x + self.attention(x, x, x, key_padding_mask=~events, need_weights=False)[0]
        loss = cross_entropy(self.out(x)[events], ids[events])
        return loss, loss.detach()

    @staticmethod
    def batch(seed: int) -> Batch:
        generator = _generator(seed)
        lengths = 1 + torch.randint(0, MOST, (SAMPLES,), generator=generator)
        features = KeyedJaggedTensor(["item"], skewed(lengths, 40, generator), lengths=lengths)
        return Batch(features, torch.zeros(SAMPLES, 1))


class Towers(nn.Module):
    """Queries and candidates -> their inner product; both towers look items and shops up in the same two tables."""

    def __init__(self, wrap: Callable[[Any], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        keys = {"t_item": ["query_item", "candidate_item"], "t_shop": ["query_shop", "candidate_shop"]}
        widths = {"t_item": WIDTH, "t_shop": WIDTH // 2}
        tables = [
            EmbeddingBagConfig(name=n, num_embeddings=60, embedding_dim=widths[n], feature_names=f) for n, f in keys.items()
        ]
        self.ebc = wrap(EmbeddingBagCollection(tables=tables, device=CPU))
        self.query, self.candidate = mlp(WIDTH + WIDTH // 2, 16, WIDTH), mlp(WIDTH + WIDTH // 2, 16, WIDTH)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        found = self.ebc(batch.features)
        query = self.query(torch.cat([found["query_item"], found["query_shop"]], dim=1))
        candidate = self.candidate(torch.cat([found["candidate_item"], found["candidate_shop"]], dim=1))
        loss = binary_cross_entropy_with_logits((query * candidate).sum(1), batch.label[:, 0])
        return loss, loss.detach()

    @staticmethod
    def batch(seed: int) -> Batch:
        generator = _generator(seed)
        keys = ["query_item", "candidate_item", "query_shop", "candidate_shop"]
        lengths = torch.randint(0, 6, (len(keys) * SAMPLES,), generator=generator)
        features = KeyedJaggedTensor(keys, skewed(lengths, 60, generator), lengths=lengths)
        return Batch(features, torch.rand(SAMPLES, 1, generator=generator).round())


@dataclass(frozen=True)
class Job:
    model: Any
    pipelined: bool


JOBS = {"DLRM": Job(Dlrm, True), "BERT4Rec": Job(Bert4Rec, False), "two-tower": Job(Towers, True)}
