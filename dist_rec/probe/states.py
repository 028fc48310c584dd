"""States of events: a small causal transformer that predicts the next event, once forward in time and once backward.

The probe of arXiv 2601.21571 (section 3.2) reads two language models, one for each direction, trained apart and then
frozen. Here tokens are events: the sum of the embeddings of their ids, side values and time since the event before.

Legend: N rows (events, and candidates behind them), D width, F fields with ids, S side values, K negatives.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dist_rec.common.strict import Size, Strict, Width
from dist_rec.data.columns import Ints
from dist_rec.kernels.cross_causal_attention import Mask
from dist_rec.models.layers.attention_block import AttentionRows, CrossCausalBlock
from dist_rec.models.layers.norm import LayerNorm
from dist_rec.probe.events import GAPS, Events


class StatesConfig(Strict):
    """Of the two models that give the states, and of what they are trained on."""

    requests: Size = Field(default=4_000, ge=1, description="Most requests that are read.")
    width: Width = 32
    heads: Width = 2
    layers: Width = 2
    rows: Size = Field(default=2**17, ge=1, description="Largest table; ids of a larger one share rows.")
    steps: Size = Field(default=400, ge=1)
    batch_requests: Size = Field(default=32, ge=1)
    max_length: Size = Field(default=256, ge=2, description="Newest events of a request that a step trains on.")
    negatives: Size = Field(default=256, ge=1, description="Events that the next one is told apart from.")
    lr: float = Field(default=0.003, gt=0)


class NextEvent(nn.Module):
    """Rows -> states (N, D). `ids`: sizes of the tables of the fields, `side`: numbers of the side values."""

    def __init__(self, ids: list[int], side: list[int], config: StatesConfig) -> None:
        super().__init__()
        width = config.width
        self.ids = nn.ModuleList(nn.Embedding(min(size, config.rows), width) for size in ids)
        self.side = nn.ModuleList(nn.Embedding(size + 1, width) for size in side)  # one more: not known
        self.gap = nn.Embedding(GAPS + 1, width)
        self.layers = nn.ModuleList(CrossCausalBlock(width, config.heads, 4, 0.0) for _ in range(config.layers))
        self.norm = LayerNorm(width)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.1)

    def forward(self, events: Events, depth: int | None = None) -> Tensor:
        """`depth`: the rows after so many layers, 0 for the tokens; None for those that predict the next event."""
        side, gap = torch.from_numpy(events.side), torch.from_numpy(events.gap)
        rows = self.items(events.ids) + self.gap(gap)
        for column, table in zip(side.T, self.side, strict=True):
            rows = rows + table(column)
        offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(events.lengths)]))
        mask = Mask()
        if events.candidates.any():
            counts = torch.from_numpy(events.candidates)
            mask = Mask(num_candidates=counts, group_size=1, prefix_len=torch.from_numpy(events.visible))
        where = AttentionRows(offsets, offsets, mask, None, None, None)
        for layer in self.layers[:depth]:
            rows = layer(rows, rows, where)
        return self.norm(rows) if depth is None else rows

    def items(self, ids: Ints) -> Tensor:
        """(N, F) int64 -> (N, D): what an event is, without its moment."""
        columns = zip(torch.from_numpy(ids).T, self.ids, strict=True)
        found = [table(column % len(table.weight)) for column, table in columns if isinstance(table, nn.Embedding)]
        return torch.stack(found).sum(0)

    def loss(self, events: Events, negatives: int, generator: torch.Generator) -> Tensor:
        """Sampled softmax of the next event of the same request against events of the batch, drawn as often as they
        occur; those that equal the next one do not count. 0 without any next event."""
        rows, last = np.arange(len(events.ids)), (events.starts + events.lengths - 1)[events.lengths > 0]
        here = torch.from_numpy(np.setdiff1d(rows, last, assume_unique=True))
        if not len(here):
            return self.norm.weight.sum() * 0
        ids = torch.from_numpy(events.ids)
        drawn = torch.randint(len(ids), (negatives,), generator=generator)
        states, items = self(events)[here], self.items(events.ids)
        right = (states * items[here + 1]).sum(1, keepdim=True)
        same = (ids[here + 1][:, None] == ids[drawn]).all(-1)
        wrong = (states @ items[drawn].T).masked_fill(same, -torch.inf)
        return -torch.cat([right, wrong], dim=1).log_softmax(1)[:, 0].mean()


@contextmanager
def one_thread() -> Iterator[None]:
    """These operators are too small to be shared: on a busy machine two threads wait for each other at every one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def train_states(events: Events, ids: list[int], side: list[int], config: StatesConfig, seed: int) -> NextEvent:
    """A frozen model of one direction. Same seed, same model; leaves torch's own random numbers as they were."""
    chosen, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NextEvent(ids, side, config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True)
    useful = np.flatnonzero(events.lengths > 1)
    for _ in range(config.steps if len(useful) else 0):
        batch = events.take(chosen.choice(useful, config.batch_requests), config.max_length)
        optimizer.zero_grad()
        model.loss(batch, config.negatives, generator).backward()
        optimizer.step()
    return model.requires_grad_(False).eval()


@torch.no_grad()
def states(model: NextEvent, events: Events, depth: int) -> Tensor:
    """(N, D) float32, after `depth` layers."""
    return model(events, depth) if len(events.ids) else torch.zeros(0, model.gap.embedding_dim)
